"""Where the notebooks' own modules are found, and which tests stay together on one worker."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "notebooks"))
# jsonschema would compile a grammar of addresses, three seconds in every worker; notebooks hold none
sys.modules.setdefault("rfc3987_syntax", None)


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the marks in the same hook
def pytest_collection_modifyitems(items):
    """Tests of a file that share a fixture go to one worker, which makes it once; others anywhere.

    A mark of the test's own comes first. It takes effect with `--dist loadgroup`.
    """
    for item in items:
        definitions = item._fixtureinfo.name2fixturedefs.values()
        shared = any(each[-1].scope == "module" for each in definitions)
        if shared and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.module.__name__))
