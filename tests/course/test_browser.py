"""Every widget in JupyterLab, in a real browser, its controls moved by keyboard."""

import io
import re
import shutil
from pathlib import Path

import browser
import nbformat
import pages
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[2]
CHROMIUM = browser.CHROMIUM
# the widgets with something to move
NAMES = (
    "two_view_explorer", "epoch_scrubber", "neighbour_browser", "budget_slider",
    "collapse_switches", "sim_beta", "cka_playground", "layer_heatmap",
)  # fmt: skip
PYTHON = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
# parameters of the lessons, so that they get to their widgets soon
QUICK = {"epochs": 1, "supervised_epochs": 1, "images": 600, "compared": 200, "budgets": "100,300",
         "sim_layers": "blocks.2"}  # fmt: skip


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab with a notebook that shows every widget, and the start page."""
    if not CHROMIUM:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    home = tmp_path_factory.mktemp("lab")
    folders = [str(ROOT / "tests"), str(ROOT)]
    cells = [f"import sys\nsys.path[:0] = {folders}\nimport explorers\nmade = explorers.every()"]
    cells += [f"made[{name!r}]" for name in NAMES]
    cells += ["live = explorers.widgets.live_curves(4)\nlive", "live.on_epoch(explorers.HISTORY[:2])",
              "live.on_epoch(explorers.HISTORY)"]  # fmt: skip
    notebook = new_notebook(cells=[new_code_cell(c) for c in cells], metadata=PYTHON)
    nbformat.write(notebook, home / "all.ipynb")
    shutil.copy(ROOT / "notebooks/00_start_here.ipynb", home)
    with browser.jupyterlab(home) as address:
        yield address


@pytest.fixture(scope="module")
def chromium():
    if not CHROMIUM:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def page(lab, chromium):
    """The notebook, run from top to bottom."""
    page = chromium.new_page(viewport={"width": 1400, "height": 1000})
    browser.run_all(page, f"{lab}/lab/tree/all.ipynb", images=len(NAMES) + 1)
    return page


def cell_of(page, name):
    return page.locator(".jp-CodeCell").nth(1 + NAMES.index(name))


def moved(page, cell, act, times=6):
    """Does `act` change the text alternative each time, and the image in the end?

    One step of a probability may leave a few images as they are; several do not.
    """
    image = cell.locator(".widget-html img")
    before = image.get_attribute("src")
    for _ in range(times):
        alt = image.get_attribute("alt")
        act()
        for _ in range(200):
            if image.get_attribute("alt") != alt:
                break
            page.wait_for_timeout(50)
        else:
            return False
        if image.get_attribute("src") != before:
            return True
    return False


def move_all(page, cell):
    """Each control of the widget that `cell` shows, moved by keyboard: the image must change."""
    reach = ":not([tabindex='-1']):not([disabled])"
    controls = cell.locator(
        ".jp-OutputArea :is(.noUi-target:not([disabled]) .noUi-handle, input[type=checkbox], "
        f"button{reach})"
    )
    assert controls.count() >= 1
    assert cell.locator(".jp-OutputArea select").count() == 0, "JupyterLab takes their arrow keys"
    for i in range(controls.count()):
        control = controls.nth(i)
        kind = control.evaluate("e => e.type || e.className")
        control.focus()
        assert control.evaluate("e => e === document.activeElement"), f"{kind} {i} takes no focus"
        if "noUi" in kind:
            now, most = (float(control.get_attribute(f"aria-value{w}")) for w in ("now", "max"))
            key = "ArrowRight" if now < most else "ArrowLeft"
        else:
            if "mod-active" in (control.get_attribute("class") or ""):
                continue  # of buttons of which one is chosen, the chosen one
            key = "Space"
        assert moved(page, cell, lambda: control.press(key)), f"{kind} {i} by {key}"


@pytest.mark.parametrize("name", NAMES)
def test_every_control_is_moved_by_keyboard_and_the_image_changes(page, name):
    move_all(page, cell_of(page, name))


def test_a_cell_of_the_heat_map_can_be_clicked(page):
    cell = cell_of(page, "layer_heatmap")
    cells = cell.locator(".widget-gridbox button")
    assert cells.count() == 3 * 4
    image = cell.locator(".widget-html img")
    # the last layer is on top: the second button of the first row is (2, 1)
    assert moved(page, cell, lambda: cells.nth(1).click())
    alt = image.get_attribute("alt")
    assert "small/2 (" in alt and "wide/1 (" in alt
    frame, button = image.bounding_box(), cells.nth(4).bounding_box()
    assert button["x"] > frame["x"] and button["y"] > frame["y"]
    assert button["width"] > 20 and button["height"] > 20, "as large as the cell it lies on"


def test_curves_grow_while_a_cell_runs_and_stand_complete(page):
    image = page.locator(".jp-CodeCell").nth(len(NAMES) + 1).locator(".widget-html img")
    image.wait_for(timeout=10_000)
    page.wait_for_selector(".widget-html img[alt*='up to epoch 4 of 4']", timeout=10_000)


def test_one_output_shows_the_widget_and_keeps_the_image(page):
    """The output holds the widget's view and a PNG; the page shows the widget, not both."""
    cell = cell_of(page, "cka_playground")
    assert cell.locator(".jp-OutputArea img").count() == 1
    assert cell.locator(".jp-OutputArea .noUi-handle").count() >= 7


