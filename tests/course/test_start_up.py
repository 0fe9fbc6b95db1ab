"""A notebook's first cell is ready soon: what takes seconds to load waits until it is used."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0*.ipynb"))
# two seconds each on two cores; torchvision brings torch's compiler along, scikit-learn SciPy
HEAVY = ("torchvision", "torch._dynamo", "sklearn", "scipy", "sympy", "papermill", "transformers")
REPORT = """
import sys
import torch
before = set(sys.modules)
{imports}
print(sorted(set({heavy}) & (set(sys.modules) - before)))
"""


def first_imports(path):
    """The imports of simlab and simlab_course in a notebook's first cell after the set-up."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        is_setup = "setup" in cell["metadata"].get("tags", [])
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and not is_setup and "from simlab" in source:
            nodes = [n for n in ast.parse(source).body if isinstance(n, ast.ImportFrom)]
            return [ast.unparse(n) for n in nodes if n.module.startswith("simlab")]
    raise AssertionError(f"{path.name} imports nothing of simlab")


def loaded_by(imports):
    """Which heavy packages a new Python loads with these imports."""
    code = REPORT.format(imports="\n".join(imports), heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return ast.literal_eval(done.stdout)


@pytest.mark.long
def test_no_first_cell_loads_what_takes_seconds():
    assert len(NOTEBOOKS) >= 9
    imports = {line for path in NOTEBOOKS for line in first_imports(path)}
    assert loaded_by(sorted(imports)) == []


@pytest.mark.long
def test_what_is_heavy_would_be_seen():
    assert "sklearn" in loaded_by(["import sklearn"])
