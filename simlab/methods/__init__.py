"""The methods: `base` says what a method is, then each has a file of its own.

Read `simsiam` (or `simclr`) first, then `base`; `supervised` is the reference. Each file has the
formula, the loss as a plain function of tensors (`byol_loss(p1, p2, z1, z2)`, for a loop of your
own), the options, and the module that is trained. A method is written as text wherever a
configuration is: its name, then its options.

    parse_method("simclr temperature=0.2")     SimCLR(temperature=0.2, ...)
    format_method(SimSiam())                   "simsiam proj_layers=0 proj_dim=512 ..."
    describe_method("simsiam")                 the options, their defaults and sources

To add a method, write its file and add its line to `METHODS`. Nothing here imports torch before
a method is used.
"""

import dataclasses
import importlib
import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

from simlab._checks import Kind, descriptions, kinds, near

if TYPE_CHECKING:
    from .barlow_twins import BarlowTwins, barlow_twins_loss
    from .base import Crops, Masks, Method, MethodModule, ParameterGroup, TrainingData, Views
    from .byol import BYOL, byol_loss
    from .dino import DINO, dino_loss
    from .emp_ssl import EMPSSL, emp_ssl_loss
    from .ijepa import IJEPA, ijepa_loss
    from .lejepa import LeJEPA, lejepa_loss, sigreg
    from .mae import MAE, mae_loss
    from .moco import MoCo, moco_loss
    from .rotation import Rotation, rotation_loss
    from .simclr import SimCLR, nt_xent
    from .simmim import SimMIM, simmim_loss
    from .simsiam import SimSiam, simsiam_loss
    from .supervised import Supervised
    from .swav import SwAV, sinkhorn, swav_loss
    from .vicreg import VICReg, vicreg_loss
    from .w_mse import WMSE, w_mse_loss

__all__ = [
    "BYOL",
    "DINO",
    "EMPSSL",
    "IJEPA",
    "MAE",
    "METHODS",
    "WMSE",
    "BarlowTwins",
    "Crops",
    "LeJEPA",
    "Masks",
    "Method",
    "MethodModule",
    "MoCo",
    "ParameterGroup",
    "Rotation",
    "SimCLR",
    "SimMIM",
    "SimSiam",
    "Supervised",
    "SwAV",
    "TrainingData",
    "VICReg",
    "Views",
    "barlow_twins_loss",
    "byol_loss",
    "describe_method",
    "dino_loss",
    "emp_ssl_loss",
    "format_method",
    "ijepa_loss",
    "lejepa_loss",
    "mae_loss",
    "method_names",
    "moco_loss",
    "nt_xent",
    "parse_method",
    "rotation_loss",
    "sigreg",
    "simmim_loss",
    "simsiam_loss",
    "sinkhorn",
    "swav_loss",
    "vicreg_loss",
    "w_mse_loss",
    "with_method_option",
]


class Entry(NamedTuple):
    """Where a method's class is, and what the method is in a line."""

    module: str
    class_name: str
    summary: str


METHODS = {
    "simsiam": Entry("simlab.methods.simsiam", "SimSiam", "predictor and stop-gradient"),
    "simclr": Entry("simlab.methods.simclr", "SimCLR", "contrast with the batch's other images"),
    "moco": Entry("simlab.methods.moco", "MoCo", "contrast with a queue of earlier images"),
    "byol": Entry("simlab.methods.byol", "BYOL", "predict a teacher that follows slowly"),
    "swav": Entry("simlab.methods.swav", "SwAV", "predict the other view's cluster"),
    "dino": Entry("simlab.methods.dino", "DINO", "match a centred and sharpened teacher"),
    "barlow_twins": Entry(
        "simlab.methods.barlow_twins", "BarlowTwins", "make the cross-correlation the identity"
    ),
    "vicreg": Entry("simlab.methods.vicreg", "VICReg", "keep variance, remove covariance"),
    "w_mse": Entry("simlab.methods.w_mse", "WMSE", "whiten the embeddings"),
    "lejepa": Entry("simlab.methods.lejepa", "LeJEPA", "make the embeddings Gaussian"),
    "emp_ssl": Entry("simlab.methods.emp_ssl", "EMPSSL", "many crops, and a coding rate"),
    "mae": Entry("simlab.methods.mae", "MAE", "predict hidden patches from the others (a ViT)"),
    "simmim": Entry("simlab.methods.simmim", "SimMIM", "predict hidden pixels, any encoder"),
    "ijepa": Entry("simlab.methods.ijepa", "IJEPA", "predict features of hidden blocks (a ViT)"),
    "rotation": Entry("simlab.methods.rotation", "Rotation", "tell which way up an image is"),
}

