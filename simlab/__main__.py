"""`python -m simlab COMMAND ...` is what `simlab COMMAND ...` is."""

import sys

from simlab.cli import main

if __name__ == "__main__":
    sys.exit(main())
