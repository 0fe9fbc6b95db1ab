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
    "layers.py",
    "methods",
    "models",
    "sim",
    "train",
)


def fields_that_count(config: TrainConfig) -> dict[str, Any]:
    """Return the fields of a configuration that change the result."""
    return {name: value for name, value in vars(config).items() if name not in NOT_IDENTITY}


def training_files() -> list[Path]:
    """List the files whose code decides what a training run computes."""
    paths: list[Path] = []
    for name in TRAINING_SOURCES:
        path = PACKAGE / name
        paths += [path] if path.suffix else sorted(path.glob("*.py"))
    return paths


def training_sources() -> list[str]:
    """Read the text of every file that decides what a training run computes."""
    return [path.read_text(encoding="utf-8") for path in training_files()]


SOURCES_AT_IMPORT = training_sources()


def code_digest() -> str:
    """Return a digest of the code that training runs; comments, docstrings and layout don't count.

    It covers the sources as they were imported and as they are now. Where they were edited under a
    running kernel either may be what runs, so that this is neither the old code nor the new.
    """
    sources = [normalised_source(text) for text in (*SOURCES_AT_IMPORT, *training_sources())]
    return digest("\n".join(sources).encode())


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
