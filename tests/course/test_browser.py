"""Every widget in JupyterLab, in a real browser, its controls moved by keyboard."""

from pathlib import Path

import browser
import explorers
import lessons
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not browser.RUNS, reason="no Chromium: apt-get install chromium"),
]
ROOT = Path(__file__).parents[2]
# the widgets with something to move
NAMES = tuple(name for name in explorers.NAMES if name != "live_curves")
PYTHON = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address and folder of the JupyterLab of all these tests.

    In it: a notebook that shows every widget, and every committed one with parameters of seconds.
    What one lesson has trained another one reuses.
    """
    home = tmp_path_factory.mktemp("lab")
    folders = [str(ROOT / "tests" / "course"), str(ROOT)]
    cells = [f"import sys\nsys.path[:0] = {folders}\nimport explorers\nmade = explorers.every()"]
    cells += [f"made[{name!r}]" for name in NAMES]
    cells += ["live = explorers.widgets.live_curves(4)\nlive", "live.on_epoch(explorers.HISTORY[:2])",
              "live.on_epoch(explorers.HISTORY)"]  # fmt: skip
    notebook = new_notebook(cells=[new_code_cell(c) for c in cells], metadata=PYTHON)
    nbformat.write(notebook, home / "all.ipynb")
    lessons.prepare(home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIMLAB_RUNS", str(home / "runs"))
        with browser.jupyterlab(home) as address:
            yield address, home


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=browser.CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def new_page(lab, chromium, workspace):
    """JupyterLab; in a workspace of its own, else it opens the notebooks of other pages."""
    page = chromium.new_page(viewport={"width": 1400, "height": 1000})
    browser.start(page, f"{lab[0]}/lab/workspaces/{workspace}")
    return page


@pytest.fixture(scope="module")
def page(lab, chromium):
    """The notebook of all widgets, run from top to bottom."""
    page = new_page(lab, chromium, "widgets")
    browser.run_all(page, "all.ipynb", images=len(NAMES) + 1)
    yield page
    browser.close(page)


@pytest.fixture(scope="module")
def page_of_lessons(lab, chromium):
    """A page in which one lesson after the other is opened and closed."""
    return new_page(lab, chromium, "lessons")


@pytest.fixture
def run_lesson(page_of_lessons):
    """Run a lesson in the page; it is closed after the test."""

    def run(path, images):
        browser.run_all(page_of_lessons, path.name, images)
        return page_of_lessons

    yield run
    browser.close(page_of_lessons)


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


def test_the_start_page_leads_to_a_slider_that_moves(run_lesson):
    """What `make lab` opens: run it, and move the first slider."""
    page = run_lesson(lessons.NOTEBOOKS[0], images=1)
    cell = page.locator(".jp-CodeCell", has=page.locator(".noUi-handle")).first
    handle = cell.locator(".noUi-handle").nth(0)
    handle.focus()
    assert moved(page, cell, lambda: handle.press("ArrowRight"))


@pytest.mark.parametrize("path", lessons.NOTEBOOKS[1:], ids=lambda path: path.stem)
def test_each_lesson_runs_to_its_end_and_every_control_moves(path, lab, run_lesson):
    """The committed cells, with little training before them."""
    places = lessons.widgets_of(lab[1] / path.name)
    live = "live_curves(" in path.read_text(encoding="utf-8")
    page = run_lesson(path, images=len(places) + live)
    for place in places.values():
        move_all(page, page.locator(".jp-CodeCell").nth(place))
