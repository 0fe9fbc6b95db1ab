"""What is checked alike everywhere: names by the nearest right one, fields by their bounds.

Of a frozen dataclass of options, bounds stand beside the field that they belong to, and its
description below it:

    lr: Annotated[float, AtLeast(0)] = 0.5
    '''Learning rate for a batch of 256 images.'''

A configuration (`simlab.config`) and the options of a method (`simlab.methods`) are checked and
described by the same few functions. Nothing here imports torch.
"""

import ast
import dataclasses
import functools
import inspect
import math
import textwrap
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, TypeVar

Class = TypeVar("Class", bound=type)


def near(name: object, choices: Iterable[object]) -> str:
    """Return "; did you mean ...?" with the nearest right name, or else all names that exist.

    Args:
        name: What was given.
        choices: The names that would have been right.
    """
    names = [str(choice) for choice in choices]
    matches = get_close_matches(str(name), names, n=1)
    if matches:
        return f"; did you mean {matches[0]!r}?"
    return f"; known: {', '.join(sorted(names)) or 'none'}"


@dataclass(frozen=True)
class AtLeast:
    """A bound of a field: the least value that it may hold."""

    least: float

    def allows(self, value: float) -> bool:
        return value >= self.least

    def __str__(self) -> str:
        return f"at least {self.least}"


@dataclass(frozen=True)
class MoreThan:
    """A bound of a field: all that it holds is greater than this."""

    limit: float

    def allows(self, value: float) -> bool:
        return value > self.limit

    def __str__(self) -> str:
        return f"more than {self.limit}"


@dataclass(frozen=True)
class AtMost:
    """A bound of a field: the greatest value that it may hold."""

    most: float

    def allows(self, value: float) -> bool:
        return value <= self.most

    def __str__(self) -> str:
        return f"at most {self.most}"


@dataclass(frozen=True)
class LessThan:
    """A bound of a field: all that it holds is smaller than this."""

    limit: float

    def allows(self, value: float) -> bool:
        return value < self.limit

    def __str__(self) -> str:
        return f"less than {self.limit}"


Bound = AtLeast | AtMost | MoreThan | LessThan


@dataclass(frozen=True)
class Kind:
    """What a field may hold: a plain type, its choices where it is a `Literal`, and its bounds."""

    type: type
    choices: tuple[str | int, ...]
    bounds: tuple[Bound, ...]

    def __str__(self) -> str:
        if self.choices:
            return " | ".join(map(str, self.choices))
        return ", ".join([self.type.__name__, *map(str, self.bounds)])


def kinds(cls: type) -> dict[str, Kind]:
    """What each field of a dataclass may hold, by the field's name."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: _kind(hints[field.name]) for field in dataclasses.fields(cls)}


def _kind(hint: Any) -> Kind:
    bounds: tuple[Bound, ...] = ()
    if typing.get_origin(hint) is typing.Annotated:
        hint, *metadata = typing.get_args(hint)
        bounds = tuple(item for item in metadata if isinstance(item, Bound))
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        return Kind(type(choices[0]), choices, bounds)
    return Kind(hint, (), bounds)


def check_fields(options: Any) -> None:
    """Check that every field of a dataclass holds what it declares.

    An int may stand for a float, and a scalar of NumPy's for Python's; they are replaced. Nothing
    else is converted.

    Raises:
        TypeError: A value has another type than its field.
        ValueError: A value is none of the choices, out of bounds, NaN or infinite.
    """
    for name, kind in kinds(type(options)).items():
        value: Any = getattr(options, name)
        if _is_numpy_scalar(value):
            value = value.item()
            object.__setattr__(options, name, value)
        if kind.type is float and type(value) is int and abs(value) < 2**63:
            value = float(value)
            object.__setattr__(options, name, value)
        is_right_type = type(value) is kind.type
        if not is_right_type:
            expected = kind.type.__name__
            raise TypeError(f"{name}={value!r} is {type(value).__name__}: expected {expected}")
        if kind.type is float and not math.isfinite(value):
            raise ValueError(f"{name}={value}: expected a finite number")
        if kind.choices and value not in kind.choices:
            raise ValueError(f"{name}={value!r} is unknown{near(value, kind.choices)}")
        for bound in kind.bounds:
            if not bound.allows(value):
                raise ValueError(f"{name}={value}: expected {bound}")


def _is_numpy_scalar(value: Any) -> bool:
    return type(value).__module__ == "numpy" and getattr(value, "shape", None) == ()


def descriptions(cls: type) -> dict[str, str]:
    """The string below each field's declaration, by the field's name; base classes' included.

    Where the source of a class is not to be had (it was typed in at a prompt), its fields are
    left out.
    """
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            texts |= _strings_below_fields(base)
    return texts


def _strings_below_fields(cls: type) -> dict[str, str]:
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):
        return {}
    definition = ast.parse(source).body[0]
    assert isinstance(definition, ast.ClassDef)
    strings = {}
    for statement, following in zip(definition.body, definition.body[1:], strict=False):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            strings[statement.target.id] = " ".join(str(following.value.value).split())
    return strings


def near_names(cls: Class) -> Class:
    """Let a dataclass answer a field that it lacks with the nearest one that it has."""
    make: Any = cls.__init__  # type: ignore[misc]  # of this very class, which is no instance's
    names = [field.name for field in dataclasses.fields(cls)]

    @functools.wraps(make)
    def init(self: Any, *values: Any, **fields: Any) -> None:
        for name in fields:
            if name not in names:
                raise TypeError(f"{cls.__name__} has no field {name!r}{near(name, names)}")
        make(self, *values, **fields)

    cls.__init__ = init  # type: ignore[misc]  # as above
    return cls


def documented(cls: Class) -> Class:
    """Add the fields' descriptions to a dataclass's docstring, where `?` and `help` show them."""
    lines = [f"    {name}: {text}" for name, text in descriptions(cls).items()]
    if lines and cls.__doc__:
        cls.__doc__ = "\n".join([inspect.cleandoc(cls.__doc__), "", "Attributes:", *lines])
    return cls
