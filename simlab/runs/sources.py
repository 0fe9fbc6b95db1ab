"""Whose code it is, and where it stands: the user's, an installed package's, or Python's own."""

import ast
import contextlib
import dataclasses
import dis
import functools
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import inspect
import re
import sys
import sysconfig
import textwrap
import types
from pathlib import Path
from typing import Any

from .tokens import code_tokens

INSTALLED = {"site-packages", "dist-packages"}
LAMBDA = "<lambda>"
# functions that Python writes into a class of the user's, differently from version to version
GENERATED = {"__annotate__", "__annotate_func__", "__replace__"}
# what a class holds beside what the user wrote
MACHINERY = {
    "_abc_impl",
    "_is_protocol",
    "_is_runtime_protocol",
    "_member_map_",
    "_value2member_map_",
}
LOADS_GLOBAL = ("LOAD_GLOBAL", "LOAD_NAME")


def is_the_users(item: Any) -> bool:
    """Tell whether a function, class or module is neither installed, nor simlab's, nor Python's.

    An installed package in development (`pip install -e`) is the user's: its version stays while
    its code changes.
    """
    module = _home(item)
    if module.partition(".")[0] == "simlab":
        return False
    if module == "__main__":
        return True
    loaded = sys.modules.get(module)
    if loaded is None:
        return True
    file = getattr(loaded, "__file__", None)
    if file is None:
        is_of_exec = module == "builtins" and not hasattr(loaded, getattr(item, "__qualname__", ""))
        return is_of_exec or not _is_standard(module)
    if INSTALLED & set(Path(file).parts):
        return isinstance(item, type) and "<locals>" in item.__qualname__
    return not Path(file).is_relative_to(_standard_folder())


def _home(item: Any) -> str:
    """The name of the module that an item's code is in.

    A decorated function has copied the name of another (functools.wraps); its globals tell.
    """
    if isinstance(item, types.FunctionType):
        return str(item.__globals__.get("__name__", "__main__"))
    if isinstance(item, types.ModuleType):
        return item.__name__
    return str(getattr(item, "__module__", None) or "builtins")


def _is_standard(module: str) -> bool:
    return module.partition(".")[0] in (*sys.stdlib_module_names, *sys.builtin_module_names)


@functools.cache
def _standard_folder() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def qualified_name(item: Any, with_version: bool = True) -> str:
    """Return module and name of an item that is not the user's, with its package's version."""
    module = _home(item)
    name = getattr(item, "__qualname__", "")
    if isinstance(item, types.FunctionType):
        name = item.__code__.co_qualname
    owner = getattr(item, "__objclass__", None) or getattr(item, "__self__", None)
    if isinstance(owner, type):
        module = owner.__module__
        name = f"{owner.__qualname__}.{getattr(item, '__name__', name)}"
    version = package_version(module.partition(".")[0]) if with_version else ""
    return f"{module}.{name} {version}".strip()


@functools.cache
def package_version(package: str) -> str:
    """Return the version of an installed package, without what it was built for (+cu126)."""
    if package == "simlab" or _is_standard(package):
        return ""
    version = getattr(sys.modules.get(package), "__version__", "")
    if not version:
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return ""
    return str(version).partition("+")[0]


def simlab_version() -> str:
    """Return the version of this simlab."""
    return str(sys.modules["simlab"].__version__)


# ------------------------------------------------------------------------------------- functions


def code_of(function: types.FunctionType) -> list[str]:
    """Return the tokens of a function of the user's, with its decorators; of a lambda its own.

    Raises:
        OSError: There is no source: it was typed in at a plain prompt, or made by exec.
        SyntaxError: The source is no Python.
    """
    if function.__name__ == LAMBDA or function.__code__.co_name == LAMBDA:
        return code_tokens(_lambda_source(function))
    source = textwrap.dedent(inspect.getsource(function))
    if not re.search(rf"\bdef\s+{function.__code__.co_name}\b", source):
        raise OSError("the file holds something else where this function was")
    return code_tokens(source)


