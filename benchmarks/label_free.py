"""How often label-free measures choose the worse of two settings, over the committed tables.

    python benchmarks/label_free.py

Nothing is trained: it reads notebooks/tables/collapse_*.csv (five seeds a setting) and family.csv (three
seeds a method), and writes notebooks/tables/label_free.csv and the table in docs/which_method.md.

A pair of settings counts where their kNN accuracies differ for sure: by more than the 95 % interval of
the difference of runs of one seed, or, where there is one seed, by 5 points. A measure fails on a pair
and a seed if it prefers the setting with the lower mean accuracy; a coin fails in 50 %. What a measure
costs is the mean accuracy of the best setting less that of the one which the measure prefers.
"""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from simlab.evaluate import diagnose
from simlab.runs import write_bytes
from simlab.stats import paired_differences

ROOT = Path(__file__).parent.parent
TABLES = ROOT / "notebooks" / "tables"
PAGE = ROOT / "docs" / "which_method.md"
SURE = 0.05  # difference of two accuracies of one seed each
# column: the measure in words, and whether more of it is preferred
MEASURES = {
    "loss": ("loss", False),
    "rank": ("RankMe: effective rank of z", True),
    "h_rank": ("effective rank of the encoder's features", True),
    "participation": ("participation ratio of z", True),
    "std_ratio": ("normalised std of z", True),
    "uniformity": ("uniformity of z", False),
    "duplicate_fraction": ("near-duplicates in z", False),
}
# a question, and the sweeps whose settings are compared with one another
QUESTIONS = {
    "hyperparameters": (("switches", "recipe"),),
    "the same, none collapsed": (("switches", "recipe"),),
    "augmentation": (("augment",), ("coloured",)),
    "method": (("methods",), ("cifar",), ("family",)),
}
# of the family: another optimizer, and what was trained on other images or with another encoder
LEFT_OUT = "upright|untrained|raw pixels|ViT|Muon|^mae$|^ijepa$"


def settings(sweeps: tuple[str, ...], only_healthy: bool = False) -> pd.DataFrame:
    """A row a run: setting, seed, kNN accuracy and the measures after its last epoch.

    Args:
        sweeps: Whose settings.
        only_healthy: Leave out the settings of which `diagnose` calls most runs collapsed.
    """
    if sweeps == ("family",):
        table = pd.read_csv(TABLES / "family.csv").rename(columns={"name": "setting"})
        table = table[~table["setting"].str.contains(LEFT_OUT)]
        return table.assign(knn=table["knn_20"])
    tables = [pd.read_csv(TABLES / f"collapse_{name}.csv", comment="#") for name in sweeps]
    if only_healthy:
        tables = [table[table["setting"].isin(healthy_settings(table))] for table in tables]
    runs = [table.groupby(["setting", "seed"], sort=False).tail(1) for table in tables]
    return pd.concat(runs).drop_duplicates(["loss", "rank", "knn", "seed"])  # a default is in each


def healthy_settings(table: pd.DataFrame) -> list[str]:
    """The settings of a sweep of which `diagnose` calls most runs healthy."""
    names = []
    for name, rows in table.groupby("setting"):
        kinds = [diagnose(history).kind for _, history in rows.groupby("seed")]
        if kinds.count("healthy") > len(kinds) / 2:
            names.append(str(name))
    return names


def sure_pairs(runs: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Pairs of settings, the better one first."""
    accuracy = runs.groupby("setting", sort=False)["knn"].mean()
    for one, other in itertools.combinations(accuracy.index, 2):
        better, worse = sorted((one, other), key=lambda name: -accuracy[name])
        pair = runs[runs["setting"].isin([better, worse])]
        if pair["seed"].nunique() == 1:
            is_sure = accuracy[better] - accuracy[worse] > SURE
        else:
            is_sure = paired_differences(pair, "setting", "knn", worse)["low"].item() > 0
        if is_sure:
            yield better, worse


def judged(question: str, column: str) -> dict | None:
    """Count a measure's failures; None where it is not in the tables, or no pair is sure."""
    failures = 0
    choices = 0
    lost: list[float] = []
    more_is_better = MEASURES[column][1]
    for sweeps in QUESTIONS[question]:
        runs = settings(sweeps, only_healthy="none collapsed" in question)
        if column not in runs:
            continue
        values = runs.pivot(index="seed", columns="setting", values=column)
        if not more_is_better:
            values = -values
        for better, worse in sure_pairs(runs):
            wrong = values[better] <= values[worse]
            failures += int(wrong.sum())
            choices += len(wrong)
        accuracy = runs.groupby("setting")["knn"].mean()
        preferred = values.idxmax(axis=1)
        lost += list(accuracy.max() - accuracy[preferred])
    if not choices:
        return None
    return {
        "question": question,
        "measure": MEASURES[column][0],
        "choices": choices,
        "failures": failures,
        "failure_rate": round(failures / choices, 3),
        "points_lost": round(100 * sum(lost) / len(lost), 1),
    }


def failure_table() -> pd.DataFrame:
    """A row for each question and measure."""
    rows = [
        judged(question, column)
        for question, column in itertools.product(QUESTIONS, MEASURES)
        if column != "loss" or question != "method"  # two methods' losses can't be compared
    ]
    return pd.DataFrame([row for row in rows if row])


def page_table(table: pd.DataFrame) -> str:
    """The failure rates in Markdown, a line a measure and two columns a question."""
    lines = ["| measure | " + " | ".join(f"{name}, wrong | costs" for name in QUESTIONS) + " |"]
    lines.append("|---|" + "---|---|" * len(QUESTIONS))
    for words, _ in MEASURES.values():
        cells = []
        for question in QUESTIONS:
            row = table[(table["measure"] == words) & (table["question"] == question)]
            if row.empty:
                cells += ["", ""]
                continue
            (one,) = row.itertuples()
            cells.append(f"{100 * one.failure_rate:.0f} % of {one.choices}")
            cells.append(f"{one.points_lost:.1f}")
        lines.append(f"| {words} | {' | '.join(cells)} |")
    return "\n".join(lines)


def with_table(text: str, table: pd.DataFrame) -> str:
    """The page with the table between its marks."""
    mark = r"(<!-- measured -->\n).*?(<!-- end of measured -->)"
    middle = f"\n{page_table(table)}\n\n"
    return re.sub(mark, lambda m: m[1] + middle + m[2], text, flags=re.DOTALL)


def main() -> None:
    table = failure_table()
    write_bytes(TABLES / "label_free.csv", table.to_csv(index=False).encode())
    page = PAGE.read_text(encoding="utf-8")
    write_bytes(PAGE, with_table(page, table).encode())
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
