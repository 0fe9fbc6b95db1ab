"""The field's words in code, messages and prose: what nobody else says is not said here.

The right-hand side of BANNED says what to write instead. Names are checked apart: a variable that
is called by an adjective or a participle where a noun exists tells its reader nothing, in tests
and benchmarks as well.
"""

import ast
import io
import json
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def every_file_of(*folders):
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return pytest.mark.parametrize("path", paths, ids=lambda p: str(p.relative_to(ROOT)))


OF_READERS = ("simlab", "simlab_course", "notebooks")
every_file = every_file_of(*OF_READERS)
every_file_with_names = every_file_of(*OF_READERS, "tests", "benchmarks")
TEXTS = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "data/README.md")),
        *(ROOT / "docs").glob("*.md"),
        *(p for p in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts),
    ]
)
every_text = pytest.mark.parametrize("path", TEXTS, ids=lambda p: str(p.relative_to(ROOT)))

BANNED = {
    r"pictures?": "image, sample",
    r"exams?": "evaluation, protocol",
    r"distort\w*": "augmentation, to augment",
    r"yardstick": "reference, upper bound",
    r"(comes?|came) along( with)?": "bundled, included",
    r"so-manieth": "every n-th",
    r"an own": "its own, an independent",
    r"beforehand": "precomputed, cached",
    r"data[- ]sets?": "dataset",
    r"guess(es|ed)?": "prediction",
    r"found again": "cached, reused",
    r"goes on after": "resumes after",
    r"CKA and its kin": "CKA and related measures",
    r"strangers": "unrelated networks",
    r"is alive|keeps? \w+ alive": "trains stably, prevents collapse",
    r"no finite number": "NaN or infinite",
    r"go gently|spoiled": "contaminated",
    r"by heart": "overfit, memorise",
    r"said to be": "labelled, predicted",
    r"twins?": "near-duplicates (but: the untrained twin of a network)",
    r"spread of \$?z\$?": "normalised std of z",
    r"predictor's rate|others' rate": "learning rate",
    r"kinds? of cloth\w*": "category, class",
    r"the louder": "weighted by similarity",
    r"every second time": "more than half the time, half of",
    r"places? of their own": "cluster, separate",
    r"straight line on": "linear probe",
    r"begin anew": "start over",
    r"gives? the labels away|labels away": "labels are provided",
    r"in the eyes of": "according to",
    r"by trying": "finite differences",
    r"looks whether": "checks whether",
}
# A word that is allowed in a phrase which the field uses.
ALLOWED = re.compile(r"untrained twin|Barlow Twins|BarlowTwins|barlow_twins|barlow-twins", re.I)

VARIABLES = {"own", "found", "told", "part", "some", "whole", "which", "few", "gone", "kept"}
VARIABLES |= {"shown", "asked", "picture", "pictures", "known"}


def words_of(source):
    """Comments, docstrings and messages of a file, as (line, text)."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            yield token.start[0], token.string


def banned_in(text):
    text = ALLOWED.sub("", re.sub(r"\s+", " ", text))
    for pattern, better in BANNED.items():
        match = re.search(rf"\b({pattern})\b", text, re.IGNORECASE)
        if match:
            yield f"{match[0]!r}: write {better}"


def names_bound_in(source):
    """Variables, arguments, functions and classes that a file names, with their lines."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name


def string_literals(source):
    """The text of the strings in a cell, f-strings included; lines for Jupyter alone are left out."""
    code = re.sub(r"^\s*[!%].*$", "pass", source, flags=re.MULTILINE)
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def prose_of(path):
    """Prose of a Markdown file or notebook: its Markdown cells, and what its figures are called.

    The latter are the strings in code cells (titles, labels, text alternatives) and the text
    alternatives of the outputs.
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        yield path.name, text
        return
    for number, cell in enumerate(json.loads(text)["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield f"cell {number}", source
            continue
        yield from ((f"string in cell {number}", value) for value in string_literals(source))
        for output in cell.get("outputs", []):
            alternative = output.get("metadata", {}).get("image/png", {}).get("alt", "")
            yield f"figure of cell {number}", "".join(alternative)


@every_text
def test_prose_has_the_fields_words(path):
    problems = [f"{place}: {p}" for place, text in prose_of(path) for p in banned_in(text)]
    assert not problems, "\n".join(problems)


def test_a_banned_word_is_seen_in_prose_and_in_figures(tmp_path):
    code = 'figures.show(figure, alt=f"{n} pictures")\nexams = 1'
    cells = [
        {"cell_type": "markdown", "source": ["The usual\n", "exam."]},
        {
            "cell_type": "code",
            "source": code,
            "outputs": [{"metadata": {"image/png": {"alt": "a\ndata set"}}}],
        },
    ]
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    places = [place for place, text in prose_of(path) if list(banned_in(text))]
    assert places == ["cell 0", "string in cell 1", "figure of cell 1"]


@every_file
def test_words_are_the_fields(path):
    source = path.read_text(encoding="utf-8")
    problems = [f"{line}: {p}" for line, text in words_of(source) for p in banned_in(text)]
    assert not problems, "\n".join(problems)


@every_file_with_names
def test_names_are_nouns_of_the_field(path):
    problems = []
    for line, name in names_bound_in(path.read_text(encoding="utf-8")):
        pieces = set(re.findall(r"[a-z]+", name.lower()))
        if name.lstrip("_") in VARIABLES or pieces & {"picture", "pictures", "exam", "exams"}:
            problems.append(f"{line}: {name}")
    assert not problems, "\n".join(problems)


def test_a_banned_word_is_seen_in_all_three():
    source = 'def f(own):\n    """Ask a picture."""\n    raise ValueError("an exam")  # by heart\n'
    texts = [p for _, text in words_of(source) for p in banned_in(text)]
    assert len(texts) == 3 and "write image" in texts[0]
    assert ("own" in dict((n, i) for i, n in names_bound_in(source))) and not list(
        banned_in("Barlow Twins of an untrained twin")
    )