def _lambda_source(function: types.FunctionType) -> str:
    """The text of a lambda: the innermost one around the places of its code.

    Where Python keeps no places (-X no_debug_ranges) it is that of all lambdas in its line.
    """
    lines, _ = inspect.findsource(function)
    source = "".join(lines)
    code = function.__code__
    candidates = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Lambda) and node.lineno == code.co_firstlineno:
            candidates.append(node)
    around = [node for node in candidates if _is_around(node, code)]
    if around:
        candidates = [min(around, key=lambda node: _extent(node)[1])]
    return "\n".join(ast.get_source_segment(source, node) or "" for node in candidates)


def _is_around(node: ast.Lambda, code: types.CodeType) -> bool:
    """Whether all of a function's code comes from within a lambda's body."""
    start, end = _extent(node.body)
    places = []
    for line, _, column, _ in code.co_positions():
        if line is not None and column is not None and (line, column) != (code.co_firstlineno, 0):
            places.append((line, column))
    return bool(places) and all(start <= place < end for place in places)


def _extent(node: ast.expr) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where an expression starts and ends: (line, column in bytes) each."""
    start = (node.lineno, node.col_offset)
    return start, (node.end_lineno or node.lineno, node.end_col_offset or node.col_offset)


def global_names(code: types.CodeType) -> set[str]:
    """Return the names that a function, or a function within it, looks up as globals."""
    names: set[str] = set()
    for each in _codes_within(code):
        for instruction in dis.get_instructions(each):
            if instruction.opname in LOADS_GLOBAL:
                names.add(str(instruction.argval))
    return names


def names_within(code: types.CodeType) -> set[str]:
    """Return all names in a function, those of attributes included."""
    return {name for each in _codes_within(code) for name in each.co_names}


def modules_imported_by(function: types.FunctionType) -> list[types.ModuleType]:
    """Return the modules that a function imports itself, when it is called."""
    package = function.__globals__.get("__package__") or ""
    names: list[str] = []
    for code in _codes_within(function.__code__):
        loaded: list[Any] = []
        for instruction in dis.get_instructions(code):
            if instruction.opname == "IMPORT_NAME":
                dots = "." * loaded[-2]  # then comes what is taken from the module
                names.append(dots + str(instruction.argval))
            loaded.append(instruction.argval)
    modules = [_module_called(name, package) for name in names]
    modules += [_module_called(name.partition(".")[0], package) for name in names]
    return [module for module in modules if module is not None]


def _module_called(name: str, package: str) -> types.ModuleType | None:
    """A module; one of the user's is imported where nobody has done so yet. None: there is none."""
    with contextlib.suppress(Exception):  # of many kinds: its code is run
        full_name = importlib.util.resolve_name(name, package)
        top = full_name.partition(".")[0]
        if full_name in sys.modules or _is_file_of_the_user(importlib.util.find_spec(top)):
            return importlib.import_module(full_name)
    return None


def _is_file_of_the_user(spec: importlib.machinery.ModuleSpec | None) -> bool:
    if spec is None or spec.origin is None or _is_standard(spec.name):
        return False
    return not INSTALLED & set(Path(spec.origin).parts)


def _codes_within(code: types.CodeType) -> list[types.CodeType]:
    codes = [code]
    for each in codes:
        codes += [value for value in each.co_consts if isinstance(value, types.CodeType)]
    return codes


# --------------------------------------------------------------------------------------- classes


def functions_of(cls: type) -> dict[str, Any]:
    """Return what the user wrote into a class: its methods, properties and values, by name."""
    is_of_fields = issubclass(cls, tuple) or dataclasses.is_dataclass(cls)
    members = {}
    for name, member in vars(cls).items():
        is_dunder = name.startswith("__") and name.endswith("__")
        is_code = isinstance(member, types.FunctionType | staticmethod | classmethod)
        if name in GENERATED | MACHINERY or (is_dunder and not is_code):
            continue
        if is_of_fields and _is_generated(member):
            continue
        members[name] = member
    return members


def _is_generated(member: Any) -> bool:
    """Whether a dataclass or a named tuple wrote a method, which its fields decide."""
    function = getattr(member, "__wrapped__", member)
    code = getattr(function, "__code__", None)
    if code is None:
        return False
    home = function.__globals__.get("__name__")
    return code.co_filename.startswith("<string>") or home in ("dataclasses", "collections")
