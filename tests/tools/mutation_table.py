"""Keep the results of a mutation check in a CSV file, and show them as a Markdown table."""

from __future__ import annotations

import csv
import json
from pathlib import Path

MUTANT = ["place", "kind", "before", "after"]
COLUMNS = ["number", *MUTANT, "suite", "marks", "verdict", "test", "seconds"]


class Table:
    """The results so far, in memory and in a file that grows with each of them."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.rows: list[dict[str, str]] = []
        if path and path.exists():
            with path.open(newline="") as file:
                self.rows = list(csv.DictReader(file))
            print(f"{path}: {len(self.rows)} results are there already and are not run again")
        self.usual_path = path and path.with_suffix(".usual.json")
        self.usual: dict[str, dict[str, list]] = {}  # suite and marks -> file -> seconds, failing
        if self.usual_path and self.usual_path.exists():
            self.usual = json.loads(self.usual_path.read_text())

    def add(self, row: dict[str, str]) -> None:
        print(
            f"{row['number']:>3} {row['suite']}: {row['verdict']} {row['test']} {row['seconds']} s",
            flush=True,
        )
        self.rows.append(row)
        if self.path:
            is_new = not self.path.exists()
            with self.path.open("a", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                if is_new:
                    writer.writeheader()
                writer.writerow(row)

    def keep_usual(self, name: str, usual: dict[str, list]) -> None:
        """Keep how long a suite's files take without a mutation, and what fails in them anyhow."""
        self.usual[name] = usual
        if self.usual_path:
            self.usual_path.write_text(json.dumps(self.usual, indent=1) + "\n")

    def result(self, wanted: dict[str, str]) -> dict[str, str] | None:
        """Return what is known of a mutant, a suite and its marks."""
        for row in self.rows:
            if all(row[name] == wanted[name] for name in [*MUTANT, "suite", "marks"]):
                return row
        return None


def markdown(rows: list[dict[str, str]]) -> str:
    """Return the results as a table, a line for each mutant, and the totals of each suite.

    Of several results of a suite (with different marks) a kill decides.
    """
    suites = list(dict.fromkeys(row["suite"] for row in rows))
    mutants: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        mutant = mutants.setdefault(tuple(row[name] for name in MUTANT), row | {"test": ""})
        if mutant.get(row["suite"]) not in ("killed", "timeout"):
            mutant[row["suite"]] = row["verdict"]
        mutant["test"] = mutant["test"] or row["test"]
    lines = [
        f"| | place | change | {' | '.join(suites)} | first failing test |",
        "|---" * (4 + len(suites)) + "|",
    ]
    for mutant in sorted(mutants.values(), key=lambda mutant: int(mutant["number"])):
        change = f"{mutant['kind']}: `{mutant['before']}` → `{mutant['after']}`"
        verdicts = [mutant.get(suite, "") for suite in suites]
        cells = [mutant["number"], mutant["place"], change, *verdicts, mutant["test"]]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    for suite in suites:
        verdicts = [mutant.get(suite, "not run") for mutant in mutants.values()]
        counts = [f"{verdicts.count(name)} {name}" for name in sorted(set(verdicts))]
        lines.append(f"\n{suite}: {', '.join(counts)}")
    return "\n".join(lines)
