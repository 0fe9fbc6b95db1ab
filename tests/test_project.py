"""The project itself: what depends on what, what is installed, and what must not be in the files."""

import ast
import functools
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml

from simlab_course import figures as plots

ROOT = Path(__file__).parent.parent
SIMLAB = ROOT / "simlab"
# what a learner reads in one sitting
PATH = ("data", "augment", "models", "simsiam", "train")
# what can be used without the rest, and what has to be copied along
ALONE = {"sim": ("layers",), "similarity": ("layers",), "vector": ()}
# who may not be known below, from the notebooks' side down to the method's
TOP = {"__main__", "sweep", "plots", "widgets"}
TRAINING = {"train", "tasks", "evaluate", "probe", "runs", "identity", "optim", "config"}
METHOD = ("data", "sources", "folders", "scatter", "augment", "models", "simsiam", "simclr")


def module_of(path):
    """simlab/similarity/gram.py -> similarity: the name right below the package."""
    return path.relative_to(SIMLAB).with_suffix("").parts[0]


def imported(path, lazy=True):
    """The modules of simlab that a file imports; without `lazy` ones only at its top level."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if lazy else tree.body
    package = ("simlab", *path.relative_to(SIMLAB).parts[:-1])
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            names = [(*start, *(node.module or "").split("."))]
            if names[0][-1] == "":
                names = [(*start, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        else:
            continue
        found |= {name[1] for name in names if name[0] == "simlab" and len(name) > 1}
    return found - {module_of(path)}


@functools.cache
def graph(lazy=True):
    arrows = {}
    for path in SIMLAB.rglob("*.py"):
        if path.name != "__init__.py" or path.parent != SIMLAB:
            arrows.setdefault(module_of(path), set()).update(imported(path, lazy))
    return arrows


def reached(start, arrows):
    found, ahead = set(), [start]
    while ahead:
        for name in arrows.get(ahead.pop(), ()):
            if name not in found:
                found.add(name)
                ahead.append(name)
    return found


def tracked():
    """The text files of the project, as git knows them."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout")
    out = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = [ROOT / name for name in out.stdout.splitlines()]
    return [f for f in files if f.is_file() and f.suffix not in (".npz", ".png")]


# -------------------------------------------------------------------------------- what imports what


def test_arrows_run_one_way():
    arrows = graph(lazy=False)
    assert arrows["tasks"] >= {"data", "augment", "simsiam", "simclr"}, "the parser finds nothing"
    assert "data" in arrows["folders"]
    for name in arrows:
        assert name not in reached(name, arrows), f"simlab.{name} imports itself in the end"


@pytest.mark.parametrize("name", METHOD)
def test_the_method_knows_nothing_of_training(name):
    assert not reached(name, graph()) & (TRAINING | TOP)


def test_training_knows_nothing_of_figures_and_sweeps():
    for name in TRAINING & graph().keys():
        assert not reached(name, graph()) & TOP, name


@pytest.mark.parametrize("name", ALONE)
def test_what_can_be_used_alone_imports_nothing_of_simlab_but_what_is_copied_along(name):
    assert graph()[name] <= set(ALONE[name])
    assert all(graph()[beside] == set() for beside in ALONE[name])


