"""Change the package in many small ways and see whether the tests notice: a mutation check.

    python tests/tools/mutations.py --number 50 --seed 0 --out table.csv
    python tests/tools/mutations.py --suite old=../before/tests --suite new=tests --out table.csv

Each mutant (one change, see mutation_sites.py) lives in a copy of the checkout, in a temporary
folder. The test files that import its module run against it, the cheapest first, up to the first
failure: the mutant is killed. One that no test notices survives: either nothing that can be
observed changed (an equivalent mutant, to be told by reading), or a test is missing.

With several suites, a mutant killed by a test counts as killed in every other suite that runs the
same test (same text, with the helpers and fixtures that it uses); only the others are run again.
Both suites face the package of this checkout. Rows found in `--out` are not run again.
"""

from __future__ import annotations

import argparse
import importlib.util
import queue
import re
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mutation_sites import Mutation, sample
from mutation_table import MUTANT, Table, key, markdown
from suites import Package, Suite
from workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]
FAILURE = re.compile(r"^(?:FAILED|ERROR) (\S+::.+?|\S+\.py)(?: - .*)?$", re.MULTILINE)
DURATION = re.compile(r"^(\d+\.\d+)s (?:setup|call|teardown) +(\S+?)::", re.MULTILINE)
TEST_ID = re.compile(r"^\S+\.py::.+$", re.MULTILINE)


class Runner:
    """Runs the tests of one suite against mutants, in as many copies as there are jobs."""

    def __init__(self, suite: Suite, folder: Path, arguments: argparse.Namespace) -> None:
        self.suite = suite
        self.arguments = arguments
        self.selection = ["-m", arguments.marks] if arguments.marks else []
        if importlib.util.find_spec("hypothesis"):
            self.selection.append("--hypothesis-seed=0")
        self.workspaces: queue.Queue[Workspace] = queue.Queue()
        for job in range(arguments.jobs):
            self.workspaces.put(Workspace(suite, folder / f"{suite.name}-{job}"))
        self.seconds: dict[str, float] = {}  # of each test file, without a mutation
        self.deselected: list[str] = []

    def files_for(self, mutation: Mutation) -> list[str]:
        """Return the test files that import the mutated module, the cheapest first."""
        modules = {
            path.relative_to(ROOT).as_posix(): name
            for name, path in self.suite.package.files.items()
        }
        paths = self.suite.files_for(modules[mutation.path], self.arguments.reach)
        names = [path.relative_to(self.suite.root).as_posix() for path in paths]
        return sorted(names, key=lambda name: (self.seconds.get(name, 0.0), name))

    def same_tests(self) -> set[str]:
        """Return the texts of all tests that the suite runs with these marks."""
        workspace = self.workspaces.get()
        _, output = workspace.pytest("--collect-only", *self.selection, self.suite.folder.name)
        self.workspaces.put(workspace)
        ids = TEST_ID.findall(output)
        if not ids:
            raise RuntimeError(f"{self.suite.name}: no test could be collected:\n{output[-2000:]}")
        return {text for text in map(self.suite.fingerprint, ids) if text is not None}

    def measure(self, mutations: list[Mutation]) -> None:
        """Run the tests once without a mutation: their times, and what fails anyhow."""
        files = sorted({name for mutation in mutations for name in self.files_for(mutation)})
        if not files:
            return
        print(f"{self.suite.name}: {len(files)} test files without a mutation ...", flush=True)
        workspace = self.workspaces.get()
        durations = ["--durations=0", "--durations-min=0"]
        status, output = workspace.pytest(*durations, *self.selection, *files)
        self.workspaces.put(workspace)
        if status not in (0, 1, 5):  # passed, some failed, none selected
            raise RuntimeError(f"{self.suite.name}: its tests cannot run:\n{output[-2000:]}")
        self.seconds = dict.fromkeys(files, 0.0)
        for seconds, name in DURATION.findall(output):
            self.seconds[name] += float(seconds)
        failing = FAILURE.findall(output)
        self.deselected = [f"--deselect={test}" for test in failing]
        print(f"{self.suite.name}: {output.strip().splitlines()[-1]}")
        for test in failing:
            print(f"{self.suite.name}: {test} fails without a mutation and is left out")

    def run(self, mutation: Mutation) -> dict[str, str]:
        """Return verdict, first failing test and seconds of a mutant."""
        source = (ROOT / mutation.path).read_bytes()
        files = self.files_for(mutation)
        if not files:
            return {"verdict": "no test", "test": "", "seconds": "0"}
        usual = sum(self.seconds.get(name, 0.0) for name in files)
        timeout = max(self.arguments.timeout, 60 + 3 * usual)
        workspace = self.workspaces.get()
        began = time.monotonic()
        workspace.write(mutation.path, mutation.apply(source))
        try:
            options = ["-x", *self.selection, *self.deselected]
            status, output = workspace.pytest(*options, *files, timeout=timeout)
        finally:
            workspace.write(mutation.path, source)
            self.workspaces.put(workspace)
        verdict = {0: "survived", 5: "no test", None: "timeout"}.get(status, "killed")
        failures = FAILURE.findall(output) or ["(the tests cannot start)"]
        return {
            "verdict": verdict,
            "test": failures[0] if verdict == "killed" else "",
            "seconds": f"{time.monotonic() - began:.0f}",
        }


