"""Follows the axis of channels through a forward pass, from function to function.

Some functions say where channels lie: a linear layer, an embedding or a layer norm have them last,
a convolution second. Others move axes (permute, reshape, indexing), and the rest (activations,
sums, pooling) leave them where they are. What a moving function does is not looked up but tried:
it is applied once more, to a tensor that holds each channel's number instead of its values, and the
channels are where the numbers vary.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from .running import tensors_in

# Functions whose output has its channels last.
LAST = {
    "_pad_packed_sequence",
    "addmm",
    "bilinear",
    "embedding",
    "embedding_bag",
    "gru",
    "gru_cell",
    "linear",
    "lstm",
    "lstm_cell",
    "multi_head_attention_forward",
    "rnn_relu",
    "rnn_tanh",
    "scaled_dot_product_attention",
}
# Convolutions have them before their spatial axes, of which this is the number.
SPATIAL_AXES = {
    "conv1d": 1,
    "conv2d": 2,
    "conv3d": 3,
    "conv_transpose1d": 1,
    "conv_transpose2d": 2,
    "conv_transpose3d": 3,
}
# These have them last if they normalise one axis.
LAST_OF_ONE_AXIS = {"layer_norm", "rms_norm"}
# These have them second, unless something else is known of their input.
SECOND = {"batch_norm", "group_norm", "instance_norm"}
PRODUCTS = {"__matmul__", "__rmatmul__", "bmm", "matmul", "mm"}
# Of two operands of one shape the one tells about the other.
ELEMENTWISE = {
    "__add__",
    "__iadd__",
    "__imul__",
    "__mul__",
    "__radd__",
    "__rmul__",
    "add",
    "add_",
    "mul",
    "mul_",
}
# After these nothing is known: they move axes in place, or make new ones.
UNKNOWN = {
    "as_strided",
    "baddbmm",
    "cdist",
    "corrcoef",
    "cov",
    "inner",
    "squeeze_",
    "swapaxes_",
    "swapdims_",
    "t_",
    "tensordot",
    "transpose_",
    "unsqueeze_",
}
MOVING = {
    "__get__",  # x.T, x.mT
    "__getitem__",
    "adjoint",
    "amax",
    "amin",
    "broadcast_to",
    "chunk",
    "diagonal",
    "einsum",
    "expand",
    "expand_as",
    "flatten",
    "gather",
    "index_select",
    "max",
    "mean",
    "min",
    "moveaxis",
    "movedim",
    "narrow",
    "permute",
    "repeat",
    "reshape",
    "reshape_as",
    "select",
    "split",
    "squeeze",
    "stack",
    "sum",
    "swapaxes",
    "swapdims",
    "t",
    "take_along_dim",
    "tensor_split",
    "tile",
    "transpose",
    "unbind",
    "unflatten",
    "unfold",
    "unsqueeze",
    "view",
    "view_as",
}

NUMBERS = torch.float32  # exact for numbers of channels, also on devices without float64


class ChannelTrace(TorchFunctionMode):
    """A context that notes, for the tensors made inside it, which axis holds their channels."""

    def __init__(self) -> None:
        super().__init__()
        self._axes = WeakTensorKeyDictionary()
        # channels that lie along several axes for a while, as in a channel shuffle: their numbers
        self._spread = WeakTensorKeyDictionary()
        # of a tensor of which nothing is known: the one it comes from, and where its axes lay there
        self._origins = WeakTensorKeyDictionary()

    def axis_of(self, x: Tensor) -> int | None:
        """The axis of channels of a tensor; None where it is not known."""
        axis: int | None = self._axes.get(x)
        return axis

    def note(self, x: Tensor, axis: int | None) -> None:
        """Note (or forget, with None) where the channels of a tensor lie."""
        if axis is not None and 0 <= axis < x.dim():
            self._axes[x] = axis
        else:
            self._axes.pop(x, None)
        self._spread.pop(x, None)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the function and note the axes of what it returns."""
        kwargs = kwargs or {}
        inputs = list(tensors_in([args, kwargs]))
        known = []
        for x in inputs:
            axis = self.axis_of(x)
            if axis is not None:
                known.append((x.dim(), axis))  # before the call, which may be in place
        spread = [self._spread[x] for x in inputs if x in self._spread]
        output = func(*args, **kwargs)
        results = list(tensors_in(output))
        name = getattr(func, "__name__", "")
        if results and name in MOVING:
            numbers = self._moved(func, args, kwargs) if known or spread else []
            self._note_numbers(results, numbers)
        elif results:
            self.note(results[0], self._axis_after(name, results[0], args, kwargs, known))
            for result in results[1:]:
                self.note(result, None)
            if self.axis_of(results[0]) is None and not known and len(spread) == 1:
                self._note_spread(results[0], spread[0])
        if not known and not spread:
            self._remember_origin(func, args, kwargs, results)
        return output

    def _note_numbers(self, results: list[Tensor], numbers: list[Tensor]) -> None:
        """Note of each result where its channels' numbers show them to lie."""
        for index, result in enumerate(results):
            if index >= len(numbers):
                self.note(result, None)
                continue
            axis = axis_of_numbers(numbers[index])
            self.note(result, axis)
            if axis is None:
                self._note_spread(result, numbers[index])

    def _note_spread(self, x: Tensor, numbers: Tensor) -> None:
        if x.shape == numbers.shape and len(varying_axes(numbers)) > 1:
            self._spread[x] = numbers.contiguous()  # for `view`

    def _axis_after(
        self,
        name: str,
        output: Tensor,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        known: list[tuple[int, int]],
    ) -> int | None:
        """Where the channels lie after a function that moves no axes."""
        inputs = list(tensors_in([args, kwargs]))
        told = told_by(name, output, args, kwargs)
        if told is not None:
            for x in inputs[:1]:
                self._learn(x, told if x.dim() == output.dim() else None)
            return told
        if name in UNKNOWN:
            return None
        if name in PRODUCTS:
            return self._axis_of_product(output, inputs)
        kept = {axis for rank, axis in known if rank == output.dim()}
        if len(kept) != 1:  # not known, or contradictory
            return 1 if name in SECOND and not kept else None
        (axis,) = kept
        if name in ELEMENTWISE:
            for x in inputs:
                self._learn(x, axis if x.shape == output.shape else None)
        return axis

    def _learn(self, x: Tensor, axis: int | None) -> None:
        """Note the axis of an input of which nothing was known: what reads it tells."""
        if self.axis_of(x) is not None or axis is None:
            return
        self.note(x, axis)
        if x in self._origins:
            origin, places = self._origins[x]
            self._learn(origin, places.get(axis))

    def _remember_origin(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        results: list[Tensor],
    ) -> None:
        """Remember what results come from, so that what is learned of them tells of it, too."""
        name = getattr(func, "__name__", "")
        origin = next(tensors_in([args, kwargs]), None)
        if origin is None or isinstance(origin, torch.nn.Parameter):
            return
        if name in UNKNOWN or name in PRODUCTS or name in LAST:
            return
        for index, result in enumerate(results):
            if result is origin or self.axis_of(result) is not None:
                continue
            if name not in MOVING:
                same_rank = result.dim() == origin.dim()
                self._origins[result] = origin, {a: a for a in range(origin.dim()) if same_rank}
                continue
            places = {}
            for axis in range(origin.dim()):
                self.note(origin, axis)
                numbers = self._moved(func, args, kwargs)
                place = axis_of_numbers(numbers[index]) if index < len(numbers) else None
                if place is not None:
                    places[place] = axis
            self.note(origin, None)
            self._origins[result] = origin, places

    def _axis_of_product(self, output: Tensor, factors: list[Tensor]) -> int | None:
        """X @ W makes new channels, which are last; A @ X leaves those of X where they are."""
        if len(factors) != 2:
            return None
        left, right = factors
        by_weights = isinstance(right, torch.nn.Parameter) and right.dim() == 2
        of_right = self.axis_of(left) is None and self.axis_of(right) == right.dim() - 1
        return output.dim() - 1 if by_weights or of_right else None

    def _moved(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> list[Tensor]:
        """The numbers of the channels after a function that moves axes, for each of its results."""
        numbered_args = [self._numbered(arg) for arg in args]
        numbered_kwargs = {name: self._numbered(value) for name, value in kwargs.items()}
        try:
            output = func(*numbered_args, **numbered_kwargs)
            return list(tensors_in(output))
        except (RuntimeError, TypeError, ValueError, IndexError):
            return []  # not known

    def _numbered(self, value: Any) -> Any:
        """Each tensor as one of its channels' numbers, or of ones; indices stay as they are."""
        if isinstance(value, Tensor):
            axis = self.axis_of(value)
            if axis is not None:
                return channel_numbers(value, axis)
            if value in self._spread:
                return self._spread[value]
            if value.is_floating_point():
                return torch.ones(value.shape, dtype=NUMBERS, device=_device_for_numbers(value))
            return value
        if isinstance(value, (tuple, list)) and any(True for _ in tensors_in(value)):
            return type(value)([self._numbered(item) for item in value])
        return value


def channel_numbers(x: Tensor, axis: int) -> Tensor:
    """A tensor of x's shape whose values are their places along the axis."""
    numbers = torch.arange(x.shape[axis], dtype=NUMBERS, device=_device_for_numbers(x))
    shape = [1] * x.dim()
    shape[axis] = -1
    return numbers.view(shape).expand(x.shape).contiguous()


def _device_for_numbers(x: Tensor) -> torch.device:
    return torch.device("cpu") if x.is_meta else x.device


def varying_axes(x: Tensor) -> list[int]:
    """The axes along which values differ."""
    axes = []
    for axis in range(x.dim()):
        if x.shape[axis] > 1 and bool((x != x.narrow(axis, 0, 1)).any()):
            axes.append(axis)
    return axes


def axis_of_numbers(x: Tensor) -> int | None:
    """The one axis along which values differ, each from each other; None if there is none."""
    axes = varying_axes(x)
    if len(axes) != 1 or not x.is_floating_point():
        return None
    (axis,) = axes
    values = x.movedim(axis, 0).reshape(x.shape[axis], -1)[:, 0]
    return axis if len(values.unique()) == len(values) else None


def told_by(
    name: str, output: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> int | None:
    """The axis of channels that a function makes or asks for; None for most functions."""
    last = output.dim() - 1
    if name in LAST:
        return last
    if name in SPATIAL_AXES:
        return last - SPATIAL_AXES[name]
    if name in LAST_OF_ONE_AXIS:
        shape = args[1] if len(args) > 1 else kwargs.get("normalized_shape", ())
        return last if len(shape) == 1 else None
    return None