# what `from simlab.methods import ...` finds beside the methods, without importing torch before
_LAZY = {
    "Crops": "base",
    "Masks": "base",
    "Method": "base",
    "MethodModule": "base",
    "ParameterGroup": "base",
    "TrainingData": "base",
    "Views": "base",
    "Supervised": "supervised",
    # the losses, as plain functions of tensors
    "barlow_twins_loss": "barlow_twins",
    "byol_loss": "byol",
    "dino_loss": "dino",
    "emp_ssl_loss": "emp_ssl",
    "ijepa_loss": "ijepa",
    "lejepa_loss": "lejepa",
    "mae_loss": "mae",
    "moco_loss": "moco",
    "nt_xent": "simclr",
    "rotation_loss": "rotation",
    "sigreg": "lejepa",
    "simmim_loss": "simmim",
    "simsiam_loss": "simsiam",
    "sinkhorn": "swav",
    "swav_loss": "swav",
    "vicreg_loss": "vicreg",
    "w_mse_loss": "w_mse",
}


def __getattr__(name: str) -> Any:
    for method, entry in METHODS.items():
        if name == entry.class_name:
            return method_class(method)
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{near(name, __all__)}")
    return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)


def method_names() -> list[str]:
    """The names of the methods."""
    return list(METHODS)


def method_class(name: str) -> "type[Method]":
    """Import the class of a method.

    Raises:
        ValueError: There is no method of that name; the message has the nearest right one.
    """
    if name not in METHODS:
        raise ValueError(f"method {name!r} is unknown{near(name, METHODS)}")
    entry = METHODS[name]
    cls: type[Method] = getattr(importlib.import_module(entry.module), entry.class_name)
    return cls


def parse_method(text: str) -> "Method":
    """Make a method from its name and options, "simsiam stop_gradient=false pred_lr=1".

    Raises:
        ValueError: The name, an option or its value is wrong; the message has the nearest right
            name, or what was expected.
    """
    name, *changes = text.split() or [""]
    cls = method_class(name)
    options = kinds(cls)
    values = {}
    for change in changes:
        option, _, value = change.partition("=")
        if option not in options:
            raise ValueError(
                f"method={text!r}: {name} has no option {option!r}{near(option, options)}"
            )
        if option in values:
            raise ValueError(f"method={text!r}: {option} is given twice")
        values[option] = _parse_value(value, options[option], f"method={text!r}: {change!r}")
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"method={text!r}: {error}") from None


def _parse_value(text: str, kind: Kind, where: str) -> bool | int | float | str:
    if kind.type is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{where}: expected true or false")
        return text.lower() == "true"
    try:
        value: int | float | str = kind.type(text)
    except ValueError:
        raise ValueError(f"{where}: expected {kind}") from None
    return value


def format_method(method: "Method") -> str:
    """Write a method with all of its options: the text that a run is stored under.

    A method that is not simlab's own has the name of its class.
    """
    words = [_name_of(type(method))]
    for field in dataclasses.fields(method):
        words.append(f"{field.name}={_format_value(getattr(method, field.name))}")
    return " ".join(words)


def _format_value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _name_of(cls: type) -> str:
    for name, entry in METHODS.items():
        if (entry.module, entry.class_name) == (cls.__module__, cls.__qualname__):
            return name
    return cls.__name__


def with_method_option(text: str, option: str, value: Any) -> str:
    """Change one option in a method's text.

    >>> with_method_option("simclr proj_dim=128", "temperature", 0.1)
    'simclr proj_dim=128 temperature=0.1'

    Args:
        text: The method, such as `PretrainConfig.method`.
        option: The option's name.
        value: Its value, as a value or as text.

    Returns:
        The text with that option's value.

    Raises:
        ValueError: As `parse_method`.
    """
    name, *changes = text.split() or [""]
    others = [change for change in changes if change.partition("=")[0] != option]
    changed = " ".join([name, *others, f"{option}={_format_value(value)}"])
    parse_method(changed)
    return changed


def describe_method(name: str) -> str:
    """Describe a method: what it is, its options with defaults and sources, and its formula.

    Raises:
        ValueError: There is no method of that name.
    """
    cls = method_class(name)
    texts = descriptions(cls)
    lines = [f"{name}: {METHODS[name].summary}", ""]
    for field in dataclasses.fields(cls):
        kind = kinds(cls)[field.name]
        lines.append(f"  {field.name}={_format_value(field.default)}   ({kind})")
        lines.append(f"      {texts.get(field.name, '')}")
    module = inspect.getmodule(cls)
    return "\n".join([*lines, "", inspect.cleandoc(module.__doc__ or "") if module else ""])
