"""Which layers of a model: the rule that `attach_sim` and `compare` share."""

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from .messages import nearest

Predicate = Callable[[str, nn.Module], bool]
Selector = str | type[nn.Module] | re.Pattern[str] | Predicate
Layers = Selector | Iterable[Selector]

MAX_LISTED = 12  # names of blocks in an error message
PARAMETER_LISTS = (nn.ParameterList, nn.ParameterDict)  # modules that hold a parent's weights
SELECTORS = (
    "a module's name, a glob, a type or its name, re.compile(...), contains(...) "
    "or a predicate (name, module) -> bool"
)


def select_layers(
    model: nn.Module, layers: Layers | None = None, *, exclude: Predicate | None = None
) -> dict[str, nn.Module]:
    """Choose modules of a model.

    A selector is one of:

    - a module's name, `"layer1.0"`; `""` is the model itself;
    - a glob, `"layer?.*"`: `*`, `?` and `[...]` stop at a dot, so that these are the 8 blocks of a
      ResNet-18 and nothing inside them;
    - a type, `nn.Conv2d`, subclasses included, or the name of a class, `"BasicBlock"`;
    - a regular expression, `re.compile("conv[12]$")`, searched in the name;
    - `contains("conv")`, every module whose name contains the text;
    - a predicate, `lambda name, module: ...`.

    Names are those of the unwrapped model; a prefix `module.` or `_orig_mod.` is left out. Globs
    and regular expressions never choose the model itself, whose name is empty.

    Args:
        model: the model, or a DataParallel, DistributedDataParallel or torch.compile wrapper of it.
        layers: a selector or several; None for every module with weights of its own, see
            `default_layers`.
        exclude: a predicate; modules for which it holds cannot be chosen.

    Returns:
        {name: module} in the model's own order, each module once.

    Raises:
        ValueError: a selector matches nothing (the nearest names follow), or there is none.
        TypeError: an entry is no selector.
    """
    modules = named_layers(model)
    if exclude is not None:
        modules = {name: module for name, module in modules.items() if not exclude(name, module)}
    if layers is None:
        chosen = set(default_layers(modules))
    else:
        chosen = set()
        for selector in _as_selectors(layers):
            names = _matching(selector, modules)
            if not names:
                raise _nothing_matches(selector, model, modules)
            chosen |= names
        if not chosen:
            raise ValueError(f"layers is empty: give at least one of {SELECTORS}")
    selected: dict[str, nn.Module] = {}
    seen: set[int] = set()  # a module may be registered under several names
    for name, module in modules.items():
        if name in chosen and id(module) not in seen:
            seen.add(id(module))
            selected[name] = module
    return selected


def contains(text: str) -> re.Pattern[str]:
    """Select every module whose name contains `text`, as simtorch's `layers_to_include` does."""
    return re.compile(re.escape(text))


