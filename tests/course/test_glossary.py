"""A reader meets no term of the field unexplained: its first use defines it or links to the glossary."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GLOSSARY = ROOT / "docs" / "glossary.md"
LESSONS = [
    next((ROOT / "notebooks").glob(f"{number}_*.ipynb"))
    for number in ("00", "01", "02", "03", "03b", "04", "05", "06", "07", "07b")
]
# terms that are everyday words as well: only in the sense of the field do they need the glossary
EVERYDAY = {"run", "loss", "head", "bias", "token", "negative", "leak", "view", "recipe", "sweep"}
EVERYDAY |= {"confounded", "protocol", "alignment", "invariance", "transfer", "representation"}


def terms():
    """Each term's words by its anchor: {"near-duplicates": "Near-duplicates", ...}."""
    lines = re.findall(r"^\*\*(.+?)\.\*\*((?:<a id=\"[^\"]+\"></a>)+)", GLOSSARY.read_text(), re.M)
    term_of = {}
    for names, anchors in lines:
        words = [re.sub(r" \(.*\)", "", name) for name in names.split(", ")]
        term_of |= dict(zip(re.findall(r'id="([^"]+)"', anchors), words, strict=True))
    return term_of


def prose_of(path):
    """The running text: no headings, tables, code, formulas or addresses; links to the glossary stay."""
    texts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "markdown":
            continue
        text = "".join(cell["source"])
        text = re.sub(r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$\n]+\$", " ", text, flags=re.DOTALL)
        text = re.sub(r"^(#|\|).*$", " ", text, flags=re.MULTILINE)
        texts.append(re.sub(r"\]\((?![^)]*glossary\.md#)[^)]*\)", "]", text))
    return "\n".join(texts)


def pattern_of(word):
    """A term in running text: its plural as well, capitals as they come."""
    stem = re.escape(word.lower()).removesuffix("s")
    return rf"(?<![\w-]){stem}(s|es)?(?![\w-])"


def unexplained(text, anchor, word):
    """The first use of a term, if it neither defines it nor links to it; None otherwise."""
    use = re.search(pattern_of(word), text, re.IGNORECASE)
    if use is None:
        return None
    around = text[max(0, use.start() - 60) : use.end() + 80].replace("\n", " ")
    before, after = text[: use.start()], text[use.end() :]
    is_link = re.match(rf"[^\[\]]*\]\([^)]*glossary\.md#{re.escape(anchor)}\)", after)
    # **the term** or *the term*, perhaps with other words inside of the emphasis
    is_definition = re.search(r"\*[^*\s][^*]*$|\*$", before[-40:]) and re.match(
        r"[^*]{0,40}\*", after
    )
    return None if is_link or is_definition else around


@pytest.mark.parametrize("anchor, word", terms().items())
def test_a_terms_first_use_in_the_lessons_defines_it_or_links_to_it(anchor, word):
    if word.lower() in EVERYDAY:
        return
    text = "\n".join(prose_of(path) for path in LESSONS)
    assert (place := unexplained(text, anchor, word)) is None, f"{word}: ... {place} ..."


def test_an_unexplained_term_is_seen():
    link = "[BatchNorm](../docs/glossary.md#batchnorm)"
    assert unexplained("then BatchNorm, and " + link, "batchnorm", "BatchNorm")
    assert unexplained(f"then {link}, BatchNorm", "batchnorm", "BatchNorm") is None
    assert unexplained("The **encoder**, a network. An encoder", "encoder", "Encoder") is None
    assert unexplained("Two encoders. The **encoder**", "encoder", "Encoder")
    assert unexplained("no such word", "encoder", "Encoder") is None


def test_every_link_to_the_glossary_names_a_term_that_is_there():
    anchors = set(terms())
    assert len(anchors) > 85
    for path in (ROOT / "notebooks").rglob("*.ipynb"):
        text = path.read_text(encoding="utf-8")
        assert set(re.findall(r"glossary\.md#([\w-]+)", text)) <= anchors, path.name
