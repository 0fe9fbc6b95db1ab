"""A digest of any Python object: the same in every process and on every version of Python.

It fails closed: what may change what an object computes counts, and what can't be looked into is
refused, unless a name is given that stands for it.

- Values and containers count by their content, sets sorted.
- Code of installed packages counts by its qualified name and the package's version, the standard
  library's and simlab's by the name alone (simlab's is part of every run's identity anyway).
- Code of the user's counts by its tokens (`tokens`), the variables that it closes over, its
  defaults, and the globals that it names, each by its content in turn.
- Other objects count by their class and their state: what pickle would store. What a class of the
  user's lists as `digest_ignores = ("attribute", ...)` is a cache and does not count.

`code` adds functions and classes, `modules` tensors, arrays and networks.
"""

import enum
import functools
import hashlib
import logging
import re
from collections import OrderedDict, defaultdict
from pathlib import PurePath
from typing import Any

IGNORED_ATTRIBUTES = "digest_ignores"  # a class's tuple of attributes that are caches


class Writer:
    """Takes in an object piece by piece; `hexdigest` tells what came in.

    Args:
        name: Stands for what can't be digested; empty: that is refused.
        structure: Only what a module is made of: no weights, modes or versions of packages.
    """

    def __init__(self, name: str = "", structure: bool = False) -> None:
        self.name = name
        self.structure = structure
        self.path: list[str] = []  # to the present object, for the messages
        self._hasher = hashlib.sha256()
        self._visited: dict[int, int] = {}
        self._alive: list[Any] = []  # what was visited, so that no other object gets its id

    def text(self, *words: object) -> None:
        """Take in words; their lengths keep neighbours apart."""
        for word in words:
            data = str(word).encode("utf-8", "surrogatepass")
            self._hasher.update(f"{len(data)}:".encode())
            self._hasher.update(data)

    def data(self, data: Any) -> None:
        """Take in bytes, or what has a buffer of them."""
        self._hasher.update(data)

    def value(self, value: Any, label: str) -> None:
        """Take in an object under a label, such as an attribute's name."""
        self.text(label)
        self.path.append(label)
        write(value, self)
        self.path.pop()

    def values(self, values: dict[str, Any]) -> None:
        """Take in named objects in the order of their names."""
        self.text("values", len(values))
        for name in sorted(values):
            self.value(values[name], name)

    def is_new(self, value: Any) -> bool:
        """Whether an object comes for the first time; else its number is taken in."""
        number = self._visited.get(id(value))
        if number is not None:
            self.text("seen", number)
            return False
        self._visited[id(value)] = len(self._visited)
        self._alive.append(value)
        return True

    def refuse(self, value: Any, why: str) -> None:
        """Take in the name in place of what can't be digested.

        Raises:
            ValueError: There is no name.
        """
        if not self.name:
            place = ".".join(self.path) or "it"
            raise ValueError(
                f"{place} is {_described(value)}, {why}, so that a stored run could not be told "
                'from another one\'s: give it a name, name="...", and another name whenever it '
                "changes"
            )
        self.text("named", self.name)

    def hexdigest(self) -> str:
        """64 bits of the digest, as 16 hexadecimal digits."""
        return self._hasher.hexdigest()[:16]


def _described(value: Any) -> str:
    kind = type(value).__qualname__
    name = getattr(value, "__qualname__", "")
    return f"the {kind} {name}" if name else f"a {kind}"


# --------------------------------------------------------------------------- any other object


@functools.singledispatch
def write(value: Any, out: Writer) -> None:
    """Take in an object: its class, and what pickle would store of its state."""
    if not out.is_new(value):
        return
    cls = type(value)
    write(cls, out)
    try:
        reduced = value.__reduce_ex__(2)
    except Exception:  # of many kinds: locks, files, generators, handles of C libraries
        out.refuse(value, "which has no state that could be read")
        return
    if isinstance(reduced, str):  # the name of a global
        out.text("global", reduced)
        return
    make, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
    write(make, out)
    out.value(arguments, "arguments")
    write_state(state, getattr(cls, IGNORED_ATTRIBUTES, ()), out)
    for label, rest in (("items", items), ("pairs", pairs)):
        if rest is not None:
            out.value(list(rest), label)


def write_state(state: Any, ignored: tuple[str, ...], out: Writer) -> None:
    """Take in an object's state: attributes in the order of their names, or a single object."""
    parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
    if not all(attributes is None or isinstance(attributes, dict) for attributes in parts):
        out.value(state, "state")
        return
    for attributes in filter(None, parts):  # of __dict__, and of __slots__
        out.values({key: item for key, item in attributes.items() if key not in ignored})


# -------------------------------------------------------------------------- values, containers


@write.register(type(None))
@write.register(bool)
@write.register(int)
@write.register(str)
@write.register(bytes)
@write.register(type(Ellipsis))
@write.register(type(NotImplemented))
@write.register(range)
def _(value: Any, out: Writer) -> None:
    out.text(type(value).__name__, value)


@write.register
def _(value: float, out: Writer) -> None:
    out.text("float", value.hex())


@write.register
def _(value: complex, out: Writer) -> None:
    out.text("complex", value.real.hex(), value.imag.hex())


@write.register
def _(value: slice, out: Writer) -> None:
    out.value((value.start, value.stop, value.step), "slice")


@write.register
def _(value: PurePath, out: Writer) -> None:
    out.text("path", value.as_posix())


@write.register
def _(value: re.Pattern, out: Writer) -> None:
    out.text("pattern", value.pattern, value.flags)


@write.register
def _(value: logging.Logger, out: Writer) -> None:
    out.text("logger", value.name)  # what is logged changes no result


@write.register
def _(value: enum.Enum, out: Writer) -> None:
    write(type(value), out)
    out.text(value.name)


@write.register(list)
@write.register(tuple)
def _(value: Any, out: Writer) -> None:
    if type(value) is not tuple and not out.is_new(value):
        return
    _write_own_class(value, (list, tuple), out)
    out.text(len(value))
    for number, item in enumerate(value):
        out.value(item, str(number))


@write.register
def _(value: dict, out: Writer) -> None:
    if not out.is_new(value):
        return
    _write_own_class(value, (dict, OrderedDict, defaultdict), out)
    if isinstance(value, defaultdict):
        out.value(value.default_factory, "default_factory")
    out.text(len(value))
    for key, item in value.items():
        out.value(key, "key")
        out.value(item, str(key))


@write.register(set)
@write.register(frozenset)
def _(value: Any, out: Writer) -> None:
    digests = []
    for item in value:
        element = Writer(out.name, out.structure)
        element.path = [*out.path, "element"]
        write(item, element)
        digests.append(element.hexdigest())
    out.text(type(value).__name__, *sorted(digests))


def _write_own_class(value: Any, plain: tuple[type, ...], out: Writer) -> None:
    """The class and the attributes of a container whose class is not Python's."""
    if type(value) in plain:
        out.text(type(value).__name__)
        return
    write(type(value), out)
    out.values(getattr(value, "__dict__", {}))
