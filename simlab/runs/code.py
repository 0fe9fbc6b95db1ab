"""Functions and classes in a digest: the user's by what they do, others by name and version.

Nothing here imports torch.
"""

import contextlib
import enum
import functools
import tokenize
import types
import typing
from collections.abc import Iterator
from typing import Any, TypeGuard

from .canonical import Writer, write
from .sources import (
    code_of,
    functions_of,
    global_names,
    is_the_users,
    modules_imported_by,
    names_within,
    qualified_name,
)


def object_digest(value: Any, label: str, name: str = "") -> str:
    """Return the digest of an object.

    Args:
        value: The object.
        label: What messages call it, such as "augment".
        name: Stands for what can't be digested.

    Raises:
        ValueError: Something in it can't be digested and there is no name; the message says where.
    """
    writer = Writer(name)
    writer.value(value, label)
    return writer.hexdigest()


@write.register
def _(value: types.FunctionType, out: Writer) -> None:
    compiled = getattr(value, "_torchdynamo_orig_callable", None)
    if compiled is not None:  # by torch.compile, whose closure is full of machinery
        out.text("compiled")
        write(compiled, out)
        return
    if not out.is_new(value):
        return
    cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
    closure = dict(_filled(cells))
    if is_the_users(value):
        try:
            tokens = code_of(value)
        except (OSError, SyntaxError, tokenize.TokenError):
            out.refuse(value, "a function whose source is not to be had")
            return
        out.text("function", *tokens)
        out.values(_globals_used_by(value))
    else:
        out.text("function", qualified_name(value, not out.structure))
        if not closure:
            return
    out.values(closure)
    out.value(value.__defaults__, "defaults")
    out.value(value.__kwdefaults__, "defaults by name")
    out.values(value.__dict__)


def _filled(cells: Any) -> Iterator[tuple[str, Any]]:
    """The variables that a function closes over, as far as they have a value yet."""
    for name, cell in cells:
        with contextlib.suppress(ValueError):
            yield name, cell.cell_contents


def _globals_used_by(function: types.FunctionType) -> dict[str, Any]:
    """The globals that a function names; of a module of the user's, what it takes from it."""
    values: dict[str, Any] = {}
    names = names_within(function.__code__)
    for name in global_names(function.__code__):
        value = function.__globals__.get(name)
        if _is_module_of_the_user(value):
            values |= _taken_from(value, name, names)
        elif name in function.__globals__:
            values[name] = value
    for module in modules_imported_by(function):
        if is_the_users(module):
            values |= _taken_from(module, module.__name__, names)
    return values


def _taken_from(
    module: types.ModuleType, path: str, names: set[str], above: tuple[types.ModuleType, ...] = ()
) -> dict[str, Any]:
    """What code with these names may take from a module of the user's, and from those in it."""
    values: dict[str, Any] = {}
    for name in names & vars(module).keys():
        value = vars(module)[name]
        if not _is_module_of_the_user(value):
            values[f"{path}.{name}"] = value
        elif value not in (*above, module):
            values |= _taken_from(value, f"{path}.{name}", names, (*above, module))
    return values


def _is_module_of_the_user(value: Any) -> TypeGuard[types.ModuleType]:
    return isinstance(value, types.ModuleType) and is_the_users(value)


@write.register
def _(value: type, out: Writer) -> None:
    if not out.is_new(value):
        return
    if is_the_users(value):
        out.text("class", value.__name__)
        if issubclass(value, enum.Enum):
            out.values({name: member.value for name, member in value.__members__.items()})
        out.values(functions_of(value))
    else:
        out.text("class", qualified_name(value, not out.structure))
    for base in value.__mro__[1:]:
        if is_the_users(base) or is_the_users(value):
            write(base, out)


@write.register
def _(value: types.ModuleType, out: Writer) -> None:
    if not is_the_users(value):
        out.text("module", qualified_name(value, not out.structure))
    elif out.is_new(value):  # an attribute, of which anything may be used
        out.text("module of the user's")
        out.values({name: item for name, item in vars(value).items() if name[:2] != "__"})


@write.register(types.BuiltinFunctionType)
@write.register(types.MethodDescriptorType)
@write.register(types.WrapperDescriptorType)
@write.register(types.MethodWrapperType)
@write.register(types.MemberDescriptorType)
@write.register(types.GetSetDescriptorType)
@write.register(types.ClassMethodDescriptorType)
def _(value: Any, out: Writer) -> None:
    out.text("builtin", qualified_name(value, not out.structure))
    owner = getattr(value, "__self__", None)
    if owner is not None and not isinstance(owner, types.ModuleType | type):
        out.value(owner, "self")


@write.register
def _(value: types.MethodType, out: Writer) -> None:
    out.value(value.__func__, "function")
    out.value(value.__self__, "self")


@write.register(staticmethod)
@write.register(classmethod)
@write.register(functools._lru_cache_wrapper)
def _(value: Any, out: Writer) -> None:
    out.text(type(value).__name__)
    write(value.__wrapped__, out)


@write.register
def _(value: property, out: Writer) -> None:
    out.value([value.fget, value.fset, value.fdel], "property")


@write.register
def _(value: functools.cached_property, out: Writer) -> None:
    out.value(value.func, "cached_property")


@write.register
def _(value: functools.partial, out: Writer) -> None:
    out.text("partial")
    out.value(value.func, "function")
    out.value(value.args, "arguments")
    out.value(value.keywords, "named arguments")


@write.register(types.GenericAlias)
@write.register(types.UnionType)
def _(value: Any, out: Writer) -> None:
    out.value(typing.get_origin(value), "alias")
    out.value(typing.get_args(value), "arguments")


@write.register
def _(value: types.MappingProxyType, out: Writer) -> None:
    out.value(dict(value), "read-only")
