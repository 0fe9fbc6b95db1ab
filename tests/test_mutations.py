"""The mutation check in tests/tools, on a small package of its own."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long  # starts pytest twenty times
TOOLS = Path(__file__).parent / "tools"
PROJECT = '[tool.hatch.build.targets.wheel]\npackages = ["shop"]\n'
PRICES = '''"""Prices."""


def reduced(price, share=0.5):
    """Half of it, if it is more than 10."""
    if price > 10:
        return price * share
    return price


def unused(price):
    return price + 1
'''
TESTS = """import pytest

from shop import reduced


@pytest.mark.{mark}
def test_more_than_ten_is_reduced():
    assert reduced(20) == 10


def test_ten_is_not_reduced():
    assert reduced(10) == 10 and reduced({other}) == {other}
"""


def checkout(folder: Path, mark: str = "first", other: int = 1) -> Path:
    """A checkout with a package whose names are handed on, its tests and the tools."""
    (folder / "shop/runs").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "shop/__init__.py").write_text("from .runs.prices import reduced\n")
    (folder / "shop/runs/__init__.py").write_text("")
    (folder / "shop/runs/prices.py").write_text(PRICES)
    (folder / "runs").mkdir()
    (folder / "runs/large.bin").write_bytes(b"")
    shutil.copytree(TOOLS, folder / "tests/tools", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tests/test_prices.py").write_text(TESTS.format(mark=mark, other=other))
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """All mutants of the package against two suites that differ in one test and in a mark."""
    old = checkout(tmp_path_factory.mktemp("old"))
    new = checkout(tmp_path_factory.mktemp("new"), mark="second", other=2)
    table = old / "table.csv"
    command = [sys.executable, "tests/tools/mutations.py", "--number", "12", "--out", str(table)]
    command += ["--suite", f"old={old / 'tests'}", "--suite", f"new={new / 'tests'}"]
    # pytest starts twenty times: without the plugins that the shop's tests do not use
    plugins = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "_hypothesis_pytestplugin"}
    environment = os.environ | plugins
    done = subprocess.run(command, cwd=old, env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stdout + done.stderr
    assert (old / "shop/runs/prices.py").read_text() == PRICES
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def verdicts(results: list[dict[str, str]], suite: str) -> dict[str, str]:
    return {row["after"]: row["verdict"] for row in results if row["suite"] == suite}


def test_what_the_tests_use_is_killed_and_the_rest_survives(results):
    expected = {
        "if price >= 10:": "killed",
        "if not (price > 10):": "killed",
        "if price > 11:": "survived",
        "def reduced(price, share=1.0):": "killed",
        "return price / share": "killed",
        "return None": "survived",  # the last of its kind: in the function that no test calls
        "return price - 1": "survived",
        "return price + 2": "survived",
    }
    assert verdicts(results, "old") == expected
    assert verdicts(results, "new") == expected


def test_what_a_test_kills_the_same_test_kills_in_another_suite(results):
    reduced = [row for row in results if row["after"] == "return price / share"]
    assert [row["test"] for row in reduced] == [
        "tests/test_prices.py::test_more_than_ten_is_reduced"
    ] * 2
    assert [row["seconds"] == "0" for row in reduced] == [False, True]


def test_a_changed_test_is_run_again(results):
    boundary = [row for row in results if row["after"] == "if price >= 10:"]
    assert [row["test"] for row in boundary] == [
        "tests/test_prices.py::test_ten_is_not_reduced"
    ] * 2
    assert all(row["seconds"] != "0" for row in boundary)
