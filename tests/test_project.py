"""The project itself: what is installed, what the two ways to install it say, what is not in it."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml

from simlab_course import style

ROOT = Path(__file__).parent.parent
PACKAGES = (ROOT / "simlab", ROOT / "simlab_course")
FILES = sorted(path for package in PACKAGES for path in package.rglob("*.py"))
# where the name of an import is not the name of what is installed
INSTALLED_AS = {"sklearn": "scikit-learn", "pil": "pillow", "yaml": "pyyaml"}
# what comes with a dependency: dask[distributed], jupyterlab, nbconvert
INCLUDED = {"distributed", "nbclient"}


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


# what may not be the newest; pyproject.toml says why
HELD_BACK = {"pytest": "<9.2"}


def bounds(requirements):
    """'torch>=2.6' -> {'torch': '2.6'}; extras in brackets are left out."""
    pairs = [re.fullmatch(r"([\w.-]+)(?:\[.*\])?>=([\d.]+)(,.*)?", r) for r in requirements]
    assert all(pairs), f"every package has a lower bound: {requirements}"
    above = {m[1]: m[3].removeprefix(",") for m in pairs if m[3]}
    assert above.items() <= HELD_BACK.items(), f"an upper bound without a reason: {above}"
    return {m[1].lower(): m[2] for m in pairs}


def tracked():
    """The text files of the project, as git knows them."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout")
    out = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = [ROOT / name for name in out.stdout.splitlines()]
    return [f for f in files if f.is_file() and f.suffix not in (".npz", ".png", ".webp")]


# ----------------------------------------------------------------------------------- what is needed


def test_conda_installs_the_same_packages_and_lower_bounds_as_pip():
    extras = project()["optional-dependencies"]
    by_pyproject = bounds(project()["dependencies"]) | bounds(extras["test"])
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    by_pip = next(d for d in environment["dependencies"] if isinstance(d, dict))["pip"]
    by_conda = [d for d in environment["dependencies"] if isinstance(d, str)]
    assert "-e ." in by_pip and "pip" in by_conda
    installed = bounds([d for d in [*by_conda, *by_pip] if d not in ("pip", "-e .")])
    assert f">={installed.pop('python')}" == project()["requires-python"]
    installed["torch"] = installed.pop("pytorch")
    assert installed == by_pyproject


def absolute_imports(path):
    """The top-level packages that a file imports, at its top or inside of a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


def test_every_package_that_is_imported_is_a_dependency():
    declared = bounds(project()["dependencies"]) | bounds(
        project()["optional-dependencies"]["cluster"]
    )
    imported = {name: path for path in FILES for name in absolute_imports(path)}
    assert {"torch", "sklearn", "ipywidgets"} <= imported.keys(), "both packages are read"
    for name, path in imported.items():
        if name in sys.stdlib_module_names or name in ("simlab", "simlab_course"):
            continue
        package = INSTALLED_AS.get(name.lower(), name.lower())
        assert package in declared or package in INCLUDED, f"{path}: {name}"


def test_the_version_is_said_once_and_the_same():
    text = (ROOT / "simlab" / "__init__.py").read_text(encoding="utf-8")
    assert f'__version__ = "{project()["version"]}"' in text


def test_lint_comes_before_the_tests_in_continuous_integration():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.findall(r"^make ([\w-]+)", script, re.MULTILINE) == ["lint", "test", "test-notebooks"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)[1]
    assert all(tool in lint for tool in ("ruff check", "ruff format --check", "mypy"))


# ------------------------------------------------------------------------------------- figures


def test_every_figure_takes_its_colours_from_the_palette():
    """Okabe and Ito's, or a colour map whose lightness rises; matplotlib's own are neither."""
    sources = [p.read_text(encoding="utf-8") for p in FILES]
    for path in (ROOT / "notebooks").rglob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        sources += [c.source for c in cells if c.cell_type == "code"]
    safe = {*style.PALETTE, "black", "white", "k"}
    for source in sources:
        for color in re.findall(r"\b(?:edge|face|e)?color=\"([^\"]+)\"", source):
            assert color in safe or re.fullmatch(r"0?\.\d+|transparent", color), color
        assert not re.search(r"[\"']C(\d|\{)", source), "matplotlib's own colours"
        for cmap in re.findall(r"cmap(?:: str)? ?= ?\"(\w+)\"", source):
            assert cmap in ("gray", "Blues", "cividis", "viridis", "magma"), cmap


# ----------------------------------------------------------------------------- what must not be there


def test_no_file_names_a_path_of_some_machine():
    roots = ["/" + "work/", "/tmp/" + "w/", "/" + "root/", "/" + "Users/", "/" + "home/"]
    for path in tracked():
        text = path.read_text(encoding="utf-8")
        for root in roots:
            assert root not in text, f"{path.relative_to(ROOT)} names {root}"


def test_images_that_were_only_borrowed_are_not_in_the_project():
    assert not [p for p in tracked() if p.suffix.lower() in (".jpg", ".jpeg", ".zip")]
    assert not [p for p in tracked() if p.relative_to(ROOT).parts[0] == "runs"]


# ------------------------------------------------------------------------------- the tests themselves


@pytest.mark.long
def test_tests_that_share_a_fixture_run_in_one_process(tmp_path):
    """Else each process would make it again: a training, a JupyterLab, two processes."""
    shutil.copy(ROOT / "tests/conftest.py", tmp_path)
    (tmp_path / "test_shared.py").write_text(
        "import os\nimport pytest\n\n\n"
        '@pytest.fixture(scope="module")\n'
        "def shared():\n    return os.getpid()\n\n\n"
        '@pytest.mark.parametrize("i", range(6))\n'
        "def test_it(shared, i):\n    print(f'made in {shared}')\n    assert False\n"
    )
    words = ["-q", "-n", "2", "--dist", "loadgroup", "-p", "no:cacheprovider", "-p", "no:nbval"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, str(tmp_path)], capture_output=True, text=True,
        cwd=tmp_path,
    )  # fmt: skip
    processes = re.findall(r"made in (\d+)", done.stdout)
    assert len(processes) >= 6 and len(set(processes)) == 1, done.stdout
