"""Supervised training as a method: cross-entropy on the labels, with one view of every image.

encoder f      image x [N, C, H, W] -> features h [N, D]
classifier     h -> logits [N, K], linear
L = cross-entropy of the logits and the labels
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simlab._checks import AtLeast, documented

from .base import Crops, Method, MethodModule, TrainingData, Views


@documented
@dataclass(frozen=True, kw_only=True)
class Supervised(Method):
    """Cross-entropy on the labels: what `train_supervised` trains with."""

    needs_labels: ClassVar[bool] = True
    loss_label: ClassVar[str] = "cross-entropy"

    num_classes: Annotated[int, AtLeast(0)] = 0
    """Outputs of the classifier. 0: the dataset's classes."""

    @property
    def crops(self) -> tuple[Crops, ...]:
        """One view of every image."""
        return (Crops(1),)

    def resolve(self, data: TrainingData) -> Self:
        """Take the dataset's number of classes."""
        if self.num_classes:
            return self
        return dataclasses.replace(self, num_classes=data.num_classes)

    def build(self, encoder: nn.Module, feature_dim: int) -> "SupervisedModule":
        """Build the encoder with a linear classifier."""
        return SupervisedModule(encoder, feature_dim, self)

    def lowest_loss(self, images: int) -> float:
        """Every image has all the probability at its label."""
        return 0.0


class SupervisedModule(MethodModule):
    """An encoder with a linear classifier."""

    def __init__(self, encoder: nn.Module, feature_dim: int, options: Supervised) -> None:
        super().__init__(encoder)
        self.classifier = nn.Linear(feature_dim, options.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [N, C, H, W] to logits [N, K]."""
        logits: Tensor = self.classifier(self.encoder(x))
        return logits

    def loss(
        self, views: Sequence[Tensor], generator: torch.Generator, progress: float
    ) -> dict[str, Tensor]:
        """Compute the cross-entropy of one labelled view [N, C, S, S]."""
        assert isinstance(views, Views) and views.labels is not None
        (x,) = views
        logits = self(x)  # [N, K]
        return {"loss": F.cross_entropy(logits.float(), views.labels)}
