"""The book that `make run` leaves: whole, readable without a network, with every reference right."""

import base64
import hashlib
import html
import importlib
import io
import json
import re
import subprocess
import sys

import api_pages
import browser
import build_book
import nbformat
import pytest
import start_page
from nbformat.v4 import new_code_cell, new_output
from PIL import Image

import simlab
from simlab_course import style

pytestmark = pytest.mark.long
STYLE = {*dir(style), "simsiam_diagram"}
LESSON = "01_pretraining"


def png(shade):
    """A small image, as base64."""
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), (shade, shade, shade)).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def cell_with_figures():
    """A cell of three figures: one with a text, one without, one that can be played with."""
    view = "application/vnd.jupyter.widget-view+json"
    texts = ({"alt": "The first figure's own text"}, {}, {"alt": "What the widget's picture shows"})
    outputs = []
    for shade, text in zip((10, 120, 240), texts):
        data = {"image/png": png(shade), "text/plain": "a figure"}
        outputs.append(new_output("display_data", data, metadata={"image/png": text}))
    outputs[2].data[view] = {"model_id": "x"}
    return new_code_cell("draw_three()", outputs=outputs)


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """The book of the committed notebooks, one of them as if it had just been run: folder, warnings."""
    out = tmp_path_factory.mktemp("book")
    notebook = nbformat.read(build_book.ROOT / "notebooks" / f"{LESSON}.ipynb", as_version=4)
    notebook.cells.insert(1, cell_with_figures())
    notebook.cells.append(new_code_cell("1 / 0", outputs=[
        new_output("error", ename="ZeroDivisionError", evalue="division by zero",
                   traceback=["ZeroDivisionError: division by zero"])]))  # fmt: skip
    notebook.metadata["widgets"] = {"state": {}}
    folder = out / LESSON
    folder.mkdir()
    nbformat.write(notebook, folder / f"{LESSON}.ipynb")
    run = {
        "status": "failed: ZeroDivisionError",
        "seconds": 83.4,
        "metrics": {"found": 0.5, "n": 3},
    }
    (folder / "run.json").write_text(json.dumps(run))
    # not in this process: Sphinx gives the functions that it documents other signatures
    command = [sys.executable, build_book.__file__, "--out", str(out)]
    built = subprocess.run(command, capture_output=True, text=True, check=True)
    return out, built.stderr


def page(book, name):
    return (book[0] / f"{name}.html").read_text(encoding="utf-8")


def written_pages(book):
    return [p for p in book[0].rglob("*.html") if "_static" not in p.parts]


def text_of(markup):
    """Without tags, as it is read."""
    return html.unescape(re.sub(r"<[^>]+>", "", markup))


# ------------------------------------------------------------------------------------ what is in it


def test_it_is_built_without_a_warning(book):
    assert not book[1]


def test_every_lesson_exercise_document_and_package_has_a_page(book):
    files = [path for pattern in build_book.NOTEBOOKS for path in build_book.ROOT.glob(pattern)]
    files += [path for pattern in build_book.TEXTS for path in build_book.ROOT.glob(pattern)]
    assert len(files) > 25
    for file in files:
        name = file.relative_to(build_book.ROOT).with_suffix(".html")
        assert (book[0] / name).exists(), name
        assert name.as_posix() in page(book, "index"), f"the contents lack {name}"
    for package in api_pages.PACKAGES:
        assert (book[0] / "api" / f"{package}.html").exists()
    contents = page(book, "index").split("<nav")[1].split("</nav>")[0]
    for exercises in (build_book.ROOT / "notebooks" / "exercises").glob("*.ipynb"):
        assert f"exercises/{exercises.stem}.html" in contents


def test_the_start_page_has_the_course_and_what_each_lesson_found(book):
    text = text_of(page(book, "index"))
    assert "Which path is yours" in text and "A first slider" not in text
    assert "failed: ZeroDivisionError in 1:23" in text and re.search(r"found\s+0\.500", text)
    assert text.count("was not run here") == len(start_page.lessons()) - 1
    figures = re.findall(r'<img[^>]*class="finding[^>]*>', page(book, "index"))
    assert len(figures) == len(start_page.lessons())
    assert all(len(re.search(r'alt="([^"]*)"', figure)[1]) > 20 for figure in figures)


