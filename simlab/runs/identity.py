"""What identifies a run: the fields that count, the code, and a module of the user's.

Whatever changes the result changes one of these, or the digest of the dataset.
"""

import ast
import contextlib
import functools
import hashlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from simlab.config import NOT_IDENTITY, TrainConfig

from .files import digest

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
    """Return a digest of the code that training runs; comments, docstrings and layout don't count.

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
    """Return the syntax tree of a file without its docstrings, as text."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            continue
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)


def module_digest(module: nn.Module) -> str:
    """Return a digest of a user's module: its layers, its weights, the code of its classes."""
    hasher = hashlib.sha256(repr(module).encode())
    for name, value in module.state_dict().items():
        hasher.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        bytes_of_value = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        hasher.update(bytes_of_value.numpy())
    for source in _sources_of_methods(module):
        hasher.update(source.encode())
    return hasher.hexdigest()[:16]


def _sources_of_methods(module: nn.Module) -> Iterator[str]:
    """Yield the source of every method of the user's classes, ordered by the classes' names."""
    classes = {base for child in module.modules() for base in type(child).__mro__}
    for cls in sorted(classes, key=lambda c: c.__qualname__):
        if cls.__module__.startswith(("torch", "builtins")):
            continue
        for method in filter(inspect.isfunction, vars(cls).values()):
            with contextlib.suppress(OSError):  # no source: typed in at a plain prompt
                yield inspect.getsource(method)
