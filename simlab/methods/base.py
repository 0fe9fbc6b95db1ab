"""What a method of self-supervised learning is to the training loop.

A `Method` is a frozen dataclass of options: what somebody writes down. It says what it asks for
(views, masks, labels) and builds a `MethodModule`: the encoder with the method's heads, its loss,
and what happens after a step of the optimizer.

    method = SimSiam(stop_gradient=False)
    module = method.build(encoder, feature_dim)
    terms = module.loss((x1, x2), generator, progress=0.0)      {"loss": scalar}

What every method may rely on:

- A loss that is a mean over images (SimSiam) uses this process' images alone. A loss that compares
  images of the batch (SimCLR) gathers what it compares, with `compute.distributed.gather`, so that
  every process computes the loss of all images. Gradients are averaged over the processes.
- With `accumulate`, `loss` is called several times a step and `after_step` once. What `loss`
  collects for `after_step` is an ordinary list, empty again when a checkpoint is written.
- What must survive a checkpoint is a parameter or a persistent buffer of the module.
- A teacher's encoder is called `teacher_encoder`; it is then evaluated beside the student's.
- `progress` is a pure function of the step, from 0 at the first step to 1 after the last one.
- Random numbers come from the `generator`, which is the same in all processes; torch's global
  generator differs between them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simlab._checks import check_fields
from simlab.compute import distributed, full_precision
from simlab.sim import SIM, detach_sim

# ---------------------------------------------------------- what a method is told, and asks for


@dataclass(frozen=True)
class TrainingData:
    """What a method's open options are chosen by.

    Attributes:
        images: How many images are trained on.
        part_size: How many of them the loss sees at once: the batch, or one of its parts.
        channels: 1 for grey images, 3 for colour ones.
        image_size: Side of the dataset's images in pixels.
        view_size: Side of the views in pixels.
        num_classes: Number of the dataset's classes; 0 where it has none.
    """

    images: int
    part_size: int
    channels: int
    image_size: int
    view_size: int
    num_classes: int


@dataclass(frozen=True)
class Crops:
    """A group of views, drawn alike.

    Attributes:
        number: How many of each image.
        changes: What differs from the run's augmentation, "crop_min=0.05 crop_max=0.14 blur=1".
        scale: Side of the views, as a multiple of the run's `view_size`.
    """

    number: int = 2
    changes: str = ""
    scale: float = 1.0


@dataclass(frozen=True)
class Masks:
    """A random mask of each image's first view.

    Attributes:
        patch: Side in pixels of the square patches that are hidden or shown as a whole.
        ratio: Fraction of the patches that is hidden.
    """

    patch: int
    ratio: float


class Views(tuple[Tensor, ...]):
    """The views of N images: float32 [N, C, S, S] each, in the order of the method's `crops`.

    Attributes:
        labels: int64 [N] where the method asks for labels, else None.
        masks: bool [N, S / patch, S / patch], True where hidden, where it asks for masks.
    """

    labels: Tensor | None
    masks: Tensor | None

    def __new__(
        cls, views: Iterable[Tensor], labels: Tensor | None = None, masks: Tensor | None = None
    ) -> Self:
        """Make the tuple, and put labels and masks on it."""
        made = super().__new__(cls, tuple(views))
        made.labels = labels
        made.masks = masks
        return made


# ---------------------------------------------------------------------------- the method's options


@dataclass(frozen=True, kw_only=True)
class Method:
    """Options of a method; a subclass is a frozen dataclass that adds its own fields."""

    needs_labels: ClassVar[bool] = False
    loss_label: ClassVar[str] = "loss"  # of the loss' axis in a figure
    # the std of each channel of z that the loss asks for; None where it sees directions alone
    embedding_std: ClassVar[float | None] = None

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def crops(self) -> tuple[Crops, ...]:
        """The groups of views that `loss` gets; two views if not said."""
        return (Crops(2),)

    @property
    def masks(self) -> Masks | None:
        """The masks that `loss` gets as `views.masks`; none if not said."""
        return None

    def resolve(self, data: TrainingData) -> Self:
        """Replace the options that are left open by a choice for this data.

        Returns:
            The method with nothing left open.

        Raises:
            ValueError: The method cannot work with this data, or with so small a batch.
        """
        return self

    def build(self, encoder: nn.Module, feature_dim: int) -> MethodModule:
        """Build the module that is trained.

        Args:
            encoder: [N, C, H, W] -> [N, feature_dim]; becomes the module's `encoder`.
            feature_dim: Width D of the features.

        Returns:
            The encoder with the method's heads and whatever else the method keeps.
        """
        raise NotImplementedError(f"{type(self).__name__} has no build(encoder, feature_dim)")

    def loss_at_collapse(self, images: int) -> float | None:
        """The loss when all images have the same embedding.

        Args:
            images: How many images the loss compares: the batch, or a part of it.

        Returns:
            That loss, or None where there is no such number.
        """
        return None

    def lowest_loss(self, images: int) -> float | None:
        """The lower bound of the loss for so many images; None where there is none."""
        return None

    def loss_axis(self, images: int) -> str:
        """What a figure writes at the axis of the loss: its name and its lower bound."""
        lowest = self.lowest_loss(images)
        if lowest is None:
            return self.loss_label
        return f"{self.loss_label} (at least {lowest:.3g})"


# ----------------------------------------------------------------------------- the method's module


@dataclass
class ParameterGroup:
    """Parameters with a learning rate of their own.

    Attributes:
        params: The parameters.
        lr_factor: Their learning rate as a multiple of the run's.
        constant_lr: Whether it keeps its highest value all along.
    """

    params: list[nn.Parameter]
    lr_factor: float = 1.0
    constant_lr: bool = False


class MethodModule(nn.Module):
    """An encoder with what a method adds to it; a subclass gives it a `loss`."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def loss(
        self, views: Sequence[Tensor], generator: torch.Generator, progress: float
    ) -> dict[str, Tensor]:
        """Compute the terms whose sum is minimised.

        Args:
            views: [N, C, S, S] each: a `Views`, with labels and masks where they are asked for.
            generator: For random numbers of the loss, on the views' device.
            progress: How much of the training is done, from 0 to 1.

        Returns:
            Scalars by name; a single term is called "loss".
        """
        raise NotImplementedError(f"{type(self).__name__} has no loss(views, generator, progress)")

    def after_step(self, progress: float) -> None:
        """Update what follows the weights; called after every optimizer step, without gradients."""

    def embed(self, x: Tensor) -> Tensor:
        """The embedding [N, d] of x [N, C, H, W] that is watched for collapse."""
        embedding: Tensor = self.encoder(x)
        return embedding

    def parameter_groups(self) -> list[ParameterGroup]:
        """The trained parameters; one group of all of them if not said."""
        return [ParameterGroup([p for p in self.parameters() if p.requires_grad])]


