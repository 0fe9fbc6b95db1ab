"""SwAV (Caron et al., arXiv 2006.09882): predict which cluster the other view is assigned to.

    encoder, projector    x -> z [N, d], of length 1
    prototypes            C [K, d], of length 1: the clusters' directions
    scores                s = z C^T [N, K];  q = sinkhorn(s), the view's code, a constant
    L = mean over a full view i and another view j of - sum_k q_ik log softmax(s_j / T)_k
                                                       (equations 1 and 2; 6 with small crops)

Sinkhorn's algorithm (equations 3 to 5) gives every prototype an equal part of the batch, so that
no single one can take all images; codes that are a plain softmax allow that collapse. Small batches
need few prototypes, of the order of the batch, or the codes of a queue of earlier batches as well.
Only full views have codes; small crops predict those of both.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simlab._checks import AtLeast, AtMost, MoreThan, documented
from simlab.compute import full_precision
from simlab.models import build_mlp

from .base import (
    Crops,
    Method,
    MethodModule,
    at_least_float32,
    full_and_small_crops,
    gather_targets,
    rows_of_process,
)
from .queue import Queue

FULL_VIEWS = 2
SMALL_CROPS = "crop_min=0.05 crop_max=0.14"  # of the area (appendix A.2)


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float = 0.05, rounds: int = 3) -> Tensor:
    """Assign images to prototypes, to each prototype an equal share (equations 3 to 5).

    Each round divides every prototype's mass to 1/K, then every image's to 1/N. Three rounds do
    not converge: only the images' masses are exact.

    Args:
        scores: [N, K], cosines of images and prototypes.
        epsilon: How soft the assignment is.
        rounds: Number of rounds.

    Returns:
        The codes [N, K]; each row sums to 1.
    """
    n, k = scores.shape
    scores = at_least_float32(scores) / epsilon
    mass = (scores - scores.max()).exp()  # a constant in all scores changes nothing
    mass = mass / mass.sum()
    for _ in range(rounds):
        mass = mass / (mass.sum(0, keepdim=True) * k)  # prototypes to 1/K
        mass = mass / (mass.sum(1, keepdim=True) * n)  # images to 1/N
    return mass * n


def swav_loss(
    scores: Sequence[Tensor], codes: Sequence[Tensor], temperature: float = 0.1
) -> Tensor:
    """Compute equation 6: every code is predicted from all other views.

    Args:
        scores: [N, K] of each view, the full views first.
        codes: [N, K] of each full view; constants.
        temperature: T.

    Returns:
        A scalar; log K when all scores are alike.
    """
    with full_precision(scores[0].device):
        log_p = [F.log_softmax(at_least_float32(s) / temperature, dim=1) for s in scores]
        losses = []
        for i, code in enumerate(codes):
            of_code = []
            for j, prediction in enumerate(log_p):
                if j != i:
                    of_code.append(-(code.detach() * prediction).sum(1).mean())  # equation 2
            losses.append(torch.stack(of_code).mean())
        return torch.stack(losses).mean()


@documented
@dataclass(frozen=True, kw_only=True)
class SwAV(Method):
    """SwAV (Caron et al., arXiv 2006.09882). The defaults suit small images and two CPU cores."""

    loss_label: ClassVar[str] = "cross-entropy of the codes"

    prototypes: Annotated[int, AtLeast(2)] = 128
    """Number K of prototypes; 3000 in the paper, for 1,000 classes and batches of 4096."""

    temperature: Annotated[float, MoreThan(0)] = 0.1
    """Temperature T of the predictions (appendix A.1)."""

    epsilon: Annotated[float, MoreThan(0)] = 0.05
    """Softness of the codes (appendix A.1)."""

    codes: Literal["sinkhorn", "softmax"] = "sinkhorn"
    """softmax: codes without equal shares, which collapse onto one prototype."""

    local_views: Annotated[int, AtLeast(0)] = 0
    """Small crops of half the side beside the two views; 6 in the paper's best setting."""

    queue: Annotated[int, AtLeast(0)] = 0
    """Embeddings of earlier batches that share in the assignment; 3840 for small batches in the
    paper (section 4.3)."""

    queue_start: Annotated[float, AtLeast(0), AtMost(1)] = 0.1
    """Part of the training after which the queue is used (appendix A.6: epoch 15)."""

    freeze: Annotated[float, AtLeast(0), AtMost(1)] = 0.01
    """Part of the training in which the prototypes stay; an epoch in the authors' code."""

    hidden_dim: Annotated[int, AtLeast(1)] = 512
    """Width of the projector's hidden layer; 2048 in the authors' code."""

    proj_dim: Annotated[int, AtLeast(1)] = 128
    """Width d of the projections (appendix A.1)."""

    @property
    def crops(self) -> tuple[Crops, ...]:
        """Two full views, and the small crops."""
        return full_and_small_crops(self.local_views, SMALL_CROPS)

    def build(self, encoder: nn.Module, feature_dim: int) -> "SwAVModule":
        """Build the encoder with its projector and the prototypes."""
        return SwAVModule(encoder, feature_dim, self)

    def loss_at_collapse(self, images: int) -> float:
        """All images are alike: with equal shares the codes are uniform, else one takes all."""
        return math.log(self.prototypes) if self.codes == "sinkhorn" else 0.0

    def lowest_loss(self, images: int) -> float:
        """Codes that are certain, and predicted."""
        return 0.0


