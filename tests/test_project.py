"""The project itself: what is installed, what the two ways to install it say, what is not in it."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zlib
from pathlib import Path

import nbformat
import pytest
import torch
import yaml

from simlab_course import style

ROOT = Path(__file__).parent.parent
PACKAGES = (ROOT / "simlab", ROOT / "simlab_course")
FILES = sorted(path for package in PACKAGES for path in package.rglob("*.py"))
# where the name of an import is not the name of what is installed
INSTALLED_AS = {"sklearn": "scikit-learn", "pil": "pillow", "yaml": "pyyaml"}
# what comes with a dependency: dask[distributed], papermill
INCLUDED = {"distributed", "nbclient"}
# run by their paths, where papermill is: not imported by simlab
SCRIPTS = {ROOT / "simlab" / "sweeps" / "point_process.py"}


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


def extras_of_the_course():
    """The extras that `make` installs."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return re.search(r"^EXTRAS := (.*)$", makefile, re.MULTILINE)[1].split(",")


def test_conda_installs_the_same_packages_and_lower_bounds_as_make():
    extras = project()["optional-dependencies"]
    by_pyproject = bounds(project()["dependencies"])
    for extra in extras_of_the_course():
        by_pyproject |= bounds(extras[extra])
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    by_pip = next(d for d in environment["dependencies"] if isinstance(d, dict))["pip"]
    by_conda = [d for d in environment["dependencies"] if isinstance(d, str)]
    assert "-e ." in by_pip and "pip" in by_conda
    installed = bounds([d for d in [*by_conda, *by_pip] if d not in ("pip", "-e .")])
    assert f">={installed.pop('python')}" == project()["requires-python"]
    installed["torch"] = installed.pop("pytorch")
    assert installed == by_pyproject


def test_the_readme_installs_with_pip_what_make_installs():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f'pip install -e ".[{",".join(extras_of_the_course())}]"' in readme


def imports_of(path):
    """The top-level packages that a file imports, and whether it does so when it is loaded."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = set()
    for node in ast.walk(tree):
        is_type_check = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or is_type_check:
            inside |= set(ast.walk(node))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node not in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0], node not in inside


def packages_imported(path):
    """Names of packages to install, and whether they are imported when the file is loaded."""
    for name, at_load in imports_of(path):
        if name not in sys.stdlib_module_names and name not in ("simlab", "simlab_course"):
            yield INSTALLED_AS.get(name.lower(), name.lower()), at_load


def test_every_package_that_is_imported_is_a_dependency():
    declared = set(bounds(project()["dependencies"])) | INCLUDED
    for requirements in project()["optional-dependencies"].values():
        declared |= set(bounds(requirements))
    imported = {name: path for path in FILES for name, _ in packages_imported(path)}
    assert {"torch", "scikit-learn", "ipywidgets"} <= imported.keys(), "both packages are read"
    for package, path in imported.items():
        assert package in declared, f"{path}: {package}"


def test_simlab_is_loaded_without_jupyter_and_the_course_with_its_extra_alone():
    """Training on a cluster needs no JupyterLab; what only sweeps over notebooks need waits."""
    core = set(bounds(project()["dependencies"]))
    notebooks = set(bounds(project()["optional-dependencies"]["notebooks"]))
    assert not core & {"jupyterlab", "ipywidgets", "ipython", "papermill", "nbformat"}
    for path in FILES:
        allowed = core if path.is_relative_to(ROOT / "simlab") else core | notebooks
        if path in SCRIPTS:
            allowed = core | notebooks
        at_load = {package for package, loaded in packages_imported(path) if loaded}
        assert at_load <= allowed, f"{path.relative_to(ROOT)}: {at_load - allowed}"


def test_the_extras_are_named_alike_wherever_they_are_named():
    extras = set(project()["optional-dependencies"])
    assert {"notebooks", "test", "bench", "cluster", "models", "logging"} <= extras
    named = []
    for path in tracked():
        for line in path.read_text(encoding="utf-8").splitlines():
            if "pip install" in line or line.startswith("-e ."):
                named += re.findall(r"(?:\.|simlab(?:-ssl)?)\[([a-z,]+)\]", line)
                assert "simlab[" not in line, f"{path.name}: PyPI has no such package: {line}"
    assert named and set(",".join(named).split(",")) <= extras


def test_pypi_would_take_the_distribution_s_name():
    """It refuses names that equal another one's without -, _ and . (and with 0 as o, 1 and l as i)."""
    plain = re.sub("[-_.]", "", project()["name"]).lower()
    assert plain.startswith("simlab") and plain not in ("simlab", "sim-lab"), "sim-lab is there"
    assert project()["name"].islower()


