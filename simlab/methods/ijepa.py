"""I-JEPA (Assran et al., arXiv 2301.08243): predict features of hidden blocks, not pixels.

    targets      H = LayerNorm(teacher's tokens of the whole image) [N, L, D], constants
                 4 blocks B_m of 15 to 20 % of the image
    context      one block of 85 to 100 %, less the targets -> student -> tokens [N, k, D]
    predictor    the context's tokens, and mask tokens at the positions of B_m -> [N, b, D]
    L = mean over blocks of the smooth L1 distance of the prediction and H at B_m
    teacher's weights   w' <- m w' + (1 - m) w, m rising linearly to 1

The paper writes the squared error, the authors' code has smooth L1. Targets are drawn anywhere,
the last row and column included, and contexts are shortened to one length by dropping random
tokens (the authors' code leaves out the former and drops the last tokens). Nothing but the crop
augments the view. Without a slow teacher all tokens become one (L = 0).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simlab._checks import AtLeast, AtMost, documented
from simlab.compute import distributed, full_precision
from simlab.models.vit import HEADS, Block, grid_positions, take_tokens

from .base import (
    Crops,
    Method,
    MethodModule,
    at_least_float32,
    frozen_copy,
    rows_of_process,
    update_teacher,
)
from .pixels import require_tokens

TRIES = 20  # of all blocks of a step, where an image has no context left
TARGET_AREA = (0.15, 0.2)  # of the image (section 3)
TARGET_RATIO = (0.75, 1.5)  # height by width
CONTEXT_AREA = (0.85, 1.0)


def ijepa_loss(predictions: Tensor, tokens: Tensor, blocks: Sequence[Tensor]) -> Tensor:
    """Compute the smooth L1 distance of predictions and the normalised tokens of the blocks.

    Args:
        predictions: [M N, b, D], of the first block of every image, then of the second, ...
        tokens: The teacher's tokens [N, L, D]; constants.
        blocks: M indices [N, b] into the tokens.

    Returns:
        A scalar, at least 0.
    """
    with full_precision(predictions.device):
        tokens = at_least_float32(tokens.detach())
        normalised = F.layer_norm(tokens, tokens.shape[-1:])  # without scale and shift
        targets = torch.cat([take_tokens(normalised, block) for block in blocks])  # [M N, b, D]
        return F.smooth_l1_loss(at_least_float32(predictions), targets)


def draw_blocks(
    n: int, side: int, targets: int, generator: torch.Generator
) -> tuple[list[Tensor], Tensor]:
    """Draw target blocks and a context for each of this process' n images.

    All images of a step share the blocks' size and the context's number of tokens, so that they fit
    into one tensor; the positions are each image's own. They are drawn for the images of all
    processes, so that an image has the same ones however many processes there are.

    Args:
        n: Number of images.
        side: Patches along a side of the view.
        targets: Number M of target blocks.
        generator: The same in all processes.

    Returns:
        M indices [n, b] of the targets' patches, and the indices [n, k] of the context's.

    Raises:
        ValueError: The targets leave an image without context, again and again.
    """
    total = n * distributed.world()
    for _ in range(TRIES):
        shape = _block_shape(side, TARGET_AREA, TARGET_RATIO, generator)
        blocks = [_place_block(total, side, shape, generator) for _ in range(targets)]
        context_shape = _block_shape(side, CONTEXT_AREA, (1.0, 1.0), generator)
        context_block = _place_block(total, side, context_shape, generator)
        is_context = torch.zeros(total, side * side, dtype=torch.bool, device=generator.device)
        is_context.scatter_(1, context_block, True)
        is_context.scatter_(1, torch.cat(blocks, dim=1), False)
        number = int(is_context.sum(1).min())
        if number > 0:
            break
    else:
        raise ValueError(
            f"{targets} targets of {shape[0]} x {shape[1]} patches leave no context of {side} x "
            f"{side}: expected fewer targets, or a larger view_size"
        )
    draws = torch.rand(total, side * side, generator=generator, device=generator.device)
    draws = draws.masked_fill(~is_context, 2.0)  # after all of the context
    context = draws.argsort(1)[:, :number].sort(1).values
    return [rows_of_process(block, n) for block in blocks], rows_of_process(context, n)


def _block_shape(
    side: int, area: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> tuple[int, int]:
    """Draw height and width, in patches, of a block of some area and aspect ratio."""
    draws = torch.rand(2, generator=generator, device=generator.device).tolist()
    number = side * side * (area[0] + draws[0] * (area[1] - area[0]))
    aspect = ratio[0] + draws[1] * (ratio[1] - ratio[0])
    height = min(max(round(math.sqrt(number * aspect)), 1), side)
    width = min(max(round(math.sqrt(number / aspect)), 1), side)
    return height, width


def _place_block(n: int, side: int, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Indices [n, height * width] of the patches of a block, at a random position in each image."""
    height, width = shape
    device = generator.device
    draws = torch.rand(n, 2, generator=generator, device=device)
    top = (draws[:, 0] * (side - height + 1)).long()  # 0 .. side - height
    left = (draws[:, 1] * (side - width + 1)).long()
    rows = top[:, None] + torch.arange(height, device=device)  # [n, height]
    columns = left[:, None] + torch.arange(width, device=device)  # [n, width]
    return (rows[:, :, None] * side + columns[:, None, :]).flatten(1)