def test_the_start_page_leads_to_a_slider_that_moves(lab, chromium):
    """What `make lab` opens: run it, and move the first slider."""
    page = chromium.new_page(viewport={"width": 1400, "height": 1000})
    browser.run_all(page, f"{lab}/lab/tree/00_start_here.ipynb", images=1)
    cell = page.locator(".jp-CodeCell").nth(1)
    handle = cell.locator(".noUi-handle").nth(0)
    handle.focus()
    assert moved(page, cell, lambda: handle.press("ArrowRight"))
    page.close()


def shown_by(cell):
    """The widget with something to move that a cell shows, or ""."""
    last = cell.source.splitlines()[-1] if cell.cell_type == "code" and cell.source else ""
    return next((name for name in NAMES if re.match(rf"(widgets\.)?{name}\(", last)), "")


def lessons():
    """{name: (code cells up to the last widget, {widget: its place among them})}."""
    found = {}
    for path in sorted((ROOT / "notebooks").glob("0[1-9]_*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        code = [cell for cell in cells if cell.cell_type == "code"]
        places = {shown_by(cell): i for i, cell in enumerate(code) if shown_by(cell)}
        if places:
            found[path.stem] = code[: max(places.values()) + 1], places
    return found


def test_the_lessons_show_every_widget():
    assert {name for _, places in lessons().values() for name in places} == set(NAMES)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Of all lessons: what one has trained another finds again."""
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize("name", lessons())
def test_in_each_lesson_every_control_moves(name, chromium, runs, tmp_path, monkeypatch):
    """The committed cells, with little training before them."""
    cells, places = lessons()[name]
    monkeypatch.setenv("SIMLAB_RUNS", str(runs))
    (tmp_path / "simlab").symlink_to(ROOT)  # as if cloned beside the notebook
    given = next(cell for cell in cells if "parameters" in cell.metadata.get("tags", []))
    given.source += "".join(f"\n{k} = {v!r}" for k, v in QUICK.items() if f"{k}:" in given.source)
    for cell in cells:
        cell.outputs = []
    nbformat.write(new_notebook(cells=cells, metadata=PYTHON), tmp_path / f"{name}.ipynb")
    live = sum("live_curves(" in cell.source for cell in cells)
    with browser.jupyterlab(tmp_path) as address:
        page = chromium.new_page(viewport={"width": 1400, "height": 1000})
        browser.run_all(page, f"{address}/lab/tree/{name}.ipynb", images=len(places) + live)
        for place in places.values():
            move_all(page, page.locator(".jp-CodeCell").nth(place))
        page.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """What `make run` leaves, of two committed notebooks."""
    out = tmp_path_factory.mktemp("site")
    cards = []
    for name in ("01_pretraining", "05_comparing_representations"):
        source = ROOT / "notebooks" / f"{name}.ipynb"
        (out / name).mkdir()
        shutil.copy(source, out / name)
        cards.append({"name": name, "source": source, "status": "done", "seconds": 1.0,
                      "metrics": {"found": 0.5}})  # fmt: skip
    pages.write_site(cards, out)
    return out


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_site_is_read_without_a_network_in_either_theme(site, chromium, theme):
    context = chromium.new_context(offline=True, color_scheme=theme)
    page, failed, ahead, seen = context.new_page(), [], ["index.html"], set()
    page.on("requestfailed", lambda request: failed.append(request.url))
    while ahead:
        target = ahead.pop()
        if target in seen:
            continue
        seen.add(target)
        page.goto(f"file://{site}/{target}")
        assert page.evaluate("[...document.images].every(i => i.naturalWidth && i.alt.length > 40)")
        ink = page.evaluate("getComputedStyle(document.querySelector('h1')).color")
        ink = sum(map(int, re.findall(r"\d+", ink)[:3])) / 3
        ground = Image.open(io.BytesIO(page.screenshot())).convert("L").getpixel((3, 3))
        assert abs(ink - ground) > 150, f"{target}: {ink} on {ground}"
        assert (ground < 60) == (theme == "dark"), f"{target} is not {theme}: {ground}"
        fold = page.query_selector("details:not([open]) > summary")
        if fold:
            fold.focus()
            page.keyboard.press("Enter")
            assert fold.evaluate("e => e.parentElement.open"), f"{target}: a fold stays shut"
        links = page.evaluate("[...document.links].map(a => a.href)")
        ahead += [link.split("#")[0].removeprefix(f"file://{site}/") for link in links
                  if link.startswith("file:") and ".html" in link]  # fmt: skip
    assert len(seen) >= 8 and not failed
    context.close()
