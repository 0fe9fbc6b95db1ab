"""The README's screenshots, of this code: python docs/make_screenshots.py (it needs Chromium).

JupyterLab with the start page's slider moved, and a page of the book that `make run` leaves.
"""

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


def save(page: Page, name: str):
    """What the page shows, as a PNG of 64 colours."""
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    image.quantize(64).save(ROOT / "docs" / name, optimize=True)


def lab(page: Page, folder: Path):
    """The start page in JupyterLab, run, with the smallest crop."""
    shutil.copy(ROOT / "notebooks" / "00_start_here.ipynb", folder)
    with browser.jupyterlab(folder) as address:
        browser.run_all(page, f"{address}/lab/tree/00_start_here.ipynb", images=1)
        cell = page.locator(".jp-CodeCell").nth(1)
        crop = cell.locator(".noUi-handle").nth(2)  # after the draw, the upper end of crop
        crop.focus()
        for _ in range(10):
            crop.press("ArrowLeft")
        cell.locator("img[alt*='crop_max 0.5']").wait_for(timeout=30_000)
        page.evaluate("void window.jupyterapp.commands.execute('application:toggle-left-area')")
        cell.evaluate("e => e.scrollIntoView({block: 'end'})")
        page.wait_for_timeout(1000)
        save(page, "lab.png")


def book(page: Page, folder: Path):
    """The committed notebook 01 as the book's page, at its loss."""
    build_book.build(folder)
    page.goto(f"file://{folder}/notebooks/01_pretraining.html")
    page.locator("h2", has_text="The loss").evaluate("e => e.scrollIntoView()")
    page.locator("mjx-container").first.wait_for()
    save(page, "site.png")


def main():
    with sync_playwright() as p, tempfile.TemporaryDirectory() as temporary:
        chromium = p.chromium.launch(executable_path=browser.CHROMIUM, args=["--no-sandbox"])
        for shoot in (lab, book):
            folder = Path(temporary, shoot.__name__)
            folder.mkdir()
            shoot(chromium.new_page(viewport={"width": 1100, "height": 760}), folder)


if __name__ == "__main__":
    main()