def test_a_failed_lesson_shows_its_error(book):
    assert "division by zero" in text_of(page(book, f"notebooks/{LESSON}"))


def test_solutions_are_folded_and_formulas_whole(book):
    exercises = page(book, f"notebooks/exercises/{LESSON}")
    assert exercises.count("<summary>Solution</summary>") == 4
    assert re.search(r"<details><summary>Hint 1</summary>\s*<p>.*?</details>", exercises, re.S)
    assert not re.search(r"<details><summary>[^<]*</summary>\s*</details>", exercises)
    assert re.search(r'<(div|span) class="math[^"]*">\s*\\[\[(]', exercises)
    lesson = page(book, "notebooks/02_linear_probe")
    assert re.search(r'<(div|span) class="math[^"]*">\s*\\[\[(]', lesson)


def test_every_figure_keeps_its_own_text_whatever_stands_around_it(book):
    markup = page(book, f"notebooks/{LESSON}")
    texts = {}
    for tag in re.findall(r"<img[^>]+>", markup):
        file = re.search(r'src="[^"]*/([0-9a-f]{64})\.png"', tag)
        if file:
            texts[file[1]] = html.unescape(re.search(r'alt="([^"]*)"', tag)[1])
    notebook = nbformat.read(book[0] / LESSON / f"{LESSON}.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    figures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(figures) > 8
    for figure in figures:
        digest = hashlib.sha256(base64.b64decode(figure.data["image/png"])).hexdigest()
        alt = figure.metadata["image/png"].get("alt", "A figure without a text alternative")
        assert texts[digest] == alt


# --------------------------------------------------------------------------------------- reference


def public_names():
    """What each page of the reference must have an entry for."""
    for package in api_pages.PACKAGES:
        module = importlib.import_module(package)
        sources = api_pages.imported_from(module) if hasattr(module, "__path__") else {}
        for name in getattr(module, "__all__", []):
            home = sources.get(name, package)
            if package == "simlab_course.figures" and name in STYLE:
                continue  # what it passes on is on the page of `style`, and the diagram on its own
            if home.startswith(package):
                yield package, f"{package}.{name}"


def test_the_reference_leaves_out_no_package():
    packages = set()
    for folder in (build_book.ROOT / "simlab", build_book.ROOT / "simlab_course"):
        names = {path.stem for path in folder.iterdir() if path.suffix in (".py", "")}
        packages |= {f"{folder.name}.{name}" for name in names if name[0] != "_"}
    assert packages - {"simlab.cli"} == set(api_pages.PACKAGES), "the commands have a page in docs/"


def test_every_public_name_has_an_entry_with_its_source(book):
    names = list(public_names())
    assert len(names) > 150
    for package, name in names:
        markup = page(book, f"api/{package}")
        assert f'id="{name}"' in markup, name
        value = getattr(importlib.import_module(package), name.rpartition(".")[2])
        if hasattr(value, "__module__") and callable(value):
            entry = markup.split(f'id="{name}"')[1][:6000]
            assert 'href="../_modules/' in entry, f"{name} has no link to its source"


def test_the_reference_lists_the_names_of_simlab_and_the_packages_in_order(book):
    markup = page(book, "api/index").split("<article")[1]
    for name in simlab.__all__:
        assert re.search(rf'href="[^"]*#simlab\.[a-z.]*{name}"', markup), name
    places = [markup.index(f'href="{package}.html"') for package in api_pages.PACKAGES]
    assert places == sorted(places)
    described = re.findall(r"^    ([a-z, ]+?)  ", simlab.__doc__, re.M)
    said = [f"simlab.{name}" for line in described for name in line.split(", ")]
    assert [package for package in api_pages.PACKAGES if package in said] == said


def test_code_and_words_of_lessons_lead_to_the_reference_and_to_the_source(book):
    lesson = page(book, f"notebooks/{LESSON}")
    assert 'href="../api/simlab.train.html#simlab.train.pretrain"' in lesson
    assert 'href="../api/simlab.data.html#simlab.data.load_data"' in lesson
    readme = page(book, "README")
    assert 'href="_modules/simlab/methods/byol.html"' in readme
    assert 'href="api/simlab.sim.html"' in readme, "a package's file: what its docstring says"
    assert 'href="api/simlab.evaluate.html#simlab.evaluate.knn_result"' in readme


# ---------------------------------------------------------------------------- links, and no network


def test_every_link_leads_to_a_page_and_a_place_on_it(book):
    pages = {path: path.read_text(encoding="utf-8") for path in written_pages(book)}
    ids = {path: set(re.findall(r"""\bid=["']([^"']+)""", text)) for path, text in pages.items()}
    assert len(pages) > 60
    for path, text in pages.items():
        for target in set(re.findall(r"""<[^>]+?\b(?:href|src)=["']([^"']*)["']""", text)):
            file, _, place = html.unescape(target).partition("#")
            if re.match(r"[a-z]+:", file):
                continue
            leads_to = (path.parent / file.partition("?")[0]).resolve() if file else path
            assert leads_to.exists(), f"{path.relative_to(book[0])} -> {target}"
            if place and leads_to in ids:
                assert place in ids[leads_to], f"{path.relative_to(book[0])} -> {target}"


def test_nothing_that_a_page_loads_is_on_the_network(book):
    for path in written_pages(book):
        text = path.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|link|img|iframe|source|video)\b[^>]*>", text)
        assert loaded
        for tag in loaded:
            assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", tag), (
                f"{path.name}: {tag}"
            )
    for sheet in book[0].rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert not re.search(r"""(?:url\(|@import)\s*["']?(?:https?:)?//""", text), sheet.name


