"""Code of the user's own: what a method or an augmentation of theirs is identified by.

A run is stored under everything that decides its result. For simlab's own code that is the
package's digest; for a class or function of the user's it is the source of it and of the functions
and classes of theirs that it uses.
"""

import builtins
import dataclasses
import inspect
import types
from collections.abc import Callable, Iterable
from typing import Any

from simlab.methods.base import Method, MethodModule
from simlab.runs import digest

# packages whose code is no user's
NOT_THE_USERS = ("simlab", "torch", "torchvision", "numpy")
PLAIN = (bool, int, float, str, tuple)  # values whose repr says all there is to say


def check_type(name: str, value: object, expected: type) -> None:
    """Refuse a value of another type; raises TypeError."""
    if not isinstance(value, expected):
        raise TypeError(f"{name} is a {type(value).__name__}: expected a {expected.__name__}")


def check_method(method: object) -> None:
    """Refuse what is no method, and options that no dataclass knows of.

    Raises:
        TypeError: It is none, or its class lacks its decorator.
    """
    if not isinstance(method, Method):
        name = method.__name__ if isinstance(method, type) else type(method).__name__
        hint = f": did you mean {name}()?" if isinstance(method, type) else ""
        raise TypeError(f"method is {name}: expected an instance of a Method{hint}")
    fields = {field.name for field in dataclasses.fields(method)}
    annotations = vars(type(method)).get("__annotations__", {})
    options = {name for name, hint in annotations.items() if "ClassVar" not in str(hint)}
    missing = sorted(options - fields)
    if missing:
        raise TypeError(
            f"{type(method).__name__} is no dataclass, so that {', '.join(missing)} would be no "
            "option: write @dataclass(frozen=True, kw_only=True) above the class"
        )


def check_augmentation(augment: object) -> str:
    """The name of a callable augmentation; raises TypeError for what is not callable."""
    if not callable(augment):
        raise TypeError(
            f"augment is a {type(augment).__name__}: expected a recipe's text, or a callable of "
            "(images, generator)"
        )
    return augmentation_name(augment)


def method_digest(method: Method, network: MethodModule) -> str:
    """What a method of the user's is told from others by, beside its options; "" for simlab's."""
    cls = type(method)
    if cls.__module__.partition(".")[0] == "simlab":
        return ""
    modules = {type(module) for module in network.modules()}
    return source_digest(cls, *modules)


def source_digest(*objects: Any) -> str:
    """Digest the sources of classes and functions, with those that they use.

    Args:
        objects: Functions, classes, or instances of classes; those of simlab, torch and the like
            count by their name alone.

    Returns:
        A digest that changes when any of the sources does.

    Raises:
        ValueError: A function keeps values of its own that no source shows (a closure).
    """
    sources: dict[str, str] = {}
    for item in objects:
        is_code = isinstance(item, type | types.FunctionType)
        _collect(item if is_code else type(item), sources)
    return digest("\n".join(sorted(sources.values())).encode())


def augmentation_name(augment: Callable) -> str:
    """Name a callable augmentation: a function's name, or a class's with its fields' values.

    Raises:
        ValueError: It is a closure or a lambda, which cannot be told apart by source, and has no
            `name`.
    """
    name = getattr(augment, "name", "")
    if name:
        return str(name)
    if isinstance(augment, types.FunctionType):
        if augment.__closure__ or augment.__name__ == "<lambda>":
            raise ValueError(
                f"augment={augment.__qualname__} is a lambda or depends on variables around it, "
                "so that a stored run could not be told from another one's: write a function "
                "without them or a dataclass with __call__, or give it a name (augment.name = ...)"
            )
        return augment.__name__
    if dataclasses.is_dataclass(augment):
        values = [f"{f.name}={getattr(augment, f.name)}" for f in dataclasses.fields(augment)]
        return " ".join([type(augment).__name__, *values])
    raise ValueError(
        f"augment is a {type(augment).__name__} whose options are unknown: make its class a "
        "dataclass, or give it a name (augment.name = ...)"
    )


def _collect(item: type | types.FunctionType, sources: dict[str, str]) -> None:
    """Add the source of a class or function, and of the user's that it uses."""
    name = f"{item.__module__}.{item.__qualname__}"
    if name in sources or not _is_the_users(item):
        return
    functions = _functions_of(item)
    texts = [item.__qualname__, *map(_source, functions)]
    used = [value for function in functions for value in _globals_used_by(function)]
    texts += [repr(value) for value in used if isinstance(value, PLAIN)]
    if isinstance(item, type):
        texts.append(repr(_constants(item)))
        used += item.__mro__[1:]
    sources[name] = "\n".join(texts)
    for value in used:
        if isinstance(value, type | types.FunctionType):
            _collect(value, sources)


def _is_the_users(item: type | types.FunctionType) -> bool:
    package = item.__module__.partition(".")[0]
    if package == "builtins":  # what `exec` runs without a module's name says so too
        return getattr(builtins, item.__qualname__, None) is not item
    return package not in NOT_THE_USERS


def _functions_of(item: type | types.FunctionType) -> list[types.FunctionType]:
    """The function itself, or a class's methods and the functions of its properties."""
    if isinstance(item, types.FunctionType):
        return [item]
    functions = []
    for member in vars(item).values():
        unwrapped = getattr(member, "fget", None) or getattr(member, "__func__", member)
        written = isinstance(unwrapped, types.FunctionType)
        # dataclasses generate methods that have no source
        if written and not unwrapped.__code__.co_filename.startswith("<string>"):
            functions.append(unwrapped)
    return functions


def _constants(cls: type) -> list[tuple[str, Any]]:
    """The plain values that a class holds, such as the defaults of its fields."""
    return [
        (name, value)
        for name, value in sorted(vars(cls).items())
        if isinstance(value, PLAIN) and not name.startswith("__")
    ]


def _source(function: types.FunctionType) -> str:
    try:
        return inspect.getsource(function)
    except OSError:  # typed in at a plain prompt: the code itself, which has no names of lines
        code = function.__code__
        return f"{code.co_code!r} {code.co_names} {_plain_constants(code.co_consts)}"


def _plain_constants(constants: Iterable[Any]) -> list[str]:
    return [repr(value) for value in constants if not isinstance(value, types.CodeType)]


def _globals_used_by(function: types.FunctionType) -> list[Any]:
    """The values of the global names in a function and in the functions within it."""
    names: set[str] = set()
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        names.update(code.co_names)
        codes += [value for value in code.co_consts if isinstance(value, types.CodeType)]
    return [function.__globals__[name] for name in sorted(names) if name in function.__globals__]
