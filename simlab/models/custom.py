"""A module of the user's as an encoder: what can't be trained is refused, with a remedy.

`check_module` looks at the module, `feature_dim` at what it does to one image. What may be meant is
pointed out: a classifier's head, grey images for a network of colour images.
"""

import contextlib
import copy
import dis
import functools
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from simlab.compute import distributed

# by the attribute that holds a weight's hooks on its gradient, what registers one
REGISTER: dict[str, Callable[[Tensor, Any], object]] = {
    "_backward_hooks": Tensor.register_hook,
    "_post_accumulate_grad_hooks": Tensor.register_post_accumulate_grad_hook,
}
PASSES_ON = (nn.Identity, nn.Dropout)  # what such a layer gives, the one before it has made

# ------------------------------------------------------------------------------ what it must not be


def check_module(encoder: object) -> None:
    """Refuse what can't be copied, trained and stored as an encoder.

    Raises:
        TypeError: It is no module.
        ValueError: It is compiled by torch.jit, has no weights yet, or keeps something that neither
            a copy nor a checkpoint can hold, or a function that holds the module itself.
    """
    if not isinstance(encoder, nn.Module):
        raise TypeError(f"encoder is {_what_it_is(encoder)}")
    check_self_reference(encoder)
    for name, module in encoder.named_modules():
        where = f"encoder.{name}" if name else "encoder"
        _check_one(module, f"{where} ({type(module).__name__})")
        for attribute in _kept_activations(module):
            raise ValueError(
                f"{where}.{attribute} is a tensor with a history of gradients, which can't be "
                "copied: where forward keeps an activation, let it keep x.detach() or none; for "
                "torch.nn.utils.weight_norm take torch.nn.utils.parametrizations.weight_norm"
            )


def _what_it_is(encoder: object) -> str:
    if isinstance(encoder, type):
        return f"the class {encoder.__name__}: did you mean {encoder.__name__}()?"
    if isinstance(encoder, types.FunctionType):
        called = f"{encoder.__name__}(...)"
        return (
            f"the function {encoder.__name__}: expected a torch.nn.Module; what {called} returns, "
            "if it builds one"
        )
    return f"a {type(encoder).__name__}: expected a torch.nn.Module"


def _check_one(module: nn.Module, name: str) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        raise ValueError(
            f"{name} was compiled by torch.jit, which hides its code: give the module that it was "
            "compiled from"
        )
    weights = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    if any(isinstance(weight, UninitializedParameter | UninitializedBuffer) for weight in weights):
        raise ValueError(
            f"{name} has no weights yet: run the encoder once on a batch of images before"
        )
    has_extra_state = type(module).get_extra_state is not nn.Module.get_extra_state
    if has_extra_state and not isinstance(module.get_extra_state(), Tensor):
        raise ValueError(
            f"{name} has a state beyond tensors (get_extra_state), which a checkpoint can't hold: "
            "keep it in a buffer (register_buffer)"
        )


def check_self_reference(encoder: nn.Module) -> None:
    """Refuse functions put into a module that hold the module: a copy would run the original.

    Raises:
        ValueError: There is one, such as the lambda of `net.forward = lambda x: net.features(x)`.
    """
    parts = {id(module) for module in encoder.modules()}
    for name, module in encoder.named_modules():
        where = f"encoder.{name}" if name else "encoder"
        for attribute, function in _functions_put_into(module):
            if any(_part_of(value) in parts for value in _held_by(function)):
                raise ValueError(
                    f"{where}.{attribute} is a function that holds the encoder itself, so that a "
                    "copy, which is what is trained, would run the original: write a subclass with "
                    "that method, or a function that takes self, with types.MethodType(function, "
                    "encoder)"
                )


def _functions_put_into(module: nn.Module) -> Iterator[tuple[str, types.FunctionType]]:
    """The functions among the attributes and the hooks of one module, by the attribute's name."""
    if type(module).__name__ == "OptimizedModule":  # of torch.compile: a copy makes its own
        return
    for name, value in vars(module).items():
        if name == "_compiled_call_impl":  # of Module.compile, which no copy gets
            continue
        items = [value]
        if name.endswith("_hooks") and isinstance(value, dict):
            items = list(value.values())
        for item in items:
            function = _function_of(item)
            if function is not None:
                yield name, function


def _function_of(value: Any) -> types.FunctionType | None:
    """A function, or that of a method or a partial; None for anything else."""
    if isinstance(value, functools.partial):
        value = value.func
    if isinstance(value, types.MethodType):
        value = value.__func__
    return value if isinstance(value, types.FunctionType) else None


def _held_by(function: types.FunctionType) -> list[Any]:
    """What a function closes over, has as defaults and names as globals."""
    held = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # a variable without a value yet
            held.append(cell.cell_contents)
    for instruction in dis.get_instructions(function):
        if instruction.opname == "LOAD_GLOBAL":
            held.append(function.__globals__.get(instruction.argval))
    return held


def _part_of(value: Any) -> int:
    """The id of a module, or of that whose method this is."""
    return id(value.__self__ if isinstance(value, types.MethodType) else value)


def copy_module(module: nn.Module) -> nn.Module:
    """A copy of a module; hooks on its weights' gradients, which copy.deepcopy drops, are kept."""
    copied = copy.deepcopy(module)
    for weight, twin in zip(module.parameters(), copied.parameters(), strict=True):
        for kind, hook in hooks_on_gradients(weight):
            REGISTER[kind](twin, hook)
    return copied


