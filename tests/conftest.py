"""The notebooks' own modules are imported as they are: book.py and pages.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "notebooks"))
