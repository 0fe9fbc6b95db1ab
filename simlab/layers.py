"""Which layers to compare, and how to watch them without leaving a trace in the model."""

import contextlib
import difflib
import fnmatch
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


def one_of(value: Any, known: Iterable[str], what: str) -> Any:
    """`value`, or ValueError with the nearest and all of the known names."""
    if value in (known := list(known)):
        return value
    near = difflib.get_close_matches(str(value), known, n=1, cutoff=0.3)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"{what}={value!r}: {hint}Known: {', '.join(known) or 'none'}")


class contains(str):
    """A selector: every module whose name contains this text, as simtorch's `layers_to_include`."""


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside DataParallel, DistributedDataParallel and torch.compile wrappers."""
    if hasattr(model, "_orig_mod"):
        return unwrap(model._orig_mod)
    parallel = isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel))
    return unwrap(model.module) if parallel else model


def named_layers(model: nn.Module) -> dict[str, nn.Module]:
    """All modules by the name they have in the unwrapped model; "" is the model itself."""
    found = unwrap(model).named_modules(remove_duplicate=False)
    return {re.sub(r"(^|\.)_orig_mod(?=\.|$)", "", name): module for name, module in found}


def select(model: nn.Module, layers: Any = None) -> list[str]:
    """Names of the chosen modules, in the model's own order.

    `layers` is None (all leaf modules that hold a weight matrix or kernel), or one or a list of:
    an exact name, a glob ("layer?.*.conv1"; * also crosses dots), a module type, a regular
    expression (re.compile, searched), `contains("conv")`, or a predicate f(name, module) -> bool.
    ValueError, with the nearest names, when one of them matches nothing.
    """
    modules = named_layers(model)
    inner = {name: module for name, module in modules.items() if name} or modules
    if layers is None:
        leaves = {name: m for name, m in inner.items() if not [*m.children()]}
        chosen = {name for name, m in leaves.items() if any(p.dim() > 1 for p in m.parameters())}
        chosen = chosen or leaves
    else:
        single = isinstance(layers, (str, type, re.Pattern)) or callable(layers)
        chosen = set().union(
            *(matching(spec, modules, inner) for spec in ([layers] if single else layers))
        )
        if not chosen:
            raise ValueError("layers is empty: give at least one name, glob, type or predicate")
    picked: dict[int, str] = {}  # one row for a module that is registered under several names
    for name in modules:
        if name in chosen:
            picked.setdefault(id(modules[name]), name)
    return list(picked.values())


def matching(spec: Any, modules: dict[str, nn.Module], inner: dict[str, nn.Module]) -> set[str]:
    """Names that one selector matches among the modules (`inner`: without the model itself)."""
    if isinstance(spec, str) and not isinstance(spec, contains):
        spec = spec if spec in modules else re.sub(r"^(module\.|_orig_mod\.)+", "", spec)
        if spec in modules:
            return {spec}
    tests = [
        (contains, lambda name, _: spec in name),
        (str, lambda name, _: fnmatch.fnmatchcase(name, spec)),
        (re.Pattern, lambda name, _: spec.search(name)),
        (type, lambda _, module: isinstance(module, spec)),
        (Callable, spec),
    ]
    test = next((test for kind, test in tests if isinstance(spec, kind)), None)
    if test is None:
        raise TypeError(
            f"a layer is chosen by name, glob, type, re.compile, contains() or a "
            f"predicate, not by {spec!r}"
        )
    if hits := {name for name, module in inner.items() if test(name, module)}:
        return hits
    if isinstance(spec, type):
        near = sorted({type(module).__name__ for module in inner.values()})
    else:
        text = getattr(spec, "pattern", str(spec))
        near = difflib.get_close_matches(text, inner, n=4, cutoff=0.4) or list(inner)[:4]
        near += [f'contains("{spec}")'] * any(text in name for name in inner)
    raise ValueError(
        f"layers: {spec!r} matches nothing in {type(modules['']).__name__}; the "
        f"nearest are {', '.join(near)}"
    )


def batch_tensor(output: Any, n: int, batch_first: bool = True) -> Tensor | None:
    """The first float tensor in a (nested) tuple, list or dict whose first dimension is n."""
    if isinstance(output, Tensor):
        if not batch_first and output.dim() == 3:
            output = output.transpose(0, 1)
        fits = output.is_floating_point() and output.dim() > 0 and output.shape[0] == n
        return output.detach() if fits else None
    parts = output.values() if isinstance(output, Mapping) else output
    if not isinstance(output, (Mapping, tuple, list)):
        return None
    found = (batch_tensor(part, n, batch_first) for part in parts)
    return next((tensor for tensor in found if tensor is not None), None)


@contextlib.contextmanager
def tapped(
    model: nn.Module,
    names: Iterable[str],
    sink: Callable[[str, nn.Module, Tensor | None], None],
    *,
    device: torch.device | str | None = None,
    pick: Callable[[str, Any], Tensor] | None = None,
) -> Iterator[Callable[..., None]]:
    """Inside the block, run the model in eval mode and hand each named output to `sink`.

    Yields forward(x), or forward(x, watched=False) to hand over nothing. `sink(name, module, output)`
    is called in the order of execution, while the output is as the module left it (a later in-place
    edit cannot matter); the second call of a module in one forward pass is `name#2`. The output is
    None when it holds no float tensor with the batch as first dimension, unless `pick(name, output)`
    finds it. Afterwards, also after an error, hooks are gone and modes and device are as before.
    """
    base, modules = unwrap(model), named_layers(model)
    homes = {t.device for t in [*base.parameters(), *base.buffers()]}
    if device is not None and len(homes) > 1:
        raise ValueError(
            f"device={device!r}: this model is spread over {sorted(map(str, homes))}; "
            "leave device=None"
        )
    compiled = any(hasattr(m, "_orig_mod") or m._compiled_call_impl for m in base.modules())
    calls, size = Counter(), 0

    def hook(name: str, module: nn.Module, _: Any, output: Any) -> None:
        if not size:  # somebody else runs the model: it may be watched twice
            return
        calls[name] += 1
        label = name if calls[name] == 1 else f"{name}#{calls[name]}"
        batch_first = pick is not None or getattr(module, "batch_first", True)
        output = output if pick is None else pick(label, output)
        sink(label, module, batch_tensor(output, size, batch_first))

    def forward(x: Tensor, watched: bool = True) -> None:
        nonlocal size
        calls.clear()
        size = len(x) if watched else 0
        where = device if device is not None else next(iter(homes), x.device)
        # Compiled parts skip hooks: run them eagerly. It slows every call in Python, so only then.
        eager = torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext()
        with torch.no_grad(), eager:
            base(x.to(where))
        size = 0

    with contextlib.ExitStack() as undo:
        if device is not None and homes:
            undo.callback(base.to, *homes)  # there is one only
            base.to(device)
        for module in base.modules():
            undo.callback(setattr, module, "training", module.training)
        base.eval()
        for name in names:
            undo.enter_context(modules[name].register_forward_hook(partial(hook, name)))
        yield forward


def preview(model: nn.Module, x: Tensor, layers: Any = None) -> Any:
    """A table (pandas) of the chosen layers in order of execution: name, type, shape, size.

    `x` is a batch of at least one image; shape and size are per sample. Selected modules that
    the forward pass does not call stand at the end, without a shape.
    """
    import pandas as pd

    names, rows = select(model, layers), []

    def note(name: str, module: nn.Module, output: Tensor | None) -> None:
        seen = (None, None) if output is None else (tuple(output.shape[1:]), output[:1].numel())
        rows.append((name, type(module).__name__, *seen))

    with tapped(model, names, note) as forward:
        forward(x)
    called, modules = {name for name, *_ in rows}, named_layers(model)
    rows += [(n, type(modules[n]).__name__, None, None) for n in names if n not in called]
    return pd.DataFrame(rows, columns=["name", "type", "shape", "size"])
