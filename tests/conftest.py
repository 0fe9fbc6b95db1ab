"""Where the modules of notebooks/ and docs/ are found, the seed of each test, and which tests stay
together on one worker."""

import random
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "notebooks"), str(ROOT / "docs")]
# jsonschema would compile a grammar of addresses, three seconds in every worker; notebooks hold none
sys.modules.setdefault("rfc3987_syntax", None)
COLLECTED = pytest.StashKey[list[str]]()


def pytest_addoption(parser):
    parser.addoption(
        "--first", action="store_true", help="each test with its first parameters only"
    )


@pytest.hookimpl(tryfirst=True)  # before the fixtures, which draw as well
def pytest_runtest_setup(item):
    """Give every test random numbers of its own, the same whatever ran before it."""
    seed = zlib.crc32(item.nodeid.encode())
    random.seed(seed)
    np.random.seed(seed)
    if torch := sys.modules.get("torch"):  # tests that do without it need not wait for its import
        torch.manual_seed(seed)


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the marks in the same hook
def pytest_collection_modifyitems(config, items):
    """Tests of a file that share a fixture go to one worker, which makes it once; others anywhere.

    A mark of the test's own comes first. It takes effect with `--dist loadgroup`. What starts other
    processes goes first, else one worker ends with it while the others have nothing left to do.
    """
    config.stash[COLLECTED] = [item.nodeid for item in items]
    if config.getoption("--first"):
        keep_first(config, items)
    if hasattr(config, "workerinput"):
        items.sort(key=is_quick)
    for item in items:
        definitions = item._fixtureinfo.name2fixturedefs.values()
        shared = any(each[-1].scope == "module" for each in definitions)
        if shared and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.module.__name__))


@pytest.fixture(scope="session")
def collected_tests(request):
    """The nodes of all tests in the files that pytest was given, whichever of them are run."""
    return request.config.stash[COLLECTED]


def is_quick(item):
    """Whether a test starts no browser, kernels or training processes."""
    return not any(map(item.get_closest_marker, ("browser", "distributed", "notebook")))


def keep_first(config, items):
    """Of a test with several sets of parameters, leave out all but the first."""
    first = {}
    for item in items:
        first.setdefault(item.nodeid.partition("[")[0], item)
    others = [item for item in items if item not in first.values()]
    config.hook.pytest_deselected(items=others)
    items[:] = first.values()
