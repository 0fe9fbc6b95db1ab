"""What the protocols leave open, with the values that are tried; kept beside every result."""

from dataclasses import dataclass
from typing import Annotated, Literal

from simlab._checks import AtLeast, AtMost, MoreThan, check_fields, documented, near_names

# what a validation split of the training images chooses among
KNN_K = (200, 100, 50, 20, 10, 5)
KNN_TEMPERATURES = (0.1, 0.07, 0.03)
FINETUNING_RATES = (0.01, 0.05, 0.2)  # of the encoder's last block, for 256 images
HELD_OUT = 0.2  # fraction of the labelled images that chooses


@documented
@near_names
@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the protocols leave open."""

    batch_size: Annotated[int, AtLeast(1)] = 256
    """Clean images at once; no result depends on it but for rounding."""

    probe_epochs: Annotated[int, AtLeast(1)] = 90
    """Epochs of sgd-probe."""

    crop_min: Annotated[float, MoreThan(0), AtMost(1)] = 0.08
    """Smallest share of an image that a crop keeps, in sgd-probe and fine-tuning."""

    flip: Annotated[float, AtLeast(0), AtMost(1)] = 0.5
    """Probability of a horizontal flip, in sgd-probe and fine-tuning."""

    finetune_epochs: Annotated[int, AtLeast(0)] = 0
    """Epochs of fine-tuning. 0: 60 with up to 5 % of the labels, 30 with up to half, else 20."""

    finetune_batch_size: Annotated[int, AtLeast(2)] = 64
    """Images of one step of fine-tuning."""

    head_factor: Annotated[float, MoreThan(0)] = 10.0
    """Learning rate of the new classifier, as a multiple of the encoder's last block."""

    layer_decay: Annotated[float, MoreThan(0), AtMost(1)] = 0.9
    """Learning rate of a block in fine-tuning, as a multiple of the next block's. 1: one rate."""

    batch_norm: Literal["running", "frozen"] = "running"
    """Fine-tuning: BatchNorm normalises by the batch and keeps running statistics; or all of it
    stays as it was."""

    weight_decay: Annotated[float, AtLeast(0)] = 1e-4
    """Weight decay of fine-tuning."""

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def augment(self) -> str:
        """The recipe of sgd-probe and fine-tuning: a random crop and a flip."""
        return f"none crop_min={self.crop_min} ratio={4 / 3} flip={self.flip}"

    def epochs_of(self, fraction: float) -> int:
        """Epochs of fine-tuning on so large a fraction of the labelled images."""
        if self.finetune_epochs:
            return self.finetune_epochs
        if fraction <= 0.05:
            return 60
        return 30 if fraction <= 0.5 else 20
