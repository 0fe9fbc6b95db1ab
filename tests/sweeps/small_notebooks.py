"""A small notebook that a sweep runs: it imports nothing heavy, and real kernels run it."""

import os
from pathlib import Path

import nbformat

from simlab import cli

ROOT = Path(__file__).parents[2]
ENV = os.environ | {"PYTHONPATH": str(ROOT)}
CELL = """
epochs: int = 5  # passes
lr: float = 0.1
seed: int = 0
name: str = "a"
flag: bool = False
layers: list = ["x"]
extra: dict = {}
"""
BODY = """
import json, os, pathlib, time
with open("runs.txt", "a") as f:  # beside the notebook: one line for each time that it is run
    f.write(f"{seed} {os.getpid()}\\n")
if pathlib.Path("slow").exists() and seed == 1:
    time.sleep(120)
got = dict(epochs=epochs, lr=lr, seed=seed, name=name, flag=flag, layers=layers, extra=extra)
out = pathlib.Path(os.environ["SIMLAB_OUT"])
(out / "metrics.json").write_text(json.dumps({
    "score": epochs * lr + seed, "deep": {"rank": 7.5}, "seed": 99, "got": json.dumps(got),
    "threads": os.environ["OMP_NUM_THREADS"], "where": os.getcwd()}))
"""
DEFAULTS = {
    "epochs": 5,
    "lr": 0.1,
    "seed": 0,
    "name": "a",
    "flag": False,
    "layers": ["x"],
    "extra": {},
}


def main(words: list[str]) -> int:
    """The exit code of `simlab sweep`."""
    return cli.main(["sweep", *words])


def write_notebook(path: Path, cell=CELL, body=BODY, text="A title", tag="parameters") -> Path:
    nb = nbformat.v4.new_notebook(
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
            "language_info": {"name": "python"},
        }
    )
    nb.cells = [
        nbformat.v4.new_markdown_cell(text),
        nbformat.v4.new_code_cell(cell, metadata={"tags": [tag]}),
        nbformat.v4.new_code_cell(body),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, path)
    return path


def stamps(folder: Path) -> dict:
    """When each point's status was written."""
    return {p.parent.name: p.stat().st_mtime_ns for p in folder.glob("points/*/status.json")}
