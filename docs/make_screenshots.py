"""The README's screenshots, of this code: python docs/make_screenshots.py [--book FOLDER]

JupyterLab with the start page's slider moved, and a lesson in the book, which is built of the
committed notebooks, or lies in FOLDER. It needs Chromium.
"""

import argparse
import io
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests" / "course"), str(ROOT / "docs")]
import browser  # noqa: E402
import build_book  # noqa: E402

SIZE = {"width": 1200, "height": 850}  # of both, which stand side by side
START = "00_start_here"
LESSON, HEADING = "01_pretraining", "The method"  # the diagram and the loss


def main():
    parser = argparse.ArgumentParser(prog="make_screenshots.py", description=__doc__.split("\n")[0])
    parser.add_argument("--book", type=Path, help="a folder in which the book is built already")
    options = parser.parse_args()
    with sync_playwright() as p, tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        chromium = p.chromium.launch(executable_path=browser.CHROMIUM, args=["--no-sandbox"])
        shoot_lab(chromium.new_page(viewport=SIZE), folder)
        if not options.book:
            build_book.build(folder / "book")
        shoot_book(chromium.new_page(viewport=SIZE), options.book or folder / "book")


def shoot_lab(page: Page, folder: Path):
    """The start page in JupyterLab, run, with the smallest crop."""
    shutil.copy(ROOT / "notebooks" / f"{START}.ipynb", folder)
    with browser.jupyterlab(folder) as address:
        browser.start(page, f"{address}/lab")
        browser.run_all(page, f"{START}.ipynb", images=1)
        cell = page.locator(".jp-CodeCell").last
        crop = cell.locator(".noUi-handle").nth(2)  # after the draw, the upper end of crop
        crop.focus()
        for _ in range(10):
            crop.press("ArrowLeft")
        cell.locator("img[alt*='crop_max 0.5']").wait_for(timeout=30_000)
        page.evaluate("void window.jupyterapp.commands.execute('application:toggle-left-area')")
        cell.evaluate("e => e.scrollIntoView({block: 'end'})")
        page.wait_for_timeout(1000)
        save(page, "lab.png")


def shoot_book(page: Page, folder: Path):
    """A lesson in the book, at its method."""
    page.goto(f"file://{folder.resolve()}/notebooks/{LESSON}.html")
    page.locator("mjx-container svg").first.wait_for(state="attached")
    page.locator("h2", has_text=HEADING).evaluate("e => e.scrollIntoView()")
    page.wait_for_timeout(500)
    save(page, "site.png")


def save(page: Page, name: str):
    """What the page shows, as a PNG of 64 colours."""
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    image.quantize(64).save(ROOT / "docs" / name, optimize=True)


if __name__ == "__main__":
    main()
