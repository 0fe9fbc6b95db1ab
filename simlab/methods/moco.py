"""MoCo v2 (He et al., arXiv 1911.05722; Chen et al., 2003.04297): contrast with a queue.

    query        x1 -> encoder -> projector -> q [N, d], of length 1
    key          x2 -> a copy of both that follows slowly -> k [N, d], of length 1
    queue        the keys of earlier batches, Q [K, d]
    L = mean of - log( exp(<q, k>/T) / (exp(<q, k>/T) + sum over rows of Q exp(<q, row>/T)) )
                                                             (1911.05722, equation 1)
    the copy's weights   w' <- m w' + (1 - m) w              (equation 2)

The queue makes the number of negatives independent of the batch; the copy moves slowly so that its
old keys stay comparable. The queue is used as it was before this batch's keys enter it. As in the
paper, x1 asks and x2 answers; `symmetric` averages both directions, as lightly and solo-learn do.

BatchNorm lets a query recognise its key by the batch's statistics, which the queue does not share;
the paper shuffles the keys among its processes. Here the statistics are those of all processes and
nothing is shuffled, so that the loss is lower than the features deserve.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simlab._checks import AtLeast, AtMost, MoreThan, documented
from simlab.compute import full_precision
from simlab.models import build_mlp

from .base import (
    Method,
    MethodModule,
    TrainingData,
    at_least_float32,
    frozen_copy,
    gather_targets,
    mean_cosine,
    update_teacher,
)
from .queue import Queue


def moco_loss(q: Tensor, k: Tensor, queue: Tensor, temperature: float = 0.2) -> Tensor:
    """Compute equation 1 of queries, their keys, and a queue of other images' keys.

    Args:
        q: Queries [N, d], of any length.
        k: Keys [N, d] of the same images; constants.
        queue: Keys [K, d] of other images; constants.
        temperature: T.

    Returns:
        A scalar, at least 0; log(1 + K) when all are alike.
    """
    with full_precision(q.device):
        q = F.normalize(at_least_float32(q), dim=1)
        k = F.normalize(at_least_float32(k.detach()), dim=1)
        queue = F.normalize(queue.detach().to(q), dim=1)
        positive = (q * k).sum(1, keepdim=True)  # [N, 1]
        negative = q @ queue.T  # [N, K]
        logits = torch.cat([positive, negative], dim=1) / temperature  # [N, 1 + K]
        first = torch.zeros(len(q), dtype=torch.int64, device=q.device)
        return F.cross_entropy(logits, first)  # equation 1


@documented
@dataclass(frozen=True, kw_only=True)
class MoCo(Method):
    """MoCo v2 (Chen et al., arXiv 2003.04297). The defaults suit small images and two CPU cores."""

    loss_label: ClassVar[str] = "InfoNCE"

    temperature: Annotated[float, MoreThan(0)] = 0.2
    """Temperature T of the loss; 0.2 in version 2, 0.07 in version 1."""

    queue: Annotated[int, AtLeast(1)] = 4096
    """Number K of keys in the queue; 65536 in the paper. Smaller than the dataset less a batch, or
    an image meets itself among its negatives."""

    momentum: Annotated[float, AtLeast(0), AtMost(1)] = 0.99
    """Momentum m of the keys' encoder, constant; 0.999 in the paper (section 3.2)."""

    hidden_dim: Annotated[int, AtLeast(1)] = 512
    """Width of the projector's hidden layer; 2048 in the paper (version 2, section 3)."""

    proj_dim: Annotated[int, AtLeast(1)] = 128
    """Width d of queries and keys (section 3.3)."""

    symmetric: bool = False
    """Average both directions; twice the work."""

    negatives: bool = True
    """Off for the collapse lab: the loss is then - <q, k>/T, without the queue."""

    def resolve(self, data: TrainingData) -> Self:
        """Refuse a queue in which an image would meet itself."""
        most = data.images - data.part_size
        if self.queue > most:
            raise ValueError(
                f"queue={self.queue}: expected at most {most}, the {data.images} images less a "
                f"batch of {data.part_size}: else an image is its own negative"
            )
        return self

    def build(self, encoder: nn.Module, feature_dim: int) -> "MoCoModule":
        """Build both encoders with their projectors, and the queue."""
        return MoCoModule(encoder, feature_dim, self)

    def loss_at_collapse(self, images: int) -> float:
        """The key is one of 1 + K that are all alike."""
        return math.log(1 + self.queue) if self.negatives else -1 / self.temperature

    def lowest_loss(self, images: int) -> float:
        """The key agrees, and the whole queue is opposite to it."""
        if not self.negatives:
            return -1 / self.temperature
        return math.log1p(self.queue * math.exp(-2 / self.temperature))


class MoCoModule(MethodModule):
    """An encoder, its slow copy and the queue; arguments as `SimSiamModule`."""

    def __init__(self, encoder: nn.Module, feature_dim: int, options: MoCo) -> None:
        super().__init__(encoder)
        self.options = options
        dims = (feature_dim, options.hidden_dim, options.proj_dim)
        self.projector = build_mlp(*dims, batch_norm=False)
        self.teacher_encoder = frozen_copy(encoder)
        self.teacher_projector = frozen_copy(self.projector)
        self.queue = Queue(options.queue, options.proj_dim)
        self.new_keys: list[Tensor] = []  # of this step, of all processes

    def loss(
        self, views: Sequence[Tensor], generator: torch.Generator, progress: float
    ) -> dict[str, Tensor]:
        """Compute equation 1 of two views [N, C, S, S]."""
        x1, x2 = views
        loss = self._one_direction(x1, x2)
        if self.options.symmetric:
            loss = (loss + self._one_direction(x2, x1)) / 2
        return {"loss": loss}

    def _one_direction(self, x_query: Tensor, x_key: Tensor) -> Tensor:
        q = self.embed(x_query)  # [N, d]
        with torch.no_grad():
            k = self.teacher_projector(self.teacher_encoder(x_key))  # [N, d]
        self.new_keys.append(gather_targets(F.normalize(k.float(), dim=1)))
        if not self.options.negatives:
            return -mean_cosine(q, k) / self.options.temperature
        return moco_loss(q, k, self.queue.rows, self.options.temperature)

    def after_step(self, progress: float) -> None:
        """Let the keys' encoder follow (equation 2), and push this step's keys."""
        update_teacher(self.teacher_encoder, self.encoder, self.options.momentum)
        update_teacher(self.teacher_projector, self.projector, self.options.momentum)
        for keys in self.new_keys:
            self.queue.push(keys)
        self.new_keys.clear()

    def embed(self, x: Tensor) -> Tensor:
        """The query [N, d] of x [N, C, H, W], before it is normalised."""
        q: Tensor = self.projector(self.encoder(x))
        return q