# ------------------------------------------------------------------------------------- in a browser

needs_browser = pytest.mark.skipif(not browser.RUNS, reason="no Chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=browser.CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.mark.browser
@needs_browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_lesson_is_read_from_the_disk_without_a_network(book, chromium, theme):
    context = chromium.new_context(offline=True, color_scheme=theme)
    tab, urls, failed = context.new_page(), [], []
    tab.on("request", lambda request: urls.append(request.url))
    tab.on("requestfailed", lambda request: failed.append(request.url))
    tab.goto(f"file://{book[0]}/notebooks/{LESSON}.html")
    tab.locator("mjx-container svg").first.wait_for(state="attached", timeout=30_000)
    assert not tab.locator("mjx-merror, .MathJax_Error").count()
    assert tab.evaluate("[...document.images].every(i => i.naturalWidth && i.alt)")
    ground = Image.open(io.BytesIO(tab.screenshot())).convert("L").getpixel((640, 3))
    assert (ground < 60) == (theme == "dark"), f"not {theme}: {ground}"
    assert len(urls) > 5 and not failed
    assert all(url.startswith(("file:", "data:")) for url in urls), urls
    context.close()


@pytest.mark.browser
@needs_browser
def test_the_search_finds_a_word_without_a_network(book, chromium):
    context = chromium.new_context(offline=True)
    tab = context.new_page()
    tab.goto(f"file://{book[0]}/search.html?q=collapse")
    tab.locator("#search-results li a", has_text="collapse lab").first.wait_for(timeout=30_000)
    context.close()


@pytest.mark.browser
@needs_browser
@pytest.mark.parametrize("name", ["index", f"notebooks/{LESSON}", "docs/glossary"])
def test_axe_finds_no_serious_violation(book, chromium, name):
    from axe_playwright_python.sync_playwright import Axe

    context = chromium.new_context(offline=True)
    tab = context.new_page()
    tab.goto(f"file://{book[0]}/{name}.html")
    tab.wait_for_timeout(500)
    violations = Axe().run(tab).response["violations"]
    serious = [
        (violation["id"], [node["html"][:160] for node in violation["nodes"][:3]])
        for violation in violations if violation["impact"] in ("serious", "critical")
    ]  # fmt: skip
    assert not serious
    context.close()
