"""Which layers of a model, and how to watch their outputs without leaving a trace in it.

`attach_sim` and `compare` choose layers by the same rule, `select_layers`; `tapped` hands over
their outputs in a forward pass. The file needs torch alone: whoever copies `sim/` or `similarity/`
into a project of their own copies it along.
"""

import contextlib
import difflib
import fnmatch
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Predicate = Callable[[str, nn.Module], bool]
Selector = str | type[nn.Module] | re.Pattern[str] | Predicate
Layers = Selector | Iterable[Selector]
Sink = Callable[[str, nn.Module, Tensor | None], None]

T = TypeVar("T")
MAX_LISTED = 12  # names of blocks in an error message
SELECTORS = (
    "a module's name, a glob, a type or its name, re.compile(...), contains(...) "
    "or a predicate (name, module) -> bool"
)


# ------------------------------------------------------------------------------- choosing layers


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
        layers: a selector or several; None for every leaf module that holds a weight matrix or
            kernel (every leaf where none does).
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
        chosen = _weight_layers(modules)
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


def _weight_layers(modules: Mapping[str, nn.Module]) -> set[str]:
    """Names of the leaf modules with a weight matrix or kernel; of all leaves if none has one."""
    leaves = {name: module for name, module in modules.items() if not list(module.children())}
    weighted = set()
    for name, module in leaves.items():
        if any(parameter.dim() > 1 for parameter in module.parameters()):
            weighted.add(name)
    return weighted or set(leaves)


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


# ------------------------------------------------------------------------------ watching outputs


@contextlib.contextmanager
def tapped(
    model: nn.Module,
    names: Iterable[str],
    sink: Sink,
    *,
    device: torch.device | str | None = None,
    pick: Callable[[str, Any], Tensor] | None = None,
    run: Callable[[nn.Module, Any], Any] | None = None,
) -> Iterator[Callable[..., None]]:
    """Run a model in eval mode inside the block and hand each named output to `sink`.

    `sink` is called in the order of execution, while the output is as the module left it: a later
    in-place edit cannot matter. The second call of a module in one forward pass is named `name#2`.
    After the block, also after an error, hooks are gone and modes and device are as before.

    Args:
        model: the model, or a wrapper of it.
        names: layers, as `named_layers` calls them.
        sink: called with (name, module, output). The output [n, ...] is detached, and None where
            it holds no float tensor with the batch as first dimension.
        device: where to run; None leaves the model where it is.
        pick: f(name, output) -> tensor [n, ...], for outputs that are no plain tensor.
        run: run(model, x) in the place of model(x).

    Yields:
        forward(x): one forward pass without gradients; forward(x, watched=False) calls no sink.

    Raises:
        ValueError: `device` is given, but the model is spread over several.
        KeyError: a name is not the model's.
    """
    base = unwrap(model)
    modules = named_layers(model)
    homes = {tensor.device for tensor in [*base.parameters(), *base.buffers()]}
    if device is not None and len(homes) > 1:
        raise ValueError(
            f"device={device!r}: this model is spread over {sorted(map(str, homes))}; "
            "leave device=None"
        )
    home = next(iter(homes), None)
    tap = _Tap(sink, pick)
    eager = _eager_if_compiled(base)

    def forward(x: Any, watched: bool = True) -> None:
        target = device if device is not None else home
        tap.start(len(next(tensors_in(x))) if watched else 0)
        if target is not None and isinstance(x, Tensor):
            x = x.to(target)
        try:
            with torch.no_grad(), eager():
                if run is not None:
                    run(base, x)
                elif isinstance(x, Mapping):
                    base(**x)
                elif isinstance(x, tuple):
                    base(*x)
                else:
                    base(x)
        finally:
            tap.start(0)

    with contextlib.ExitStack() as undo:
        if device is not None and home is not None:
            undo.callback(base.to, home)
            base.to(device)
        for module in base.modules():
            undo.callback(setattr, module, "training", module.training)
        base.eval()
        for name in names:
            hook = partial(tap.hook, name)
            undo.enter_context(modules[name].register_forward_hook(hook))
        yield forward


class _Tap:
    """The forward hook of all watched modules: numbers their calls, finds the tensor."""

    def __init__(self, sink: Sink, pick: Callable[[str, Any], Tensor] | None) -> None:
        self.sink = sink
        self.pick = pick
        self.start(0)

    def start(self, batch_size: int) -> None:
        """Begin a forward pass of that many samples; 0: not one to be watched."""
        self.batch_size = batch_size
        self.calls: Counter[str] = Counter()

    def hook(self, name: str, module: nn.Module, _inputs: Any, output: Any) -> None:
        if self.batch_size == 0:  # somebody else runs the model: it may be watched twice
            return
        self.calls[name] += 1
        count = self.calls[name]
        label = name if count == 1 else f"{name}#{count}"
        if self.pick is None:
            batch_first = getattr(module, "batch_first", True)
            tensor = batch_tensor(output, self.batch_size, batch_first)
        else:
            tensor = batch_tensor(self.pick(label, output), self.batch_size)
        self.sink(label, module, tensor)


def _eager_if_compiled(model: nn.Module) -> Callable[[], contextlib.AbstractContextManager]:
    """A context in which compiled parts run eagerly, since they skip hooks.

    It slows every call in Python, so only where there are compiled parts.
    """
    for module in model.modules():
        if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None:
            return partial(torch.compiler.set_stance, "force_eager")
    return contextlib.nullcontext


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of a (nested) tuple, list or mapping in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)


def batch_tensor(output: Any, n: int, batch_first: bool = True) -> Tensor | None:
    """Find the first float tensor of an output whose first dimension is the batch.

    Args:
        output: a tensor, or a (nested) tuple, list or mapping that holds some.
        n: the batch size.
        batch_first: False where sequences are [T, n, D]: they come back as [n, T, D].

    Returns:
        The tensor [n, ...], detached; None if there is none.
    """
    for tensor in tensors_in(output):
        if not batch_first and tensor.dim() == 3:
            tensor = tensor.transpose(0, 1)  # [T, n, D] -> [n, T, D]
        if tensor.is_floating_point() and tensor.dim() > 0 and len(tensor) == n:
            return tensor.detach()
    return None


# ---------------------------------------------------------------------------------- error messages


def nearest(name: Any, names: Iterable[str]) -> str:
    """Word "; did you mean 'x' or 'y'?" for an unknown name; empty where nothing is near."""
    close = difflib.get_close_matches(str(name), list(dict.fromkeys(names)), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def one_of(value: T, names: Iterable[str], what: str) -> T:
    """Return `value` if it is one of `names`; else raise ValueError with the nearest and all."""
    names = list(names)
    if value in names:
        return value
    raise ValueError(
        f"{what}={value!r}{nearest(value, names)}; expected one of: {', '.join(names) or 'none'}"
    )