# ------------------------------------------------------------------------------- tools for methods


def frozen_copy(module: nn.Module) -> Any:
    """Copy a module as a teacher: the same weights, never trained by gradients, and without SIM.

    Its BatchNorm layers normalise by their own batch in training, as in BYOL, MoCo and DINO.
    """
    teacher = copy.deepcopy(module)
    if any(isinstance(child, SIM) for child in teacher.modules()):
        detach_sim(teacher)
    return teacher.requires_grad_(False)


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move each of the teacher's weights: w' <- momentum w' + (1 - momentum) w.

    Weights are paired by name, since the student may have some that the teacher lacks (SIM's).
    Buffers are left alone.
    """
    for name, weight in teacher.named_parameters():
        weight.lerp_(student.get_parameter(name), 1 - momentum)


def full_and_small_crops(small_views: int, small: str) -> tuple[Crops, ...]:
    """Two full views, and small ones of half the side (multi-crop; SwAV, arXiv 2006.09882).

    Args:
        small_views: How many small ones; 0: none.
        small: Their changes of the augmentation.
    """
    full = Crops(2)
    if small_views == 0:
        return (full,)
    return (full, Crops(small_views, small, scale=0.5))


def cosine_momentum(momentum: float, progress: float) -> float:
    """Compute a teacher's momentum, which rises from its first value to 1 along a half cosine.

    1 - (1 - m)(cos(pi progress) + 1) / 2: BYOL (arXiv 2006.07733), section 3.3.
    """
    return 1 - (1 - momentum) * (math.cos(math.pi * progress) + 1) / 2


def at_least_float32(x: Tensor) -> Tensor:
    """Convert half precision to float32; float64 stays, so that a loss can be checked in it."""
    return x if x.dtype == torch.float64 else x.float()


def mean_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Compute the mean over the batch of the cosine of a and b, [N, d] each.

    It is taken in float32 (float64 stays) whatever the network computes in: in half precision
    small norms vanish and give NaN.
    """
    with full_precision(a.device):
        cosine = F.cosine_similarity(at_least_float32(a), at_least_float32(b), dim=-1)  # [N]
        return cosine.mean()


@torch.no_grad()
def gather_targets(x: Tensor) -> Tensor:
    """Concatenate x [N, ...] of every process without gradients: [world * N, ...]."""
    return distributed.gather(x.detach())


def rows_of_process(x: Tensor, n: int) -> Tensor:
    """Take this process' n rows of what `gather_targets` has put together."""
    first = distributed.rank() * n
    return x[first : first + n]


def draw_for_batch(n: int, *shape: int, generator: torch.Generator) -> Tensor:
    """Draw uniform numbers [n, *shape] for this process' n images of a batch.

    They are drawn for the images of all processes, so that an image has the same ones however many
    processes there are.
    """
    world, rank = distributed.world(), distributed.rank()
    numbers = torch.rand(world * n, *shape, generator=generator, device=generator.device)
    return numbers[rank * n : (rank + 1) * n]


def random_masks(n: int, patches: int, ratio: float, generator: torch.Generator) -> Tensor:
    """Hide a fraction of each image's patches.

    Args:
        n: Number of images of this process.
        patches: Patches along a side.
        ratio: Fraction that is hidden, the same number of each image's.
        generator: The same in all processes.

    Returns:
        bool [n, patches, patches], True where hidden.
    """
    numbers = draw_for_batch(n, patches**2, generator=generator)  # [n, P]
    hidden = round(ratio * patches**2)
    rank_of_patch = numbers.argsort(1).argsort(1)  # [n, P], a random permutation of 0 .. P - 1
    return (rank_of_patch < hidden).view(n, patches, patches)
