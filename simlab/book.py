"""notebooks/book.py under its old name, `python -m simlab.book`."""

import runpy
from pathlib import Path

if __name__ == "__main__":
    runpy.run_path(str(Path(__file__).parent.parent / "notebooks" / "book.py"), run_name="__main__")