def check(
    runner: Runner,
    mutants: dict[int, Mutation],
    rows: dict[int, dict[str, str]],
    table: Table,
    suites: dict[str, Suite],
) -> None:
    """Fill the table with the verdicts of one suite.

    Args:
        runner: of the suite.
        mutants: the mutations by their numbers.
        rows: what the table says of each mutant, whatever the suite.
        table: where the verdicts go; what it knows already is not run again.
        suites: all suites, to recognise a test of one in another.
    """
    wanted = {"suite": runner.suite.name, "marks": runner.arguments.marks}
    done = {key(row) for row in table.rows}
    waiting = [number for number in mutants if key(rows[number] | wanted) not in done]
    by_others = {
        number: [
            (name, test)
            for name, test in table.killers(rows[number])
            if name in suites and name != runner.suite.name
        ]
        for number in waiting
    }
    same = runner.same_tests() if any(by_others.values()) else set()
    for number, killers in by_others.items():
        for name, test in killers:
            if number in waiting and suites[name].fingerprint(test) in same:
                waiting.remove(number)
                verdict = {"verdict": "killed", "test": test, "seconds": "0"}
                table.add(rows[number] | wanted | verdict)
    runner.measure([mutants[number] for number in waiting])
    with ThreadPoolExecutor(runner.arguments.jobs) as pool:
        results = pool.map(runner.run, [mutants[number] for number in waiting])
        for number, result in zip(waiting, results, strict=True):
            table.add(rows[number] | wanted | result)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--number", type=int, default=50, help="how many mutants")
    parser.add_argument("--seed", type=int, default=0, help="which mutants")
    parser.add_argument(
        "--suite",
        action="append",
        metavar="NAME=FOLDER",
        help="a folder of tests in its checkout; default: this one",
    )
    parser.add_argument("--marks", default="", help="pytest's -m; default: the project's own")
    parser.add_argument(
        "--reach",
        type=int,
        default=1,
        help="through how many imports a test file may know the module",
    )
    parser.add_argument("--only", type=int, nargs="+", help="the numbers of some mutants")
    parser.add_argument("--list", action="store_true", help="only print the mutants")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for a mutant, at least")
    parser.add_argument("--out", type=Path, help="table of results (CSV), continued if it exists")
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
    suites = {}
    for entry in arguments.suite or [f"tests={ROOT / 'tests'}"]:
        name, _, tests = entry.partition("=")
        suites[name] = Suite(name, Path(tests), package)
    table = Table(arguments.out)
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        for suite in suites.values():
            runner = Runner(suite, Path(folder), arguments)
            check(runner, mutations, described, table, suites)
    print(markdown(table.rows))


if __name__ == "__main__":
    main()