def named_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Name every module as in the unwrapped model; "" is the model itself.

    A module that is registered under several names is listed under each of them.
    """
    layers: dict[str, nn.Module] = {}
    for path, module in unwrap(model).named_modules(remove_duplicate=False):
        parts = [attribute for attribute in path.split(".") if attribute != "_orig_mod"]
        layers[".".join(parts)] = module  # of a compiled part, the module inside comes later
    return layers


def unwrap(model: nn.Module) -> nn.Module:
    """Look through DataParallel, DistributedDataParallel and torch.compile wrappers."""
    compiled = getattr(model, "_orig_mod", None)
    if isinstance(compiled, nn.Module):
        return unwrap(compiled)
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return unwrap(model.module)
    return model


def default_layers(modules: Mapping[str, nn.Module]) -> list[str]:
    """Choose the modules with weights of their own: a parameter of two axes or more.

    Beside linear layers, convolutions and embeddings these are attentions, modules that are
    parametrized (`weight_norm`, `spectral_norm`), dynamically quantised ones, and blocks with a
    parameter of their own. All modules without children where none has any.

    Args:
        modules: {name: module}.

    Returns:
        The names that are chosen.
    """
    inside = read_without_a_call(modules)
    all_scripted = isinstance(modules.get(""), torch.jit.ScriptModule)
    chosen = []
    leaves = []
    for name, module in modules.items():
        if name in inside or (not all_scripted and isinstance(module, torch.jit.ScriptModule)):
            continue  # none of which is ever seen to run
        if has_own_weights(module):
            chosen.append(name)
        if not list(module.children()):
            leaves.append(name)
    return chosen or leaves


def left_out_layers(model: nn.Module) -> dict[str, str]:
    """Say of the modules that `layers=None` does not choose why: {name: reason}.

    Modules that hold nothing but other modules are not mentioned.
    """
    modules = named_layers(model)
    chosen = set(select_layers(model).values())
    inside = read_without_a_call(modules)
    reasons = {}
    for name, module in modules.items():
        if module in chosen or "parametrizations" in name.split("."):
            continue
        if isinstance(module, torch.jit.ScriptModule):
            reasons[name] = "TorchScript, which runs without hooks"
        elif name in inside:
            reasons[name] = f"not called: {inside[name]!r} reads its weights"
        elif any(True for _ in module.parameters(recurse=False)):
            reasons[name] = "its parameters are vectors"
        elif not list(module.children()):
            reasons[name] = "no parameters"
    return reasons


def has_own_weights(module: nn.Module) -> bool:
    """Whether a module itself, not its children, holds a weight matrix or kernel."""
    parameters = list(module.parameters(recurse=False))
    if parametrize.is_parametrized(module):
        parameters += module.get_submodule("parametrizations").parameters()
    for child in module.children():
        if isinstance(child, PARAMETER_LISTS):
            parameters += child.parameters()
    for parameter in parameters:
        if nn.parameter.is_lazy(parameter) or parameter.dim() > 1:
            return True
    return _is_quantised(module)


def _is_quantised(module: nn.Module) -> bool:
    return callable(getattr(module, "weight", None))  # others hold a tensor


def read_without_a_call(modules: Mapping[str, nn.Module]) -> dict[str, str]:
    """{name of a module that never runs itself: the module that reads its weights}."""
    read = {}
    for parent, module in modules.items():
        if isinstance(module, nn.MultiheadAttention):
            children = ["out_proj"]
        elif parametrize.is_parametrized(module):
            children = ["parametrizations"]
        elif _is_quantised(module):
            children = [name for name, _ in module.named_children()]
        else:
            children = []
        for name, child_module in module.named_children():
            if isinstance(child_module, PARAMETER_LISTS):
                children.append(name)
        for child in children:
            start = f"{parent}.{child}" if parent else child
            for name in modules:
                if name == start or name.startswith(f"{start}."):
                    read[name] = parent
    return read


def _as_selectors(layers: Any) -> list[Any]:
    several = isinstance(layers, Iterable) and not isinstance(layers, (str, type, nn.Module))
    return list(layers) if several else [layers]


def _matching(selector: Any, modules: Mapping[str, nn.Module]) -> set[str]:
    """Names of the modules that one selector matches."""
    if isinstance(selector, str):
        return _matching_text(selector, modules)
    fits = _predicate(selector, modules)
    return {name for name, module in modules.items() if fits(name, module)}


def _matching_text(text: str, modules: Mapping[str, nn.Module]) -> set[str]:
    """Match a name, a glob or the name of a class, without a wrapper's prefix if need be."""
    for spelling in (text, re.sub(r"^(module\.|_orig_mod\.)+", "", text)):
        if spelling in modules:
            return {spelling}
        names = set()
        for name, module in modules.items():
            if type(module).__name__ == spelling or _glob_matches(spelling, name):
                names.add(name)
        if names:
            return names
    return set()


def _glob_matches(glob: str, name: str) -> bool:
    """Whether the name has as many parts as the glob, and each fits: `*` stops at a dot."""
    patterns = glob.split(".")
    parts = name.split(".")
    if name == "" or len(parts) != len(patterns):
        return False
    return all(map(fnmatch.fnmatchcase, parts, patterns))


def _predicate(selector: Any, modules: Mapping[str, nn.Module]) -> Predicate:
    """A type, a regular expression or a predicate as a predicate; TypeError for anything else."""
    match selector:
        case type():
            return lambda name, module: isinstance(module, selector)
        case re.Pattern():
            return lambda name, module: name != "" and selector.search(name) is not None
        case nn.Module():  # it is callable, and yet no predicate
            names = [name for name, module in modules.items() if module is selector]
            hint = f"give its name, {names[0]!r}" if names else f"expected {SELECTORS}"
            raise TypeError(f"layers: got a module, a {type(selector).__name__}: {hint}")
        case _ if callable(selector):
            return lambda name, module: bool(selector(name, module))
    raise TypeError(f"layers: {selector!r} selects nothing; expected {SELECTORS}")


def _nothing_matches(
    selector: Any, model: nn.Module, modules: Mapping[str, nn.Module]
) -> ValueError:
    """Word the error for a selector without a match: the nearest names, then types and blocks."""
    text = getattr(selector, "pattern", getattr(selector, "__name__", str(selector)))
    types = sorted({type(module).__name__ for module in modules.values()})
    blocks = [name for name, module in modules.items() if name and list(module.children())]
    listed = ", ".join(blocks[:MAX_LISTED]) or "none"
    if len(blocks) > MAX_LISTED:
        listed += f" and {len(blocks) - MAX_LISTED} more"
    hint = nearest(text, [*blocks, *modules, *types])
    if isinstance(selector, str) and any(text in name for name in modules):
        hint += f' contains("{text}") would match.'
    return ValueError(
        f"layers: {text!r} matches nothing in this {type(unwrap(model)).__name__}{hint or '.'} "
        f"Its types are {', '.join(types)}; its blocks are {listed}"
    )
