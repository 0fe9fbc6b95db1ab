"""Watching the outputs of a model's layers without leaving a trace in it."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .axes import Axes, CallAxes, Pick, axes_at_sight, axes_of, label_of
from .choosing import named_layers, read_without_a_call, unwrap
from .running import Hook, Run, home_of, hooked, map_tensors, tensors_in

Sink = Callable[[str, nn.Module, Tensor | None, Axes], None]


@contextlib.contextmanager
def tapped(
    model: nn.Module,
    names: Iterable[str],
    sink: Sink,
    *,
    device: torch.device | str | None = None,
    pick: Pick | None = None,
    run: Run | None = None,
) -> Iterator[Callable[..., None]]:
    """Run a model in eval mode inside the block and hand each named output to `sink`.

    `sink` is called in the order of execution, while the output is as the module left it: a later
    in-place edit cannot matter. The second call of a module in one forward pass is named `name#2`.
    Before the first watched pass the model runs on two and on three samples, to see where samples
    and channels lie, see `axes_of`. After the block, also after an error, hooks are gone and modes
    and device are as before.

    Args:
        model: the model, or a wrapper of it.
        names: layers, as `named_layers` calls them.
        sink: called with (name, module, output, axes). The output [n, ...] is detached, and None
            where it holds no float tensor with an axis of samples: `axes.why`. `axes.channels` is
            its axis of channels, None where it is not known.
        device: where to run; None leaves the model where it is.
        pick: f(name, output) -> tensor [n, ...], for outputs that are no plain tensor.
        run: run(model, inputs) in the place of the model.

    Yields:
        forward(inputs): one forward pass, without gradients, of a tensor, a tuple (positional
        arguments) or a mapping (keywords); forward(inputs, watched=False) calls no sink.

    Raises:
        ValueError: `device` is given, but the model is spread over several; or the model is none
            whose modules run as such.
        KeyError: a name is not the model's.
    """
    base = unwrap(model)
    modules = named_layers(model)
    watched = {name: modules[name] for name in names}
    for name, module in watched.items():
        refuse_script(name, module)
    homes = {tensor.device for tensor in [*base.parameters(), *base.buffers()]}
    if device is not None and len(homes) > 1:
        raise ValueError(
            f"device={device!r}: this model is spread over {sorted(map(str, homes))}; "
            "leave device=None"
        )
    home = home_of(base)
    with contextlib.ExitStack() as undo:
        if device is not None and home is not None:
            undo.callback(base.to, home)
            base.to(device)
        tap = _Tap(base, watched, sink, pick, run)
        hooks = {module: tap.hook_of(name) for name, module in watched.items()}
        call = undo.enter_context(hooked(base, hooks, run))
        target = device if device is not None else home

        def forward(inputs: Any, watched: bool = True) -> None:
            if target is not None:
                inputs = map_tensors(inputs, lambda x: x.to(target))
            with tap.watching(inputs) if watched else contextlib.nullcontext():
                call(inputs)

        yield forward


class _Tap:
    """The forward hook of all watched modules: numbers their calls, finds the tensor."""

    def __init__(
        self,
        model: nn.Module,
        modules: Mapping[str, nn.Module],
        sink: Sink,
        pick: Pick | None,
        run: Run | None,
    ) -> None:
        self.model = model
        self.modules = modules
        self.sink = sink
        self.pick = pick
        self.run = run
        self.axes: dict[str, CallAxes] | None = None
        self.n = 0  # samples of the forward pass; 0: not one to be watched
        self.calls: Counter[str] = Counter()

    @contextlib.contextmanager
    def watching(self, inputs: Any) -> Iterator[None]:
        """One forward pass that is watched; before the first one the axes are found out."""
        if self.axes is None:
            self.axes = axes_of(self.model, self.modules, inputs, pick=self.pick, run=self.run)
        first = next(tensors_in(inputs), None)
        self.n = 0 if first is None else len(first)
        self.calls.clear()
        try:
            yield
        finally:
            self.n = 0

    def hook_of(self, name: str) -> Hook:
        """The hook of the module of that name."""
        return partial(self._hook, name)

    def _hook(self, name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self.n == 0:  # somebody else runs the model: it may be watched twice
            return
        self.calls[name] += 1
        label = label_of(name, self.calls[name])
        if self.pick is not None:
            output = self.pick(label, output)
        assert self.axes is not None
        if label in self.axes:
            axes = self.axes[label].given
        else:  # it was not called in the passes before
            axes = axes_at_sight(module, output, self.n)
        if self.pick is not None and axes.samples:
            axes = Axes(why="pick= gives a tensor whose samples are not its first axis")
        tensor = axes.tensor_of(output, self.n)
        if tensor is None and not axes.why:
            shapes = ", ".join(str(list(x.shape)) for x in tensors_in(output))
            why = f"holds no float tensor with an axis of samples (of {self.n} it is {shapes})"
            axes = replace(axes, why=f"{why}; choose a tensor [n, ...] with pick=")
        self.sink(label, module, None if tensor is None else tensor.detach(), axes)


def why_not_called(model: nn.Module, name: str) -> str:
    """Say why a layer was not called in a forward pass, as far as its kind tells."""
    modules = named_layers(model)
    module = modules[name]
    reader = read_without_a_call(modules).get(name)
    if reader is not None:
        return f"not called in the forward pass: {reader!r} reads its weights"
    if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
        return f"not called: a {type(module).__name__} never runs; name its children, '{name}.*'"
    if isinstance(unwrap(model), torch.fx.GraphModule) and list(module.children()):
        return f"not called: an fx graph runs the modules inside; name these, '{name}.*'"
    return "not called in the forward pass"


def refuse_script(name: str, module: nn.Module) -> None:
    """Raise ValueError for a module of TorchScript, which runs without Python's hooks."""
    if isinstance(module, torch.jit.ScriptModule):
        raise ValueError(
            f"layer {name!r} is TorchScript ({type(module).__name__}), which runs without hooks: "
            "give the Python model that it was made from"
        )
