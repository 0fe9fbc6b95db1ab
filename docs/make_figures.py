"""The README's figures, taken out of the executed notebooks: python docs/make_figures.py"""

import base64
from pathlib import Path

import nbformat

HERE = Path(__file__).parent
FIGURES = {  # file: notebook, and how the figure's text alternative begins
    "label_budgets.png": ("02_linear_probe", "Accuracy of five linear probes"),
    "layer_map.png": ("05_comparing_representations", "Heat map of cka"),
}


def main():
    for name, (notebook, begins) in FIGURES.items():
        path = HERE.parent / "notebooks" / f"{notebook}.ipynb"
        outputs = [o for c in nbformat.read(path, as_version=4).cells for o in c.get("outputs", [])]
        (image,) = [
            o.data["image/png"] for o in outputs
            if o.get("metadata", {}).get("image/png", {}).get("alt", "").startswith(begins)
        ]  # fmt: skip
        (HERE / name).write_bytes(base64.b64decode(image))


if __name__ == "__main__":
    main()
