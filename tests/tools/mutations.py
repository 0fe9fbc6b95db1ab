"""Change the package in many small ways and see whether the tests notice: a mutation check.

    python tests/tools/mutations.py --number 50 --seed 0 --out table.csv
    python tests/tools/mutations.py --suite old=../before/tests --suite new=tests --out table.csv

Each mutant (one change, see mutation_sites.py) lives in a copy of the checkout, in a temporary
folder. The test files that import its module run against it, the cheapest first, up to the first
failure: the mutant is killed. One that no test notices survives: either nothing that can be
observed changed (an equivalent mutant, to be told by reading), or a test is missing.

With several suites, what a test does to a mutant holds for the same test of the next suite (same
text, with the helpers and fixtures that it uses): only tests that are new or changed are run.
All suites face the package of this checkout. Rows found in `--out` are not run again.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import queue
import re
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

from mutation_sites import Mutation, sample
from mutation_table import MUTANT, Table, markdown
from suites import Package, Suite, without_parameters
from workspace import Workspace, preload

ROOT = Path(__file__).resolve().parents[2]
FAILURE = re.compile(r"^(?:FAILED|ERROR) (\S+::.+?|\S+\.py)(?: - .*)?$", re.MULTILINE)
DURATION = re.compile(r"^(\d+\.\d+)s (?:setup|call|teardown) +(\S+::.+?)$", re.MULTILINE)
TEST_ID = re.compile(r"^\S+\.py::.+$", re.MULTILINE)


class Runner:
    """Runs the tests of one suite against mutants, in as many copies as there are jobs.

    What is given to pytest is a list of tests: files, or ids `tests/test_file.py::test_name`.
    """

    def __init__(self, suite: Suite, folder: Path, arguments: argparse.Namespace) -> None:
        self.suite = suite
        self.arguments = arguments
        self.selection = ["-m", arguments.marks] if arguments.marks else []
        if importlib.util.find_spec("hypothesis"):
            self.selection.append("--hypothesis-seed=0")
        self.workspaces: queue.Queue[Workspace] = queue.Queue()
        for job in range(arguments.jobs):
            self.workspaces.put(Workspace(suite, folder / f"{suite.name}-{job}"))
        self.usual: dict[str, list] = {}  # test -> its seconds and what fails, without a mutation

    def pytest(self, *options: str, timeout: float | None = None) -> tuple[int | None, str]:
        """Run pytest in one of the copies, as it is."""
        workspace = self.workspaces.get()
        try:
            return workspace.pytest(*options, *self.selection, timeout=timeout)
        finally:
            self.workspaces.put(workspace)

    @cached_property
    def texts(self) -> dict[str, str]:
        """The ids of all tests that run with these marks, each with its text."""
        _, output = self.pytest("--collect-only", self.suite.folder.name)
        ids = sorted({without_parameters(test) for test in TEST_ID.findall(output)})
        if not ids:
            raise RuntimeError(f"{self.suite.name}: no test could be collected:\n{output[-2000:]}")
        return {test: self.suite.fingerprints[test] for test in ids}

    def tests_for(self, mutation: Mutation, passed: set[str]) -> list[str]:
        """Return the tests to run against a mutant.

        Args:
            mutation: the tests are of the files that import its module.
            passed: the texts of tests that it is known to pass.
        """
        modules = {path: name for name, path in self.suite.package.files.items()}
        paths = self.suite.files_for(modules[ROOT / mutation.path], self.arguments.reach)
        files = [path.relative_to(self.suite.root).as_posix() for path in paths]
        if not passed:
            return files
        others = [test for test, text in self.texts.items() if text not in passed]
        return [test for test in others if test.split("::")[0] in files]

    def measure(self, tests: set[str], table: Table) -> None:
        """Run tests without a mutation: how long they take, and what fails anyhow."""
        name = f"{self.suite.name}: {self.arguments.marks}"
        self.usual = dict(table.usual.get(name, {}))
        new = sorted(tests - self.usual.keys())
        if new:
            print(f"{self.suite.name}: {len(new)} files or tests without a mutation", flush=True)
            status, output = self.pytest("--durations=0", "--durations-min=0", *new)
            if status not in (0, 1, 5):  # passed, some failed, none selected
                raise RuntimeError(f"{self.suite.name}: tests cannot run:\n{output[-2000:]}")
            print(f"{self.suite.name}: {output.strip().splitlines()[-1]}")
            self.usual |= {test: [0.0, []] for test in new}
            for seconds, test in DURATION.findall(output):
                self.usual[given_as(test, new)][0] += float(seconds)
            for test in FAILURE.findall(output):
                self.usual[given_as(test, new)][1].append(test)
            table.keep_usual(name, self.usual)
        for test in sorted(tests):
            for failing in self.usual[test][1]:
                print(f"{self.suite.name}: {failing} fails without a mutation and is left out")

    def cheapest_first(self, tests: list[str]) -> list[str]:
        """Order the files by their seconds; tests of one file stay together, for its fixtures."""
        seconds: Counter[str] = Counter()
        for test in tests:
            seconds[test.split("::")[0]] += self.usual[test][0]
        return sorted(tests, key=lambda test: (seconds[test.split("::")[0]], test.split("::")[0]))

    def run(self, mutation: Mutation, tests: list[str]) -> dict[str, str]:
        """Return verdict, first failing test and seconds of a mutant."""
        if not tests:
            return {"verdict": "no test", "test": "", "seconds": "0"}
        source = (ROOT / mutation.path).read_bytes()
        failing = [f"--deselect={name}" for test in tests for name in self.usual[test][1]]
        usual = sum(self.usual[test][0] for test in tests)
        timeout = max(self.arguments.timeout, 60 + 3 * usual)
        options = ["-x", *self.selection, *failing, *self.cheapest_first(tests)]
        workspace = self.workspaces.get()
        began = time.monotonic()
        workspace.write(mutation.path, mutation.apply(source))
        try:
            status, output = workspace.pytest(*options, timeout=timeout)
        finally:
            workspace.write(mutation.path, source)
            self.workspaces.put(workspace)
        verdict = {0: "survived", 5: "no test", None: "timeout"}.get(status, "killed")
        failures = FAILURE.findall(output)
        if verdict == "killed" and not failures:
            print(output[-2000:])
            failures = [f"(pytest ends with status {status})"]
        seconds = f"{time.monotonic() - began:.1f}"
        return {"verdict": verdict, "test": " ".join(failures[:1]), "seconds": seconds}


def given_as(test: str, arguments: list[str]) -> str:
    """Return the argument, a file or an id, through which pytest ran a test."""
    file = test.split("::")[0]
    return file if file in arguments else without_parameters(test)


def check(
    runner: Runner,
    others: list[Runner],
    mutants: dict[int, Mutation],
    rows: dict[int, dict[str, str]],
    table: Table,
) -> None:
    """Fill the table with the verdicts of one suite.

    Args:
        runner: of the suite.
        others: of the suites that were run before: what they say of a test holds for the same one.
        mutants: the mutations by their numbers.
        rows: what the table says of each mutant, whatever the suite.
        table: where the verdicts go; what it knows already is not run again.
    """
    wanted = {"suite": runner.suite.name, "marks": runner.arguments.marks}
    waiting: dict[int, list[str]] = {}
    for number, mutation in mutants.items():
        row = rows[number] | wanted
        if table.result(row):
            continue
        passed: set[str] = set()
        killer = ""
        for other in others:
            result = table.result(row | {"suite": other.suite.name})
            if result and result["verdict"] == "survived":
                passed |= set(other.texts.values())
            elif result and result["verdict"] == "killed":
                text = other.suite.fingerprints.get(without_parameters(result["test"]))
                killer = result["test"] if text in runner.texts.values() else killer
        tests = runner.tests_for(mutation, passed)
        if killer or passed and not tests:
            verdict = "killed" if killer else "survived"
            table.add(row | {"verdict": verdict, "test": killer, "seconds": "0"})
        else:
            waiting[number] = tests
    runner.measure({test for tests in waiting.values() for test in tests}, table)
    with ThreadPoolExecutor(runner.arguments.jobs) as pool:
        results = pool.map(runner.run, (mutants[number] for number in waiting), waiting.values())
        for number, result in zip(waiting, results, strict=True):
            table.add(rows[number] | wanted | result)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--number", type=int, default=50, help="how many mutants")
    add("--seed", type=int, default=0, help="which mutants")
    add("--suite", action="append", metavar="NAME=FOLDER", help="tests; default: this checkout's")
    add("--marks", default="", help="pytest's -m; default: the project's own")
    add("--reach", type=int, default=1, help="through how many imports tests may know a module")
    add("--only", type=int, nargs="+", help="the numbers of some mutants")
    add("--list", action="store_true", help="only print the mutants")
    add("--jobs", type=int, default=1, help="mutants at a time")
    add("--timeout", type=float, default=600, help="seconds for a mutant, at least")
    add("--out", type=Path, help="table of results (CSV), continued if it exists")
    return parser.parse_args()


def describe(number: int, mutation: Mutation) -> dict[str, str]:
    """Return what the table says of a mutant, whatever the suite."""
    before, after = mutation.lines((ROOT / mutation.path).read_bytes())
    values = [str(number), f"{mutation.path}:{mutation.line}", mutation.kind, before, after]
    return dict(zip(["number", *MUTANT], values, strict=True))


def main() -> None:
    arguments = parse_arguments()
    package = Package(ROOT)
    drawn = sample(ROOT, list(package.files.values()), arguments.number, arguments.seed)
    mutations = dict(enumerate(drawn, start=1))
    if arguments.only:
        mutations = {number: mutations[number] for number in arguments.only}
    described = {number: describe(number, mutation) for number, mutation in mutations.items()}
    for row in described.values():
        print(f"{row['number']:>3} {row['place']} {row['kind']}")
        print(f"    - {row['before']}\n    + {row['after']}")
    if arguments.list:
        return
    suites = []
    for entry in arguments.suite or [f"tests={ROOT / 'tests'}"]:
        name, _, tests = entry.partition("=")
        suites.append(Suite(name, Path(tests), package))
    table = Table(arguments.out)
    os.environ["OMP_NUM_THREADS"] = "1"
    preload(*suites)
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        runners = [Runner(suite, Path(folder), arguments) for suite in suites]
        for place, runner in enumerate(runners):
            check(runner, runners[:place], mutations, described, table)
    print(markdown(table.rows))


if __name__ == "__main__":
    main()
