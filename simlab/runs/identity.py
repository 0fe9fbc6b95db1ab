"""What a run is found again by: the fields that count, the code, and a module of the user's.

Whatever changes the result changes one of these, or the data's digest (data.py).
"""

import ast
import contextlib
import functools
import hashlib
import inspect
from pathlib import Path

import torch
import torch.nn as nn

from simlab.config import NOT_IDENTITY, TrainConfig

# the modules whose code decides what a training run computes; config.py does so by its values alone
TRAINING_SOURCES = ("augment", "compute", "data", "evaluate", "methods", "models", "sim", "train")


def digest(data: bytes) -> str:
    """64 bits of SHA-256."""
    return hashlib.sha256(data).hexdigest()[:16]


def fields_that_count(config: TrainConfig) -> dict:
    """The fields of a configuration that change the result."""
    return {name: value for name, value in vars(config).items() if name not in NOT_IDENTITY}


def training_sources() -> list[str]:
    """The text of every module in TRAINING_SOURCES."""
    package = Path(__file__).parents[1]
    paths = [path for name in TRAINING_SOURCES for path in sorted((package / name).glob("*.py"))]
    return [path.read_text(encoding="utf-8") for path in paths]


SOURCES_AT_IMPORT = training_sources()


def code_digest() -> str:
    """A digest of the code that training runs; comments, docstrings and layout do not count.

    It is of the sources as they were imported and as they are: where they were edited under a
    running kernel either may be what runs, so that this is neither the old code nor the new.
    """
    sources = [normalised_source(s) for s in (*SOURCES_AT_IMPORT, *training_sources())]
    return digest("\n".join(sources).encode())


def module_digest(module: nn.Module) -> str:
    """A digest of a module of the user's: its layers, its weights, the code of its classes."""
    h = hashlib.sha256(repr(module).encode())
    for name, value in module.state_dict().items():
        h.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        h.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    classes = {base for part in module.modules() for base in type(part).__mro__}
    for own in sorted(classes, key=lambda c: c.__qualname__):
        methods = [] if own.__module__.startswith(("torch", "builtins")) else vars(own).values()
        for method in filter(inspect.isfunction, methods):
            with contextlib.suppress(OSError):  # no source: typed in at a plain prompt
                h.update(inspect.getsource(method).encode())
    return h.hexdigest()[:16]


@functools.cache
def normalised_source(source: str) -> str:
    """The syntax tree of a module without its docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            node.body = body[1:] or [ast.Pass()]
    return ast.dump(tree)
