"""Convolutions of maps so small that some weights of the kernel meet nothing but the padding.

The outer weights of a 3 x 3 kernel with stride 2 on a map of 1 x 1, say, multiply zeros alone, so
that their gradients are 0. In bfloat16 on a CPU oneDNN, which computes PyTorch's convolutions, may
leave these gradients as the memory was before: any number, or NaN (seen with PyTorch 2.14 on a
processor with AVX512-BF16). ResNets come to such maps on small images and on small crops. The
convolution of such a map is next to no work: `in_float32` has it computed in float32, where it is
right.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd


@contextlib.contextmanager
def in_float32(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Within the context, compute the convolutions of small maps in float32 where autocast is on.

    Args:
        network: Its other layers, and its convolutions of larger maps, stay as they are.
        device: Where it is computed; on any but a CPU nothing changes.
    """
    handles = []
    if device.type == "cpu":
        for module in network.modules():
            if isinstance(module, _ConvNd) and max(module.kernel_size) > 1:
                hooks = _Hooks()
                handles.append(module.register_forward_pre_hook(hooks.before))
                handles.append(module.register_forward_hook(hooks.after, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Hooks:
    """Those of one convolution: it leaves autocast for a small map, and its output comes back."""

    def __init__(self) -> None:
        self.without_autocast: torch.autocast | None = None

    def before(self, convolution: _ConvNd, inputs: tuple[Any, ...]) -> tuple[Tensor] | None:
        if not torch.is_autocast_enabled("cpu") or not has_idle_weights(convolution, inputs[0]):
            return None
        self.without_autocast = torch.autocast("cpu", enabled=False)
        self.without_autocast.__enter__()
        return (inputs[0].float(),)

    def after(self, convolution: _ConvNd, inputs: tuple[Any, ...], out: Tensor) -> Tensor | None:
        if self.without_autocast is None:
            return None
        self.without_autocast.__exit__(None, None, None)
        self.without_autocast = None
        return None if out is None else out.to(torch.get_autocast_dtype("cpu"))  # None: it raised


def has_idle_weights(convolution: _ConvNd, x: Tensor) -> bool:
    """Whether some weights of the kernel meet nothing but padding on a map x [N, C, *sizes]."""
    if convolution.padding_mode != "zeros":  # what is padded has other values
        return False
    sizes = x.shape[-len(convolution.kernel_size) :]
    padding = convolution.padding
    paddings = (padding,) * len(sizes) if isinstance(padding, str) else padding
    kernel, stride, dilation = convolution.kernel_size, convolution.stride, convolution.dilation
    return any(map(_is_small, sizes, kernel, stride, paddings, dilation))


def _is_small(size: int, kernel: int, stride: int, padding: int | str, dilation: int) -> bool:
    """Whether, along one axis, a weight of the kernel meets nothing but padding."""
    reach = dilation * (kernel - 1)
    before, after = _padding_in_numbers(padding, reach)
    starts = range(-before, size + after - reach, stride)  # where the kernel's first weight comes
    offsets = range(0, reach + 1, dilation)
    return not all(any(0 <= start + offset < size for start in starts) for offset in offsets)


def _padding_in_numbers(padding: int | str, reach: int) -> tuple[int, int]:
    """How far a map is padded before and behind, for a kernel that reaches so far."""
    if padding == "same":
        return reach // 2, reach - reach // 2
    if padding == "valid":
        return 0, 0
    return int(padding), int(padding)
