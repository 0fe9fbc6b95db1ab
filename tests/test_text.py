"""What is written: every link leads somewhere, every word is one, every term has its entry."""

import dataclasses
import functools
import re
from pathlib import Path

import nbformat
import pytest
from spellchecker import SpellChecker

from simlab.config import RECIPES, PretrainConfig
from simlab.methods import SimCLR, SimSiam, parse_method

ROOT = Path(__file__).parent.parent
TEXTS = sorted([
    *ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "data").glob("*.md"),
    *(p for p in (ROOT / "notebooks").rglob("*.ipynb") if "/." not in str(p)),
])  # fmt: skip
# words that the dictionary lacks: British spellings, names, terms
LIST = (Path(__file__).parent / "words.txt").read_text(encoding="utf-8").split()
WORDS = {word.lower() for word in LIST}
every_text = pytest.mark.parametrize("path", TEXTS, ids=lambda p: str(p.relative_to(ROOT)))


def markdown_of(path):
    """The text of a Markdown file, or of a notebook's text cells and figures."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    parts = []
    for cell in nbformat.read(path, as_version=4).cells:
        parts += [cell.source] if cell.cell_type == "markdown" else []
        for output in cell.get("outputs", []):
            parts.append(output.get("metadata", {}).get("image/png", {}).get("alt", ""))
    return "\n\n".join(parts)


def without_code(text):
    return re.sub(r"```.*?```|`[^`]*`|^    .*?$", " ", text, flags=re.DOTALL | re.MULTILINE)


def anchors_of(path):
    """The anchors that GitHub and Jupyter make of headings, in lower case, and those set by hand."""
    text = markdown_of(path)
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", head).strip().replace(" ", "-").lower() for head in heads}
    return anchors | set(re.findall(r'<a id="([^"]+)">', text))


def wrong_links(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(markdown_of(path))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        place = (path.parent / name).resolve() if name else path
        if not place.exists():
            yield f"{target}: there is no such file"
        elif anchor and anchor.lower() not in anchors_of(place):
            yield f"{target}: there is no such heading"


@every_text
def test_relative_links_and_anchors_lead_somewhere(path):
    assert not list(wrong_links(path))


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "b.md").write_text("# A head, here\n")
    (tmp_path / "a.md").write_text("[x](b.md#a-head-here) [y](b.md#other) [z](c.md) `[q](d.md)`")
    assert [w.split(":")[0] for w in wrong_links(tmp_path / "a.md")] == ["b.md#other", "c.md"]


def test_the_lessons_plans_fill_their_time():
    text = (ROOT / "docs" / "teaching.md").read_text(encoding="utf-8")
    one, two = (sum(map(int, re.findall(r"^\| (\d+) \|", plan, re.MULTILINE)))
                for plan in re.split(r"^## ", text, flags=re.MULTILINE)[1:3])  # fmt: skip
    assert one == 45 and two == 90 - (45 - 10), "the second plan leaves out the vote of ten minutes"


def test_places_named_in_the_teachers_page_exist():
    """A heading in quotation marks after a link to a notebook is one of that notebook."""
    text = (ROOT / "docs" / "teaching.md").read_text(encoding="utf-8")
    places = re.findall(r"\]\(([^)]+\.ipynb)\), \"([^\"]+)\"", text)
    assert len(places) >= 6
    for target, head in places:
        heads = anchors_of((ROOT / "docs" / target).resolve())
        slug = re.sub(r"[^\w\- ]", "", head).replace(" ", "-").lower()
        assert any(h.startswith(slug) for h in heads), f"{target}: no heading {head!r}"


@functools.cache
def dictionary():
    return SpellChecker(language="en")


def misspelt(text):
    text = without_code(text)
    text = re.sub(
        r"\$\$.*?\$\$|\$[^$\n]+\$|\]\([^)]*\)|<[^>]*>|https?://\S+", " ", text, flags=re.S
    )
    text = re.sub(r"\S*[/_.]\w\S*", " ", text)  # paths, file names, identifiers
    words = {w.strip("'").removesuffix("'s") for w in re.findall(r"[A-Za-z][A-Za-z']+", text)}
    words = {w for w in words if not w.isupper() and w.lower() not in WORDS}
    return {w for w in words if w.lower() not in dictionary()}


@every_text
def test_every_word_is_one(path):
    assert not misspelt(markdown_of(path)), "misspelt, or missing in tests/words.txt"


def test_a_misspelt_word_is_found():
    assert misspelt("We recieve colours, `xyzzy`, $a_bcd$ and [a](recieve.md).") == {"recieve"}


def test_the_list_of_words_is_in_order():
    assert sorted(WORDS) == [word.lower() for word in LIST]


def test_every_symbol_of_the_notation_is_used_and_every_term_stands_in_order():
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    terms = re.findall(r"^\*\*(.+?)\.\*\*", text, re.MULTILINE)
    assert len(terms) > 40 and terms == sorted(terms, key=str.lower)
    code = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "simlab").rglob("*.py"))
    code += "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "notebooks").rglob("*.ipynb"))
    for row in re.findall(r"^\| \$.*?\|(.*?)\|", text, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", row):
            assert re.search(rf"\b{name}\b", code), f"{name} is no name in the code"


def symbols_of(formula):
    """The letters of a formula, without words, commands and indices."""
    words = r"\\(mathrm|text|operatorname)\{[^}]*\}|[_^](\{[^}]*\}|\\?\w+)|\\[A-Za-z]+"
    return set(re.findall("[A-Za-zβ]", re.sub(words, " ", formula.replace(r"\beta", "β"))))


def formulas_of(text):
    return [a or b for a, b in re.findall(r"\$\$(.*?)\$\$|\$([^$\n]+)\$", without_code(text), re.S)]


def test_every_letter_of_a_formula_stands_in_the_notation():
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    notation = {s for row in re.findall(r"^\| (\$.*?)\|", text, re.MULTILINE)
                for f in formulas_of(row) for s in symbols_of(f)}  # fmt: skip
    notation |= {"i", "j", "m"}  # images by number, and a mean over them
    for path in (ROOT / "notebooks").rglob("0*.ipynb"):
        for formula in formulas_of(markdown_of(path)):
            assert not symbols_of(formula) - notation, f"{path.stem}: {formula}"


def test_the_letters_of_a_formula_are_found():
    assert symbols_of(r"\exp(-\sum_i q_i \log K_{ij}) + \mathrm{stopgrad}(z_1)") == {"q", "K", "z"}
    assert symbols_of(r"K = XX^\top, \beta\|p\|") == {"K", "X", "p", "β"}


def test_the_settings_page_names_fields_that_exist_and_their_values():
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    field_names = {f.name for c in (PretrainConfig, SimSiam, SimCLR) for f in dataclasses.fields(c)}
    rows = re.findall(r"^\| [^|`]+ \| ((?:`\w+`(?:, )?)+) \|(.*)\|$", text, re.MULTILINE)
    named = {name for fields, _ in rows for name in re.findall(r"`(\w+)`", fields)}
    assert len(named) > 20 and named - field_names <= {"linear_probe"}
    first = text.split("\n## ")[1]
    paper = parse_method(RECIPES["cifar-paper"]["method"])
    values = {"pred_dim": (SimSiam().pred_dim, paper.pred_dim)}
    for field in ("epochs", "batch_size", "lr", "weight_decay"):
        values[field] = getattr(PretrainConfig(), field), RECIPES["cifar-paper"][field]
    for field, value in values.items():
        said = re.search(rf"\| `{field}` \| (\S+) \| (\S+) \|", first).groups()
        assert tuple(map(float, said)) == value, field
    defaults = vars(PretrainConfig())
    fields = "knn_k knn_temperature sim_beta sim_tokens sim_sampling sim_loss sim_small"
    for field in fields.split():
        assert re.search(rf"\| `{field}` \| (\S+) \|", text)[1] == str(defaults[field]), field
    projectors = re.findall(
        r"`proj_layers`, `proj_dim` \| .*?, (\d+) \| (\d) layers, (\d+) \|", text
    )
    simclr = parse_method(RECIPES["cifar-simclr"]["method"])
    pairs = ((SimSiam(), paper), (SimCLR(), simclr))
    expected = [(d.proj_dim, full.proj_layers, full.proj_dim) for d, full in pairs]
    assert [tuple(map(int, numbers)) for numbers in projectors] == expected
    assert text.count("were not\nreproduced here") + text.count("not reproduced here") >= 1
