"""Every widget in JupyterLab, in a real browser, its controls moved by keyboard."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

pytestmark = pytest.mark.browser
TESTS = Path(__file__).parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
# the widgets with something to move
NAMES = (
    "two_view_explorer", "epoch_scrubber", "neighbour_browser", "budget_slider",
    "collapse_switches", "sim_beta", "cka_playground", "layer_heatmap",
)  # fmt: skip
# cells run before there is a kernel would ask for one in a dialogue
KERNEL = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},  # keep what is out of sight
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab of its own, with a notebook that shows every widget."""
    if not CHROMIUM:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    home = tmp_path_factory.mktemp("lab")
    for name, values in SETTINGS.items():
        path = home / "settings/@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    folders = [str(TESTS), str(TESTS.parent)]
    cells = [f"import sys\nsys.path[:0] = {folders}\nimport explorers\nmade = explorers.every()"]
    cells += [f"made[{name!r}]" for name in NAMES]
    cells += ["live = explorers.widgets.live_curves(4)\nlive", "live.on_epoch(explorers.HISTORY[:2])",
              "live.on_epoch(explorers.HISTORY)"]  # fmt: skip
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    notebook = new_notebook(cells=[new_code_cell(c) for c in cells], metadata=kernel)
    (home / "work").mkdir()
    nbformat.write(notebook, home / "work/all.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {name: str(home / name.lower()) for name in (
        "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR",
        "JUPYTERLAB_WORKSPACES_DIR",
    )}  # fmt: skip
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--ip=127.0.0.1",
         "--ServerApp.port_retries=0", "--IdentityProvider.token=", "--ServerApp.allow_root=True",
         "--expose-app-in-browser", "--notebook-dir", str(home / "work")],
        env={**os.environ, **own, "JUPYTERLAB_SETTINGS_DIR": str(home / "settings")},
        stdout=(home / "log").open("w"), stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(120):
            time.sleep(0.5)
            try:
                urllib.request.urlopen(f"{address}/api")
                break
            except OSError:
                assert server.poll() is None, (home / "log").read_text()
        yield f"{address}/lab/tree/all.ipynb"
    finally:
        server.send_signal(signal.SIGTERM)  # which ends its kernels too
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)  # its own group and nothing else


@pytest.fixture(scope="module")
def page(lab):
    """The notebook, run from top to bottom."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(lab, timeout=90_000)
        page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=90_000)
        page.wait_for_function(KERNEL, timeout=90_000)
        page.evaluate("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
        page.wait_for_function(
            f"document.querySelectorAll('.jp-OutputArea .widget-html img').length >= {len(NAMES) + 1}",
            timeout=90_000,
        )
        yield page
        browser.close()


def cell_of(page, name):
    return page.locator(".jp-CodeCell").nth(1 + NAMES.index(name))


def moved(page, cell, act, times=6):
    """Does `act` change the text alternative each time, and the picture in the end?

    One step of a probability may leave a few pictures as they are; several do not.
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


@pytest.mark.parametrize("name", NAMES)
def test_every_control_is_moved_by_keyboard_and_the_picture_changes(page, name):
    cell = cell_of(page, name)
    reach = ":not([tabindex='-1']):not([disabled])"
    controls = cell.locator(
        f".jp-OutputArea :is(.noUi-handle, input[type=checkbox], button{reach})"
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


def test_one_output_shows_the_widget_and_keeps_the_picture(page):
    """The output holds the widget's view and a PNG; the page shows the widget, not both."""
    cell = cell_of(page, "cka_playground")
    assert cell.locator(".jp-OutputArea img").count() == 1
    assert cell.locator(".jp-OutputArea .noUi-handle").count() >= 7
