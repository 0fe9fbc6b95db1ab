"""What identifies a run's code: whatever may change the result counts, and nothing else."""

import ast
import shutil
from pathlib import Path

import pytest

import simlab
from simlab.config import PretrainConfig, SupervisedConfig
from simlab.runs import claim, identity

PACKAGE = Path(simlab.__file__).parent
METHODS = ("simsiam", "simclr", "supervised")


def test_comments_docstrings_and_layout_do_not_count_and_all_else_does():
    source = 'def f(x):\n    """Old."""\n    s = "text"\n    return x + 1\n'
    same_code = [
        'def f(x):  # why\n\n    """New."""\n    s = "text"\n    return x+1\n',
        'def f(x):\n  s = "text"\n  # why\n  return x \\\n    + 1',
        '"""A module."""\n' + source,
    ]
    other_code = [
        source.replace("+ 1", "+ 2"), source.replace("text", "word"), source + "f(1)\n",
        source.replace("(x)", "(x=0)"), source.replace("x + 1", "1 + x"),
    ]  # fmt: skip
    normalised = identity.normalised_source
    assert {normalised(text) for text in same_code} == {normalised(source)}
    assert len({normalised(text) for text in [source, *other_code]}) == 6


# what training imports and which decides nothing: config's values count, others check and store
# (`runs` imports `similarity` to compare what was trained)
DECIDES_NOTHING = {"config.py", "_checks.py", "runs", "similarity", "methods/__init__.py"}
ABOVE = PACKAGE / "evaluate" / "bench"  # stands on training, and is imported by name alone


def imported(path: Path) -> set[Path]:
    """The files of simlab that a file imports."""
    files = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom):
            continue
        parts = (node.module or "").split(".") if node.module else []
        if node.level:
            base = path.parents[node.level - 1]
        elif parts[:1] == ["simlab"]:
            base, parts = PACKAGE, parts[1:]
        else:
            continue
        for names in (parts, *([*parts, alias.name] for alias in node.names)):
            module = base.joinpath(*names)
            files |= {module.with_suffix(".py"), module / "__init__.py"}
    return {file for file in files if file.is_file()}


def test_the_digest_covers_every_file_that_training_imports():
    seen: set[Path] = set()
    ahead = set((PACKAGE / "train").glob("*.py"))
    while ahead:
        path = ahead.pop()
        seen.add(path)
        if path.parent.name == "runs":  # which stores and opens runs, and compares finished ones
            continue
        below = {file for file in imported(path) if ABOVE not in file.parents}
        ahead |= below - seen - {PACKAGE / "__init__.py"}  # which gathers the public names
    names = {path.relative_to(PACKAGE).as_posix() for path in seen}
    deciding = set()
    for name in names - {"__init__.py"}:
        if name not in DECIDES_NOTHING and name.split("/")[0] not in DECIDES_NOTHING:
            deciding.add(name)
    assert deciding <= set(identity.training_sources())
    assert {
        "methods/simsiam.py",
        "sim/loss.py",
        "layers/choosing.py",
        "augment/views.py",
    } <= deciding


def counted(method: str) -> list[str]:
    return identity.files_that_count(identity.training_sources(), method)


@pytest.mark.parametrize("name", identity.TRAINING_SOURCES)
def test_a_change_in_any_training_source_changes_the_digest(name, monkeypatch):
    sources = identity.training_sources()
    assert sources == identity.SOURCES_AT_IMPORT
    files = [file for file in counted("simsiam") if file.split("/")[0] == name]
    assert files
    for file in files:
        with monkeypatch.context() as patched:
            before = identity.code_digest("simsiam")
            changed = sources | {file: sources[file] + "\nx = 1\n"}
            patched.setattr(identity, "training_sources", lambda changed=changed: changed)
            edited_under_a_kernel = identity.code_digest("simsiam")
            patched.setattr(identity, "SOURCES_AT_IMPORT", changed)
            after_restart = identity.code_digest("simsiam")
        assert len({before, edited_under_a_kernel, after_restart}) == 3, file


# ---------------------------------------------------------------------------- methods side by side


@pytest.mark.parametrize("method", METHODS)
def test_of_the_methods_the_run_s_own_and_the_base_count(method):
    files = {file for file in counted(method) if file.startswith("methods/")}
    assert {"methods/base.py", f"methods/{method}.py"} <= files
    assert not files & {f"methods/{other}.py" for other in METHODS if other != method}
    assert counted(method)[0].startswith("augment/") and "train/loop.py" in counted(method)


def test_a_method_of_the_users_may_use_every_file():
    for name in ("", "Barlow"):
        files = {file for file in counted(name) if file.startswith("methods/")}
        assert {f"methods/{file}.py" for file in ("base", *METHODS)} <= files


@pytest.mark.parametrize(
    "line",
    [
        "from .simclr import nt_xent",
        "from . import simclr",
        "from simlab.methods.simclr import nt_xent",
        "from simlab.methods import simclr",
    ],
)
def test_a_method_that_uses_anothers_file_counts_it(line):
    sources = identity.training_sources() | {"methods/mix.py": f"def f():\n    {line}\n"}
    files = identity.files_that_count(sources, "mix")
    used = {file for file in files if file.startswith("methods/")}
    assert used == {"methods/base.py", "methods/mix.py", "methods/simclr.py"}


@pytest.fixture
def copy(tmp_path, monkeypatch) -> Path:
    """A copy of the package, which is read in its place."""
    ignore = shutil.ignore_patterns("__pycache__")
    copy = Path(shutil.copytree(PACKAGE, tmp_path / "simlab", ignore=ignore))
    monkeypatch.setattr(identity, "PACKAGE", copy)
    return copy


def digests() -> dict[str, str]:
    return {method: identity.code_digest(method) for method in (*METHODS, "")}


def test_a_new_method_s_file_leaves_the_runs_of_the_others_as_they_are(copy):
    before = digests()
    (copy / "methods" / "barlow.py").write_text("from .base import Method\n")
    with open(copy / "methods" / "__init__.py", "a") as file:  # its line in the list of methods
        file.write("\nx = 1\n")
    after = digests()
    assert {name for name in before if before[name] != after[name]} == {""}
    assert identity.code_digest("barlow") not in after.values()


def test_a_changed_method_s_file_changes_its_own_runs_alone(copy):
    before = digests()
    with open(copy / "methods" / "simclr.py", "a") as file:
        file.write("\nx = 1\n")
    after = digests()
    assert {name for name in before if before[name] != after[name]} == {"simclr", ""}
    with open(copy / "methods" / "base.py", "a") as file:
        file.write("\nx = 1\n")
    assert not set(digests().values()) & {*before.values(), *after.values()}


def test_a_run_is_claimed_with_the_digest_of_its_method(tmp_path):
    def code(config, method=""):
        with claim("try", config, {"method": method}, tmp_path) as run:
            return run.identity["code"]

    digest_of = digests()
    assert code(PretrainConfig(method="simsiam pred_dim=8")) == digest_of["simsiam"]
    assert code(PretrainConfig(method="simclr")) == digest_of["simclr"]
    assert code(SupervisedConfig()) == digest_of["supervised"]
    # a class of the user's that is named like a method of simlab
    assert code(PretrainConfig(method="simsiam"), method="0123") == digest_of[""]
    assert len(set(digest_of.values())) == 4
