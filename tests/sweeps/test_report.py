"""The page of a sweep: what it compares, and that its numbers are those of the table."""

import html.parser
import json

import numpy as np
import pandas as pd
import pytest

from simlab import cli
from simlab.stats import interval_table, paired_differences
from simlab.sweeps import collect, report, sweep

GRID = {"lr": [0.01, 0.1, 1.0], "method": ["simsiam", "byol"], "seed": range(3)}


@pytest.fixture
def finished(tmp_path, capsys):
    """A sweep whose points were written by hand: nothing is trained here."""
    out = tmp_path / "first <sweep>"
    table = sweep("pretrain", GRID, out, dry_run=True)
    capsys.readouterr()
    generator = np.random.default_rng(0)
    for row in table.itertuples():
        folder = out / "points" / row.point
        folder.mkdir()
        knn = 0.3 + 0.1 * row.lr + 0.01 * row.seed + generator.normal(scale=0.002)
        (folder / "metrics.json").write_text(json.dumps({"knn": knn, "loss": -knn}))
        (folder / "status.json").write_text(json.dumps({"status": "done", "duration": 1.0}))
    return out


class Page(html.parser.HTMLParser):
    """The tags, texts and targets of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.images, self.links, self.texts = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.images += [dict(attributes)] if tag == "img" else []
        self.links += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.texts.append(data)


@pytest.mark.long
def test_the_page_opens_alone_and_has_a_figure_in_words(finished):
    path = report(finished)
    assert path == finished / "report" / "index.html"
    text = path.read_text()
    page = Page(text)
    assert page.tags.count("main") == 1 and page.tags.count("table") == 3
    assert page.links and all((path.parent / target).stat().st_size > 100 for target in page.links)
    (figure,) = page.images
    assert (
        "3 seeds" in figure["alt"]
        and "<sweep>" not in text
        and "first <sweep>: knn" in ("".join(page.texts))
    )
    names = {"index.html", "table.csv", "means.csv", "differences.csv", "figure.png", "figure.pdf"}
    assert {p.name for p in path.parent.iterdir()} == names | {"configuration.json", "commands.sh"}


@pytest.mark.long
def test_its_numbers_are_those_of_the_statistics(finished):
    folder = report(finished).parent
    table = collect(finished)
    means = pd.read_csv(folder / "means.csv")
    alone = interval_table(table[table["method"] == "byol"], "lr", "knn")
    rows = means[means["others"] == "method=byol"]
    assert list(rows["mean"]) == pytest.approx(list(alone["mean"]))
    assert list(rows["high"]) == pytest.approx(list(alone["high"]))
    wanted = paired_differences(table, "lr", "knn", 0.01, group=["method"], holm=True)
    stored = pd.read_csv(folder / "differences.csv")
    for column in ("mean", "low", "high", "p_holm"):
        assert list(stored[column]) == pytest.approx(list(wanted[column]))
    assert len(pd.read_csv(folder / "table.csv")) == 18


@pytest.mark.long
def test_what_made_it_is_beside_it(finished, capsys):
    sweep("pretrain", {"seed": 7}, finished, dry_run=True)  # a second command, not run yet
    folder = report(finished, x="method", base="byol", y="loss").parent
    commands = (folder / "commands.sh").read_text().splitlines()
    assert len(commands) == 2 and commands[0].startswith("simlab sweep pretrain lr=0.01,0.1,1.0 ")
    configuration = json.loads((folder / "configuration.json").read_text())
    assert configuration["defaults"]["batch_size"] == 64 and "torch" in configuration["versions"]
    page = (folder / "index.html").read_text()
    assert "18 of 19 points are done" in page and "differences from method = byol" in page
    assert set(pd.read_csv(folder / "differences.csv")["method"]) == {"simsiam"}


def test_seeds_alone_are_one_mean(tmp_path, finished):
    for name in list((finished / "points").iterdir()):
        if "lr=0.01,method=byol" not in name.name:
            (name / "status.json").unlink()
    plan = json.loads((finished / "sweep.json").read_text())
    plan["points"] = {n: p for n, p in plan["points"].items() if "lr=0.01,method=byol" in n}
    (finished / "sweep.json").write_text(json.dumps(plan))
    folder = report(finished, out=tmp_path / "page").parent
    (row,) = pd.read_csv(folder / "means.csv").itertuples()
    assert row.n == 3 and row.data == "fashion-scattered"
    assert "no two values share a seed" in (folder / "index.html").read_text()


@pytest.mark.parametrize(
    "words, says",
    [
        (["--y", "knm"], "did you mean 'knn'"),
        (["--x", "epochs"], "'epochs' was not varied"),
        (["--base", "0.2"], "base='0.2': lr never has this value"),
    ],
)
def test_what_the_sweep_does_not_have_is_refused(finished, words, says, capsys):
    assert cli.main(["report", str(finished), *words]) == 2
    assert says in capsys.readouterr().err
    assert not (finished / "report").exists()


def test_a_folder_without_a_sweep_or_without_a_finished_point_is_refused(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="holds no sweep"):
        report(tmp_path)
    sweep("pretrain", {"seed": [0, 1]}, tmp_path / "out", dry_run=True)
    with pytest.raises(ValueError, match="no point is done"):
        report(tmp_path / "out")
