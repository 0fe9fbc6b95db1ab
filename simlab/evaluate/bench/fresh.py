"""The untrained twin of an encoder: the same architecture with fresh weights.

How much of an accuracy is the architecture's, and how much was learned, shows beside it.
"""

import copy
from collections.abc import Callable

import torch
from torch import nn


def seeded(build: Callable[[], nn.Module]) -> Callable[[int], nn.Module]:
    """Let a function that builds a module draw its weights from a seed.

    The global random state stays as it was.
    """

    def build_with(seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return build().eval()

    return build_with


def fresh_copy(module: nn.Module) -> Callable[[int], nn.Module]:
    """Let the layers of a copy draw their weights anew, each by its own initialisation.

    Raises:
        ValueError: Some weights belong to layers that don't say how they are drawn.
    """
    left = _weights_without_a_draw(module)
    if left:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        raise ValueError(
            f"{', '.join(left[:3])}{more} can't be drawn anew (no reset_parameters): give "
            "untrained=, a function that builds the module"
        )

    def build() -> nn.Module:
        copied = copy.deepcopy(module)
        for layer in copied.modules():
            reset = _draw_of(layer)
            if reset is not None:
                reset()
        return copied

    return seeded(build)


def _weights_without_a_draw(module: nn.Module) -> list[str]:
    """The names of parameters that no layer's `reset_parameters` draws."""
    names = []
    for path, layer in module.named_modules():
        if _draw_of(layer) is not None:
            continue
        for name, _ in layer.named_parameters(recurse=False):
            names.append(f"{path}.{name}" if path else name)
    return names


def _draw_of(layer: nn.Module) -> Callable[[], None] | None:
    """What draws a layer's weights; in torch's attention it has an underscore."""
    for name in ("reset_parameters", "_reset_parameters"):
        draw: Callable[[], None] | None = getattr(layer, name, None)
        if draw is not None:
            return draw
    return None
