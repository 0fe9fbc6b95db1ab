"""Where samples and channels lie in what a layer takes and gives, as seen in a run.

A model is run on two and on three samples. The axis of samples is the one whose length follows; the
axis of channels is followed through the functions that the model calls (`channels`). What cannot be
seen so is not known, and says why.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .channels import ChannelTrace
from .running import Run, hooked, map_tensors, tensors_in

Pick = Callable[[str, Any], Tensor]
FEW, MORE = 2, 3  # samples of the two passes


@dataclass(frozen=True)
class Axes:
    """Where samples and channels lie in one of the tensors that a layer takes or gives.

    Attributes:
        index: of the tensor among all that the layer takes or gives, in order.
        samples: its axis of samples; None where there is none that can be told, see `why`.
        channels: its axis of channels once the samples are its first axis; None if not known.
        width: the number of channels.
        rank: the tensor's number of axes.
        why: what is wrong, where there are no samples.
    """

    index: int = 0
    samples: int | None = None
    channels: int | None = None
    width: int | None = None
    rank: int = 0
    why: str = ""

    def tensor_of(self, value: Any, n: int | None = None) -> Tensor | None:
        """Find the tensor in a layer's output (or inputs) and put its samples first.

        Args:
            value: what the layer gives.
            n: the number of samples that is expected; None for any.

        Returns:
            [n, ...]; None where the output has no such tensor.
        """
        tensors = list(tensors_in(value))
        if self.samples is None or self.index >= len(tensors):
            return None
        x = tensors[self.index]
        if not _is_plain(x) or x.dim() != self.rank:
            return None
        if n is not None and x.shape[self.samples] != n:
            return None
        return x.movedim(self.samples, 0)


@dataclass(frozen=True)
class CallAxes:
    """The axes of the first float tensor with samples that a module takes, and that it gives."""

    taken: Axes
    given: Axes


class SamplesAsTimeError(ValueError):
    """The samples lie along the axis that a module takes for the time."""


@dataclass(frozen=True)
class _Seen:
    """One tensor in one forward pass: its shape and its axis of channels, if known."""

    shape: tuple[int, ...]
    channels: int | None
    dtype: torch.dtype
    fault: str = ""

    def __str__(self) -> str:
        return f"{list(self.shape)} of {self.dtype}".removesuffix(" of torch.float32")


CallKey = tuple[str, int]  # a module's name, and which of its calls in the forward pass
Record = dict[CallKey, tuple[list[_Seen], list[_Seen]]]  # what it took, what it gave


def axes_of(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    inputs: Any,
    *,
    samples: int = 0,
    pick: Pick | None = None,
    run: Run | None = None,
) -> dict[str, CallAxes]:
    """Find out where samples and channels lie in what modules take and give.

    The model runs twice, on two and on three samples of the inputs (repeated if need be), in eval
    mode; random numbers are drawn from a copy of the generator's state.

    Args:
        model: without a wrapper around it.
        modules: {name: module} of the model.
        inputs: of a forward pass: a tensor, a tuple (positional arguments) or a mapping (keywords).
        samples: the axis of samples in the inputs.
        pick: f(name, output) -> tensor [n, ...], applied to outputs first.
        run: run(model, inputs) in the place of the model.

    Returns:
        {name: axes}, for a module's second call in a forward pass `name#2`. Modules that are not
        called are left out.

    Raises:
        SamplesAsTimeError: the samples lie along what a recurrent layer or an attention, built with
            batch_first=False, takes for the time.
    """
    first = next(tensors_in(inputs), None)
    if first is None or first.dim() <= samples:
        return {}
    watched = _time_first(model) | dict(modules)
    n = first.shape[samples]
    with torch.no_grad(), _random_state_kept(first):
        smaller, larger, sizes = _two_passes(model, watched, inputs, n, samples, pick, run)
    axes: dict[CallKey, CallAxes] = {}
    for key, (taken, given) in larger.items():
        taken_before, given_before = smaller.get(key, (taken, given))
        axes[key] = CallAxes(
            _axes_between(taken_before, taken, sizes), _axes_between(given_before, given, sizes)
        )
    _refuse_samples_as_time(watched, axes)
    return {label_of(*key): of_call for key, of_call in axes.items() if key[0] in modules}


def axes_at_sight(module: nn.Module, output: Any, n: int) -> Axes:
    """The axes of one output, where one length alone is n; less is known than by `axes_of`."""
    seen = _seen(output, module, None, given=True)
    return _axes_between(seen, seen, (n, n))


def label_of(name: str, call: int) -> str:
    """The name of a module's call in a forward pass: from the second on, `name#2`."""
    return name if call == 1 else f"{name}#{call}"