class SwAVModule(MethodModule):
    """An encoder with projector, prototypes and queues; arguments as `SimSiamModule`."""

    def __init__(self, encoder: nn.Module, feature_dim: int, options: SwAV) -> None:
        super().__init__(encoder)
        self.options = options
        self.projector = build_mlp(feature_dim, options.hidden_dim, options.proj_dim)
        directions = torch.randn(options.prototypes, options.proj_dim)
        self.prototypes = nn.Parameter(F.normalize(directions, dim=1))  # [K, d]
        self.has_queues = options.queue > 0
        if self.has_queues:  # of the embeddings of each full view
            self.queue1 = Queue(options.queue, options.proj_dim)
            self.queue2 = Queue(options.queue, options.proj_dim)
        self.new_embeddings: list[list[Tensor]] = []  # of this step, of all processes

    def loss(
        self, views: Sequence[Tensor], generator: torch.Generator, progress: float
    ) -> dict[str, Tensor]:
        """Compute equation 6 of two full views [N, C, S, S] and small crops."""
        embeddings = [self.embed(x) for x in views]  # [N, d] each
        with full_precision(views[0].device):
            embeddings = [F.normalize(z.float(), dim=1) for z in embeddings]
            prototypes = F.normalize(self.prototypes, dim=1)  # [K, d]
            if progress < self.options.freeze:
                prototypes = prototypes.detach()
            scores = [z @ prototypes.T for z in embeddings]  # [N, K] each
        full = [gather_targets(z) for z in embeddings[:FULL_VIEWS]]
        codes = [self._codes(i, z, prototypes.detach(), progress) for i, z in enumerate(full)]
        n = len(scores[0])
        codes = [rows_of_process(code, n) for code in codes]
        if self.has_queues:
            self.new_embeddings.append(full)
        return {"loss": swav_loss(scores, codes, self.options.temperature)}

    def _codes(self, view: int, z: Tensor, prototypes: Tensor, progress: float) -> Tensor:
        """The codes [N, K] of a full view's embeddings z [N, d] of all processes."""
        scores = z @ prototypes.T
        if self.options.codes == "softmax":
            return (scores / self.options.epsilon).softmax(1)
        number = len(scores)
        queue = self._queues()[view] if self.has_queues else None
        if queue is not None and queue.is_full and progress >= self.options.queue_start:
            earlier = queue.rows @ prototypes.T  # anew, since the prototypes have moved
            scores = torch.cat([scores, earlier])
        return sinkhorn(scores, self.options.epsilon)[:number]

    def _queues(self) -> tuple[Queue, Queue]:
        return self.queue1, self.queue2

    def after_step(self, progress: float) -> None:
        """Give the prototypes length 1 again, and push this step's embeddings."""
        self.prototypes.copy_(F.normalize(self.prototypes, dim=1))
        for embeddings in self.new_embeddings:
            for queue, z in zip(self._queues(), embeddings, strict=True):
                queue.push(z)
        self.new_embeddings.clear()

    def embed(self, x: Tensor) -> Tensor:
        """The projection z [N, d] of x [N, C, H, W]."""
        z: Tensor = self.projector(self.encoder(x))
        return z