@pytest.mark.parametrize("name", ALONE)
def test_what_can_be_used_alone_is_used_alone(tmp_path, name):
    """Copied into a package of somebody's own, where there is no simlab."""
    package = tmp_path / "mylab"
    package.mkdir()
    (package / "__init__.py").touch()
    for copied in (name, *ALONE[name]):
        source = SIMLAB / copied
        if source.is_dir():
            shutil.copytree(source, package / copied, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(SIMLAB / f"{copied}.py", package)
    code = f"import sys; sys.path.insert(0, '.'); import mylab.{name} as it; print(it.__file__)"
    code += "; assert not any(name.split('.')[0] == 'simlab' for name in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert Path(run.stdout.strip()).is_relative_to(package)


# ------------------------------------------------------------------------------------ what is read


def test_the_method_reads_in_one_sitting():
    lines = {name: len((SIMLAB / f"{name}.py").read_text().splitlines()) for name in PATH}
    assert sum(lines.values()) < 1100, lines


def lines_of_code(source):
    """Lines that are not blank, a comment or part of a docstring."""
    texts = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            texts |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = enumerate(source.splitlines(), 1)
    return sum(1 for i, line in lines if i not in texts and line.strip() and line.strip()[0] != "#")


def test_all_of_simlab_is_small():
    sizes = {str(path.relative_to(SIMLAB)): lines_of_code(path.read_text(encoding="utf-8"))
             for path in SIMLAB.rglob("*.py")}  # fmt: skip
    # the aim is 4,500; until then it must not grow
    assert len(sizes) > 30 and sum(sizes.values()) < 4900, sizes


def test_lines_of_code_are_counted_without_words_about_them():
    source = '"""One\n\ntwo."""\n# three\nx = 1  # four\n\n\ndef f():\n    "Five."\n'
    source += '    return """a\nb"""\n'
    assert lines_of_code(source) == 4


def test_every_figure_takes_its_colours_from_the_palette():
    """Okabe and Ito's, or a colour map whose lightness rises; matplotlib's own are neither."""
    sources = [p.read_text(encoding="utf-8") for p in SIMLAB.rglob("*.py")]
    for path in (ROOT / "notebooks").rglob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        sources += [c.source for c in cells if c.cell_type == "code"]
    safe = {*plots.PALETTE, "black", "white", "k"}
    for source in sources:
        for color in re.findall(r"\b(?:edge|face|e)?color=\"([^\"]+)\"", source):
            assert color in safe or re.fullmatch(r"0?\.\d+|transparent", color), color
        assert not re.search(r"[\"']C(\d|\{)", source), "matplotlib's own colours"
        for cmap in re.findall(r"cmap(?:: str)? ?= ?\"(\w+)\"", source):
            assert cmap in ("gray", "Blues", "cividis", "viridis", "magma"), cmap


def test_no_line_is_longer_than_the_linter_allows():
    for path in SIMLAB.rglob("*.py"):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert len(line) <= 106, f"{path.name}:{number}"


def test_public_functions_of_the_method_say_what_they_do():
    for name in PATH:
        for node in ast.parse((SIMLAB / f"{name}.py").read_text()).body:
            public = isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"
            assert not public or ast.get_docstring(node), f"{name}.{node.name}"


# ----------------------------------------------------------------------------------- what is needed


def bounds(requirements):
    """'torch>=2.6' -> {'torch': '2.6'}; extras in brackets are left out."""
    pairs = [re.fullmatch(r"([\w.-]+)(?:\[.*\])?>=([\d.]+)", r) for r in requirements]
    assert all(pairs), f"every package has a lower bound and nothing more: {requirements}"
    return {m[1].lower(): m[2] for m in pairs}


def test_conda_installs_the_same_packages_and_lower_bounds_as_pip():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = bounds(project["dependencies"]) | bounds(project["optional-dependencies"]["test"])
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    by_pip = next(d for d in environment["dependencies"] if isinstance(d, dict))["pip"]
    by_conda = [d for d in environment["dependencies"] if isinstance(d, str)]
    assert "-e ." in by_pip and "pip" in by_conda
    found = bounds([d for d in by_conda if d != "pip"] + [d for d in by_pip if d != "-e ."])
    assert f">={found.pop('python')}" == project["requires-python"]
    found["torch"] = found.pop("pytorch")
    assert found == wanted


def test_every_package_that_simlab_imports_is_a_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    known = bounds(project["dependencies"]) | bounds(extras["cluster"])
    known |= {"sklearn": "", "pil": "", "yaml": "", "simlab": ""}  # scikit-learn, pillow, pyyaml
    known |= {"dask": "", "distributed": "", "ipython": "", "nbformat": "", "nbclient": ""}
    for path in SIMLAB.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in (n.split(".")[0] for n in names):
                assert name in sys.stdlib_module_names or name.lower() in known, f"{path}: {name}"


def test_the_version_is_said_once_and_the_same():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f'__version__ = "{project["version"]}"' in (SIMLAB / "__init__.py").read_text()


# ----------------------------------------------------------------------------- what must not be there


def test_no_file_names_a_path_of_some_machine():
    places = ["/" + "work/", "/tmp/" + "w/", "/" + "root/", "/" + "Users/", "/" + "home/"]
    for path in tracked():
        text = path.read_text(encoding="utf-8")
        for place in places:
            assert place not in text, f"{path.relative_to(ROOT)} names {place}"


def test_images_that_were_only_borrowed_are_not_in_the_project():
    assert not [p for p in tracked() if p.suffix.lower() in (".jpg", ".jpeg", ".zip")]
    assert not [p for p in tracked() if "runs" in p.relative_to(ROOT).parts[:-1]]
