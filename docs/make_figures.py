"""The README's figures, taken out of the executed notebooks: python docs/make_figures.py"""

import base64
from pathlib import Path

import nbformat

HERE = Path(__file__).parent
FIGURES = {"label_budgets.png": ("02_linear_probe", 0)}  # file: notebook, which of its figures


def main():
    for name, (notebook, number) in FIGURES.items():
        path = HERE.parent / "notebooks" / f"{notebook}.ipynb"
        outputs = [o for c in nbformat.read(path, as_version=4).cells for o in c.get("outputs", [])]
        pictures = [o.data["image/png"] for o in outputs if "image/png" in o.get("data", {})]
        (HERE / name).write_bytes(base64.b64decode(pictures[number]))


if __name__ == "__main__":
    main()
