"""What a caller gives in place of what the configuration names, and what a run is known by.

A run is stored under everything that decides its result. For simlab's own code that is the
package's digest; for what a user gives it is that of the object (`simlab.runs.canonical`).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from simlab.config import Config
from simlab.data import Dataset
from simlab.methods.base import Method
from simlab.runs import module_digest, object_digest

from .views import Augmentation


@dataclasses.dataclass
class Parts:
    """What a caller gives in place of what the configuration names.

    Attributes:
        data: In place of config.data.
        method: In place of config.method.
        augment: In place of config.augment.
        encoder: In place of config.encoder.
        name: Stands for what can't be digested in these.
    """

    data: Dataset | None
    method: Method | None
    augment: Augmentation | None
    encoder: nn.Module | None
    name: str

    def digests(self, data: Dataset, method: Method, partners: Tensor | None) -> dict[str, str]:
        """Return the digests of all that decides a run beside its configuration and simlab's code.

        Args:
            data: The dataset that is trained on.
            method: The method that is trained.
            partners: int64 [N], the groups among which views are drawn (`views_from`): they come
                of the images' factors, which are no part of the dataset's digest.

        Raises:
            ValueError: Something can't be digested, and there is no name.
        """
        digests = {"data": data.digest(), "encoder": "", "augment": ""}
        digests["method"] = method_digest(method, self.name)
        if self.encoder is not None:
            digests["encoder"] = module_digest(self.encoder, self.name)
        if self.augment is not None:
            digests["augment"] = object_digest(self.augment, "augment", self.name)
        if partners is not None:
            digests["partners"] = object_digest(partners, "views_from")
        return digests


@dataclasses.dataclass
class Stored:
    """Where runs are kept, and what becomes of a stored one."""

    folder: str
    fresh: bool
    reuse: str


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


def method_digest(method: Method, name: str = "") -> str:
    """What a method of the user's is told from others by; "" for one of simlab's.

    What its `build` makes of modules is seen as well, since `build` names them.
    """
    cls = type(method)
    if cls.__module__.partition(".")[0] == "simlab":
        return ""
    return object_digest(method, "method", name)


def augmentation_name(augment: Callable) -> str:
    """Name a callable augmentation: a function's name, or a class's with its fields' values."""
    name = getattr(augment, "name", "") or getattr(augment, "__name__", "")
    if name:
        return str(name)
    if dataclasses.is_dataclass(augment):
        values = [f"{f.name}={getattr(augment, f.name)}" for f in dataclasses.fields(augment)]
        return " ".join([type(augment).__name__, *values])
    return type(augment).__name__


def replace_field(config: Config, name: str, value: str) -> Config:
    """The configuration with a field replaced, which nobody may have set to something else.

    Raises:
        ValueError: It says something else already.
    """
    default = getattr(type(config), name)
    said = getattr(config, name)
    if said not in (default, value):
        raise ValueError(f"config.{name}={said!r} and {name}={value!r}: give one of them")
    changes: dict[str, Any] = {name: value}
    return dataclasses.replace(config, **changes)