# ------------------------------------------------------------------------------------- two passes


def _two_passes(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    inputs: Any,
    n: int,
    samples: int,
    pick: Pick | None,
    run_model: Run | None,
) -> tuple[Record, Record, tuple[int, int]]:
    """Run few and more of the n samples; all of them twice where the model takes no other number.

    Returns:
        The record of each pass, and the numbers of samples.
    """

    def run(count: int, trace: ChannelTrace | None) -> Record:
        return _record(model, modules, _resized(inputs, n, count, samples), pick, trace, run_model)

    def run_traced(count: int) -> Record:
        try:
            return run(count, ChannelTrace())
        except Exception:  # what a model may raise that does not bear being watched so
            return run(count, None)

    try:
        return run(FEW, None), run_traced(MORE), (FEW, MORE)
    except Exception:  # what a model may raise that cannot take two or three samples
        record = run_traced(n)
        return record, record, (n, n)


def _record(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    inputs: Any,
    pick: Pick | None,
    trace: ChannelTrace | None,
    run: Run | None,
) -> Record:
    """Run the model once and note what the modules take and give."""
    record: Record = {}
    calls: Counter[str] = Counter()

    def note(
        name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        calls[name] += 1
        if pick is not None:
            output = pick(label_of(name, calls[name]), output)
        taken = _seen([args, kwargs], module, trace)
        record[name, calls[name]] = taken, _seen(output, module, trace, given=True)

    hooks = {module: partial(note, name) for name, module in modules.items()}
    with hooked(model, hooks, run) as call, trace or contextlib.nullcontext():
        call(inputs)
    return record


def _resized(inputs: Any, n: int, count: int, samples: int) -> Any:
    """Copies of the inputs with `count` samples for n, repeated if need be."""

    def resize(x: Tensor) -> Tensor:
        if x.dim() <= samples or x.shape[samples] != n:
            return x.clone()  # the model may edit it
        index = torch.arange(count, device=x.device) % n
        return x.index_select(samples, index)

    return map_tensors(inputs, resize)


def _random_state_kept(x: Tensor) -> contextlib.AbstractContextManager[None]:
    """A context after which the generators of the CPU and of x's device are as before."""
    devices = [x.device] if x.is_cuda else []
    return torch.random.fork_rng(devices)


# ---------------------------------------------------------------------------- from what was seen


def _seen(
    value: Any, module: nn.Module, trace: ChannelTrace | None, given: bool = False
) -> list[_Seen]:
    """What the tensors of a layer's inputs or output look like."""
    seen = []
    packed = _holds_packed(value)
    for x in tensors_in(value):
        channels = None if trace is None or not _is_plain(x) else trace.axis_of(x)
        if channels is None and given:
            channels = _channels_by_module(module, x)
        fault = PACKED if packed else _fault_of(x)
        seen.append(_Seen(tuple(x.shape), channels, x.dtype, fault))
    return seen


PACKED = (
    "is a packed sequence; unpack it with pick=, as pad_packed_sequence(output[0], "
    "batch_first=True)[0]"
)


def _holds_packed(value: Any) -> bool:
    """Whether a packed sequence is (in) the value."""
    if isinstance(value, PackedSequence):
        return True
    if isinstance(value, Mapping):
        value = list(value.values())
    return isinstance(value, (tuple, list)) and any(_holds_packed(item) for item in value)


def _is_plain(x: Tensor) -> bool:
    """Whether a tensor is dense and of floating point."""
    return x.is_floating_point() and _fault_of(x) == ""


def _fault_of(x: Tensor) -> str:
    """Why the values of a tensor cannot be read; empty where they can."""
    if x.is_quantized:
        return "is quantised; choose pick=lambda name, output: output.dequantize()"
    if x.is_nested:
        return "is a nested tensor; choose pick=lambda name, output: output.to_padded_tensor(0)"
    if x.layout != torch.strided:
        return "is a sparse tensor; choose pick=lambda name, output: output.to_dense()"
    return ""


def _channels_by_module(module: nn.Module, x: Tensor) -> int | None:
    """Where a module says that its channels lie: timm's `output_fmt`, or what it is made for."""
    layout = str(getattr(module, "output_fmt", "")).rpartition(".")[2]  # NHWC
    if len(layout) == x.dim() and "C" in layout:
        return layout.index("C")
    if x.dim() > 1 and getattr(module, "out_features", None) == x.shape[-1]:
        return x.dim() - 1
    if x.dim() > 2 and getattr(module, "out_channels", None) == x.shape[1]:
        return 1
    return None


def _axes_between(smaller: list[_Seen], larger: list[_Seen], sizes: tuple[int, int]) -> Axes:
    """The axes of the first float tensor with samples, by its shape in the two passes."""
    others = []
    for index, (before, after) in enumerate(zip(smaller, larger, strict=False)):
        if after.fault:
            return Axes(why=after.fault)
        others.append(str(after))
        if not after.dtype.is_floating_point or len(before.shape) != len(after.shape):
            continue
        lengths = list(zip(before.shape, after.shape, strict=True))
        follow = [axis for axis, pair in enumerate(lengths) if pair == sizes]
        if len(follow) > 1:
            return Axes(
                why=f"has {len(follow)} axes of the length of the batch, {list(after.shape)} of "
                f"{sizes[1]} samples; choose a tensor [n, ...] with pick="
            )
        if follow:
            return _axes_of_tensor(index, follow[0], after)
    return Axes(
        why=f"holds no float tensor with an axis of samples (of {sizes[1]} it is "
        f"{', '.join(others) or 'nothing'}); choose a tensor [n, ...] with pick="
    )


def _axes_of_tensor(index: int, samples: int, seen: _Seen) -> Axes:
    """Count the axis of channels as it lies once the axis of samples is the first one."""
    rank = len(seen.shape)
    axis = 1 - samples if rank == 2 else seen.channels
    if axis is None or axis == samples:
        return Axes(index, samples, rank=rank)
    channels = axis + 1 if axis < samples else axis
    return Axes(index, samples, channels, seen.shape[axis], rank)


# ------------------------------------------------------------------------ [T, N, D] or [N, T, D]


def _time_first(model: nn.Module) -> dict[str, nn.Module]:
    """The recurrent layers and attentions that take sequences as [T, N, D]."""
    modules = {}
    for name, module in model.named_modules():
        if getattr(module, "batch_first", True) is False:
            modules[name] = module
    return modules


def _refuse_samples_as_time(
    modules: Mapping[str, nn.Module], axes: Mapping[CallKey, CallAxes]
) -> None:
    for (name, _), of_call in axes.items():
        time_first = getattr(modules[name], "batch_first", True) is False
        if time_first and of_call.taken.rank == 3 and of_call.taken.samples == 0:
            raise SamplesAsTimeError(
                f"{name!r}, a {type(modules[name]).__name__} with batch_first=False, takes "
                "[T, N, D], but the samples lie along T: transpose its input, or build it with "
                "batch_first=True"
            )
