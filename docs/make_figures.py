"""The README's figures, taken out of the executed notebooks: python docs/make_figures.py"""

import base64
from pathlib import Path

import nbformat

HERE = Path(__file__).parent
FIGURES = {  # file: notebook, and how the figure's text alternative begins
    "label_budgets.png": ("02_linear_probe", "Test accuracy over the number of labelled images"),
    "layer_map.png": ("05_comparing_representations", "Heat map of cka"),
}


def main():
    for name, image in figures().items():
        (HERE / name).write_bytes(image)


def figures() -> dict[str, bytes]:
    """The PNG of each figure, by its file."""
    images = {}
    for name, (notebook, begins) in FIGURES.items():
        path = HERE.parent / "notebooks" / f"{notebook}.ipynb"
        cells = nbformat.read(path, as_version=4).cells
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        (figure,) = [output for output in outputs if text_alternative(output).startswith(begins)]
        images[name] = base64.b64decode(figure.data["image/png"])
    return images


def text_alternative(output: nbformat.NotebookNode) -> str:
    """The text alternative of an output's PNG; empty where there is none."""
    metadata = output.get("metadata", {})
    return metadata.get("image/png", {}).get("alt", "")


if __name__ == "__main__":
    main()
