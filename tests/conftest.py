"""Where the modules of notebooks/ and docs/ are found, and which tests stay together on one worker."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "notebooks"), str(ROOT / "docs")]
# jsonschema would compile a grammar of addresses, three seconds in every worker; notebooks hold none
sys.modules.setdefault("rfc3987_syntax", None)


def pytest_collection_modifyitems(items):
    """Tests of a file that share a fixture go to one worker, which makes it once; others anywhere.

    A mark of the test's own comes first. It takes effect with `--dist loadgroup`.
    """
    for item in items:
        definitions = item._fixtureinfo.name2fixturedefs.values()
        shared = any(each[-1].scope == "module" for each in definitions)
        if shared and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.module.__name__))