@documented
@dataclass(frozen=True, kw_only=True)
class IJEPA(Method):
    """I-JEPA (Assran et al., arXiv 2301.08243). Needs an encoder of tokens, such as vit_tiny."""

    loss_label: ClassVar[str] = "smooth L1 distance of features"

    targets: Annotated[int, AtLeast(1)] = 4
    """Number of target blocks (section 3)."""

    momentum: Annotated[float, AtLeast(0), AtMost(1)] = 0.99
    """m of the teacher at the start; 0.996 in the paper. 0: all tokens become one."""

    predictor_width: Annotated[int, AtLeast(1)] = 48
    """Width of the predictor; 384 in the paper (appendix A). A multiple of 3, its heads."""

    predictor_depth: Annotated[int, AtLeast(1)] = 2
    """Blocks of the predictor; 6 to 16 in the paper (appendix A)."""

    @property
    def crops(self) -> tuple[Crops, ...]:
        """One view, cropped alone (appendix A)."""
        return (Crops(1, "flip=0 jitter=0 grey=0 blur=0"),)

    def build(self, encoder: nn.Module, feature_dim: int) -> "IJEPAModule":
        """Build the student, its predictor and the teacher."""
        return IJEPAModule(encoder, feature_dim, self)

    def loss_at_collapse(self, images: int) -> float:
        """All tokens are one, and predicted."""
        return 0.0

    def lowest_loss(self, images: int) -> float:
        """All tokens are predicted: a collapse has the same loss."""
        return 0.0


class IJEPAModule(MethodModule):
    """A student, its predictor and its teacher; arguments as `SimSiamModule`."""

    def __init__(self, encoder: nn.Module, feature_dim: int, options: IJEPA) -> None:
        super().__init__(encoder)
        self.options = options
        self.patch = int(require_tokens(encoder, "ijepa").patch)
        self.teacher_encoder = frozen_copy(encoder)
        width = options.predictor_width
        self.to_predictor = nn.Linear(feature_dim, width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(width))
        blocks = [Block(width, HEADS) for _ in range(options.predictor_depth)]
        self.predictor = nn.Sequential(*blocks, nn.LayerNorm(width))
        self.from_predictor = nn.Linear(width, feature_dim)

    def loss(
        self, views: Sequence[Tensor], generator: torch.Generator, progress: float
    ) -> dict[str, Tensor]:
        """Compute the loss of one view [N, C, S, S]."""
        (x,) = views
        side = x.shape[-1] // self.patch
        blocks, context = draw_blocks(len(x), side, self.options.targets, generator)
        with torch.no_grad():
            tokens = self.teacher_encoder.tokens(x)  # [N, L, D]
        encoder = require_tokens(self.encoder, "ijepa")
        seen = self.to_predictor(encoder.tokens(x, context))  # [N, k, d]
        positions = grid_positions(side, side, seen.shape[2]).to(seen)  # [L, d]
        seen = seen + positions[context]
        predictions = [self._predict(seen, positions[block]) for block in blocks]
        return {"loss": ijepa_loss(torch.cat(predictions), tokens, blocks)}

    def _predict(self, seen: Tensor, positions: Tensor) -> Tensor:
        """Predict the tokens [N, b, D] at positions [N, b, d] from the context's [N, k, d]."""
        hidden = positions + self.mask_token
        together = torch.cat([seen, hidden.to(seen)], dim=1)  # [N, k + b, d]
        predicted = self.predictor(together)[:, seen.shape[1] :]
        tokens: Tensor = self.from_predictor(predicted)
        return tokens

    def after_step(self, progress: float) -> None:
        """Let the teacher follow."""
        momentum = self.options.momentum + progress * (1 - self.options.momentum)
        update_teacher(self.teacher_encoder, self.encoder, momentum)
