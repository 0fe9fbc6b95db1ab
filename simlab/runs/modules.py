"""The digest of a network: tensors, arrays and modules, beside the objects of `canonical`.

Of a module everything counts that may change what training makes of it: its class, its plain
attributes, parameters with their `requires_grad`, buffers of both kinds, the training flag, the
hooks (those on a weight's gradient as well), and the same of its children. What does not:

- values that are computed anew from others: `weight` under the old weight_norm, SIM's latest loss;
- what torch.compile adds: a compiled module counts as compiled, and by what was compiled;
- the handle by which a hook can be removed.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from simlab.models import hooks_on_gradients

from . import code  # noqa: F401  # which adds functions and classes to `write`
from .canonical import IGNORED_ATTRIBUTES, Writer, write

SIM_CACHES = {"loss_sim", "_sim_pending"}
WRITTEN_APART = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "training"}
# what hooks are kept in, by numbers that differ from process to process
HOOKS = (
    "_forward_pre_hooks",
    "_forward_hooks",
    "_backward_pre_hooks",
    "_backward_hooks",
    "_state_dict_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
HOOK_OPTIONS = (
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)


def module_digest(module: nn.Module, name: str = "") -> str:
    """Return a digest of a module: its layers and settings, its weights, its code.

    Args:
        module: The user's.
        name: Stands for what can't be digested in it.

    Raises:
        ValueError: Something can't be digested and there is no name.
    """
    writer = Writer(name)
    writer.value(module, "encoder")
    return writer.hexdigest()


def structure_digest(module: nn.Module) -> str:
    """Return a digest of what a module is made of, whatever its weights, modes and versions."""
    writer = Writer("not digested", structure=True)
    writer.value(module, "encoder")
    return writer.hexdigest()


@write.register
def _(value: Tensor, out: Writer) -> None:
    if not out.is_new(value):
        return
    if isinstance(value, nn.Parameter):
        out.text("parameter", out.structure or value.requires_grad)
        if not out.structure:
            for kind, hook in hooks_on_gradients(value):
                out.text(kind)
                out.value(hook, "hook")
    if is_lazy(value):
        out.text("without a shape", value.dtype)
        return
    out.text("tensor", value.dtype, tuple(value.shape))
    if value.is_meta:
        out.text("without values")
    elif value.layout is not torch.strided or value.is_quantized:
        out.refuse(value, "a sparse or quantized one")
    elif not out.structure:
        flat = value.detach().cpu().contiguous().flatten()
        out.data(flat.view(torch.uint8).numpy())


@write.register(np.ndarray)
@write.register(np.generic)
def _(value: Any, out: Writer) -> None:
    array = np.asarray(value)
    out.text("array", array.dtype.str, array.shape)
    if array.dtype.hasobject:
        out.value(array.tolist(), "items")
    else:
        out.data(np.ascontiguousarray(array))


@write.register(torch.dtype)
@write.register(torch.device)
@write.register(torch.layout)
@write.register(torch.memory_format)
@write.register(torch.Size)
def _(value: Any, out: Writer) -> None:
    out.text("torch", repr(value))


@write.register
def _(value: torch.Generator, out: Writer) -> None:
    out.value(value.get_state(), "state")


@write.register
def _(value: RemovableHandle, out: Writer) -> None:
    out.text("handle")


@write.register
def _(value: nn.Module, out: Writer) -> None:
    if not out.is_new(value):
        return
    if isinstance(value, torch.jit.ScriptModule):
        out.refuse(value, "a scripted module")
        return
    original = value._modules.get("_orig_mod")
    if type(value).__name__ == "OptimizedModule" and original is not None:
        out.text("compiled")
        out.value(original, "_orig_mod")
        return
    if isinstance(value, torch.fx.GraphModule):  # a class of its own, with code that no file has
        out.text("graph", value.code)
    else:
        write(type(value), out)
    out.text("training", out.structure or value.training)
    for name, weight in value._parameters.items():
        out.value(weight, name)
    for name, buffer in value._buffers.items():
        out.text("passing" if name in value._non_persistent_buffers_set else "persistent")
        out.value(buffer, name)
    _write_hooks(value, out)
    out.values(_plain_attributes(value))
    for name, child in value._modules.items():
        out.value(child, name)


def _write_hooks(module: nn.Module, out: Writer) -> None:
    """The hooks in their order, each with its options."""
    state = vars(module)
    for kind in HOOKS:
        for number, hook in state.get(kind, {}).items():
            options = [option for option in HOOK_OPTIONS if number in state.get(option, ())]
            out.text(kind, *options)
            out.value(hook, "hook")


def _plain_attributes(module: nn.Module) -> dict[str, Any]:
    """What a module holds beside parameters, buffers, children, hooks and caches."""
    left_out = {*WRITTEN_APART, *HOOKS, *HOOK_OPTIONS, *getattr(module, IGNORED_ATTRIBUTES, ())}
    state = vars(module)
    if "_sim_pending" in state:
        left_out |= SIM_CACHES
    if isinstance(module, torch.fx.GraphModule):
        left_out |= {"_graph", "_code", "_lineno_map", "_prologue_start", "_tracer_cls"}
    for hook in module._forward_pre_hooks.values():  # the old weight_norm and spectral_norm
        if type(hook).__module__.startswith("torch.nn.utils."):
            left_out.add(getattr(hook, "name", ""))
    attributes = {}
    for name, value in state.items():
        if name == "_compiled_call_impl":  # of Module.compile
            attributes[name] = value is not None
        elif name not in left_out:
            attributes[name] = value
    return attributes
