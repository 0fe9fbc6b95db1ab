"""What identifies a run: the fields that count, simlab's code, and digests of what was given.

Whatever changes the result changes one of these. `modules` and `canonical` make the digests of an
encoder, a method and an augmentation of the user's, and a dataset makes its own.
"""

import ast
import functools
import json
from pathlib import Path
from typing import Any

from simlab.config import NOT_IDENTITY, TrainConfig

from .files import digest
from .tokens import code_tokens

PACKAGE = Path(__file__).parents[1]
# The code that decides what a training run computes; config.py does so by its values alone.
TRAINING_SOURCES = (
    "augment",
    "compute",
    "data",
    "evaluate",
    "layers",
    "methods",
    "models",
    "sim",
    "train",
)
# what a run's name is made of; config.json holds more
IDENTITY = ("kind", "config", "code", "data", "encoder", "method", "augment", "partners", "init")
METHODS = "methods"  # of this folder a run's own method counts, and what that imports


def fields_that_count(config: TrainConfig) -> dict[str, Any]:
    """Return the fields of a configuration that change the result."""
    return {name: value for name, value in vars(config).items() if name not in NOT_IDENTITY}


def training_files() -> list[Path]:
    """List the files whose code decides what a training run computes."""
    paths: list[Path] = []
    for name in TRAINING_SOURCES:
        path = PACKAGE / name
        paths += [path] if path.suffix else sorted(path.glob("*.py"))
    return [path for path in paths if path != PACKAGE / METHODS / "__init__.py"]


def training_sources() -> dict[str, str]:
    """Read every file that decides what a training run computes.

    Returns:
        The texts by the files' paths within the package, such as "methods/simsiam.py".
    """
    sources = {}
    for path in training_files():
        name = path.relative_to(PACKAGE).as_posix()
        sources[name] = path.read_text(encoding="utf-8")
    return sources


SOURCES_AT_IMPORT = training_sources()


def code_digest(method: str = "") -> str:
    """Return a digest of the code that training runs; comments and docstrings don't count.

    It covers the sources as they were imported and as they are now. Where they were edited under a
    running kernel either may be what runs, so that this is neither the old code nor the new.

    Args:
        method: The name of a method of simlab. The files of the other methods do not count then, so
            that a new method leaves the stored runs of the others valid. Empty: all of them count.
    """
    texts = []
    for sources in (SOURCES_AT_IMPORT, training_sources()):
        for name in files_that_count(sources, method):
            texts.append(normalised_source(sources[name]))
    return digest("\n".join(texts).encode())


def files_that_count(sources: dict[str, str], method: str) -> list[str]:
    """List the files that decide what a run of a method computes.

    Args:
        sources: As `training_sources` returns them.
        method: The method's name, which is its file's; any other name, or an empty one, belongs to
            a method of the user's, which may use every file.
    """
    if f"{METHODS}/{method}.py" not in sources:
        return list(sources)
    used = _method_files(sources, method)
    return [name for name in sources if name in used or not name.startswith(f"{METHODS}/")]


def _method_files(sources: dict[str, str], method: str) -> set[str]:
    """Return base.py, the file of a method, and the files of the same folder that it imports."""
    files: set[str] = set()
    pending = {f"{METHODS}/base.py", f"{METHODS}/{method}.py"}
    while pending:
        name = pending.pop()
        files.add(name)
        imported = {f"{METHODS}/{module}.py" for module in _neighbours(sources[name])}
        pending |= (imported & sources.keys()) - files
    return files


@functools.cache
def _neighbours(source: str) -> set[str]:
    """Return the modules of its own folder that a method's file imports."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ImportFrom):
            continue
        here = "." * node.level + (node.module or "")
        if here in (".", f"simlab.{METHODS}"):  # from . import base
            modules.update(alias.name for alias in node.names)
        modules.add(here.removeprefix(f"simlab.{METHODS}.").removeprefix("."))  # from .base import
    return modules


@functools.cache
def normalised_source(source: str) -> str:
    """Return the tokens of a file, without comments and docstrings, as text."""
    return "\0".join(code_tokens(source))


def run_name(identity: dict[str, Any]) -> str:
    """Return the name that a run gets by what it is made of, such as pretrain-3f9a01c2b7de.

    What the dataset is called does not count, since its images, labels and classes do.

    Args:
        identity: "kind", "config" and the digests; what else it holds does not count.
    """
    counting = {name: identity[name] for name in IDENTITY if name in identity}
    counting["config"] = {k: v for k, v in identity["config"].items() if k != "data"}
    text = json.dumps(counting, sort_keys=True)
    return f"{identity['kind']}-{digest(text.encode())[:12]}"