def test_the_version_is_said_once_and_the_same():
    text = (ROOT / "simlab" / "__init__.py").read_text(encoding="utf-8")
    assert f'__version__ = "{project()["version"]}"' in text
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == project()["version"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys(), (
        "what CFF 1.2 requires"
    )


def test_lint_comes_before_the_tests_in_continuous_integration():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.findall(r"^make ([\w-]+)", script, re.MULTILINE) == ["lint", "test", "test-notebooks"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)[1]
    assert all(tool in lint for tool in ("ruff check", "ruff format --check", "mypy"))


def test_a_fork_on_github_runs_the_same_checks_on_the_lowest_python():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "checks.yml").read_text("utf-8"))
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step][-1] == "bash .ci/run"
    lowest = project()["requires-python"].removeprefix(">=")
    assert job["container"].startswith(f"python:{lowest}-")


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_installs_pytorch_without_cuda_in_one_word_and_changes_no_environment_unsaid(tmp_path):
    def make(*words):
        command = ["make", "-n", "run", f"VENV={tmp_path}", *words]
        # without the words of the `make test` that runs this
        outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        outside.pop("TORCH", None)
        return subprocess.run(command, cwd=ROOT, env=outside, capture_output=True, text=True)

    index = "pip install --quiet --disable-pip-version-check --no-compile torch torchvision --index-url https://"
    assert index + "download.pytorch.org/whl/cpu" in make("TORCH=cpu").stdout
    assert "--index-url" not in make().stdout
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / ".ready").write_text("cpu\n")
    assert not make("TORCH=cpu").stderr and not make().stderr
    assert "was made with TORCH=cpu and stays so" in make("TORCH=torch==2.14.1").stderr


# ------------------------------------------------------------------------------------------ Binder


def test_binder_gets_python_and_simlab_as_repo2docker_reads_them():
    """It takes `python-3.12` in runtime.txt; in environment.yml it would overlook `python>=3.11`."""
    runtime = (ROOT / ".binder" / "runtime.txt").read_text(encoding="utf-8").strip()
    version = re.fullmatch(r"python-(\d+)\.(\d+)", runtime)
    lowest = tuple(map(int, project()["requires-python"].removeprefix(">=").split(".")))
    assert version and tuple(map(int, version.groups())) >= lowest
    assert f"Programming Language :: Python :: {runtime[7:]}" in project()["classifiers"]
    text = (ROOT / ".binder" / "requirements.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert lines[0].endswith("/whl/cpu") and lines[-1] == "-e .[notebooks]"


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("repo2docker"), reason="no repo2docker here")
def test_repo2docker_makes_the_dockerfile_that_is_meant():
    command = [sys.executable, "-m", "repo2docker", "--no-build", "--debug", str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-3000:]
    assert "for python=3.12" in output
    copied = output.index("COPY --chown=0:0 src/ ${REPO_DIR}/")  # `-e .` needs all of it
    installed = output.index('pip install --no-cache-dir -r ".binder/requirements.txt"')
    assert copied < installed


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


def test_every_test_has_random_numbers_of_its_own(request):
    assert torch.initial_seed() == zlib.crc32(request.node.nodeid.encode())