def hooks_on_gradients(weight: Tensor) -> Iterator[tuple[str, Any]]:
    """The hooks on a weight's gradient, each with the attribute that holds it."""
    for kind in REGISTER:
        hooks = getattr(weight, kind) or {}
        for hook in hooks.values():
            yield kind, hook


def _kept_activations(module: nn.Module) -> Iterator[str]:
    """Name the attributes that hold a tensor which gradients have flowed to."""
    for name, value in vars(module).items():
        values: list[Any] = [value]
        if isinstance(value, dict):
            values = list(value.values())
        elif isinstance(value, list | tuple):
            values = list(value)
        if any(isinstance(item, Tensor) and not item.is_leaf for item in values):
            yield name


# -------------------------------------------------------------------------- what it makes of images


def feature_dim(module: nn.Module, channels: int, size: int) -> int:
    """Run one image through a module in evaluation mode, and return its number D of features.

    A copy is run, so that the module's modes and statistics stay. Where grey images are refused by
    a network of colour images, it is made to repeat them.

    Raises:
        ValueError: It does not map images [N, C, H, W] to features [N, D].
    """
    check_module(module)
    trial = copy.deepcopy(getattr(module, "_orig_mod", module)).eval()  # compiled: the original
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    image = torch.zeros(1, channels, size, size, device=device)
    last_layer = _watch_last_layer(trial)
    try:
        with torch.no_grad():
            if repeats_grey(trial, image):
                module.register_forward_pre_hook(_grey_to_colour)
            out = trial(image)
    except Exception as error:  # whatever a module may raise
        shape = list(image.shape)
        raise ValueError(f"the encoder does not take an image {shape}: {error}") from error
    if not isinstance(out, Tensor) or out.dim() != 2:
        raise ValueError(_wrong_output(out, list(image.shape)))
    _point_out_a_head(trial, last_layer, out.shape[1])
    return out.shape[1]


def _wrong_output(out: object, shape: list[int]) -> str:
    """Say what came out instead of features, and what helps against just that."""
    if not isinstance(out, Tensor):
        got = type(out).__name__
        remedy = "let forward return the features alone"
    else:
        got = str(tuple(out.shape))
        remedies = {
            4: "end it with pooling and nn.Flatten()",
            3: "take one token, or the mean over the tokens",
            1: "keep the dimension of the images, as nn.Flatten() does",
        }
        remedy = remedies.get(out.dim(), "flatten all but the first dimension")
    return f"the encoder gives {got} for one image {shape}: expected a tensor [1, D]; {remedy}"


def _watch_last_layer(module: nn.Module) -> list[str]:
    """Keep the name of the layer that has run last in the list that is returned."""
    last: list[str] = []

    def watch(name: str, layer: nn.Module) -> None:
        def remember(*_: Any) -> None:
            last[:] = [name]

        layer.register_forward_hook(remember)

    for name, layer in module.named_modules():
        is_leaf = next(layer.children(), None) is None
        if is_leaf and name and not isinstance(layer, PASSES_ON):
            watch(name, layer)
    return last


def _point_out_a_head(module: nn.Module, last_layer: list[str], features: int) -> None:
    """Warn where the features are what a linear layer at the very end gives."""
    for name in last_layer:
        layer = module.get_submodule(name)
        if not isinstance(layer, nn.Linear) or layer.out_features != features:
            return
        remedy = f"encoder.set_submodule({name!r}, torch.nn.Identity())"
        if hasattr(module, "reset_classifier"):  # timm's
            remedy = "encoder.reset_classifier(0)"
        _warn(
            f"the encoder ends in {name!r}, Linear({layer.in_features}, {layer.out_features}): if "
            f"that is a classifier's head, class scores are taken for features; without it: "
            f"{remedy}"
        )


# ------------------------------------------------------------------------------------- grey images


def repeats_grey(module: nn.Module, image: Tensor) -> "torch.utils.hooks.RemovableHandle | None":
    """Make a network of colour images repeat grey ones over its three channels, where it must.

    Args:
        module: In evaluation mode.
        image: One that it shall take [1, C, H, W].

    Returns:
        What ends it again; None where the module takes the image as it is, or is none of colour
        images.
    """
    if image.shape[1] != 1 or not _takes_colour(module) or _runs(module, image):
        return None
    handle = module.register_forward_pre_hook(_grey_to_colour)
    if not _runs(module, image):
        handle.remove()  # something else is wrong with it
        return None
    _warn(
        "grey images are repeated over the three channels that the encoder takes; "
        "load_data(..., channels=3) makes them so from the start"
    )
    return handle


def _runs(module: nn.Module, image: Tensor) -> bool:
    try:
        module(image)
    except Exception:  # whatever a module may raise
        return False
    return True


def _takes_colour(module: nn.Module) -> bool:
    """Tell whether the first convolution takes three channels, and nothing repeats them yet."""
    if _grey_to_colour in module._forward_pre_hooks.values():
        return False
    convolutions = (layer for layer in module.modules() if isinstance(layer, nn.Conv2d))
    first = next(convolutions, None)
    return first is not None and first.in_channels == 3


def _grey_to_colour(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Repeat grey images [N, 1, H, W] over three channels; a hook before `forward`."""
    x, *others = args
    if x.shape[1] == 1:
        x = x.expand(-1, 3, -1, -1)
    return (x, *others)


def _warn(sentence: str) -> None:
    if distributed.rank() == 0:
        warnings.warn(sentence, stacklevel=3)
