"""The protocols by name.

knn            vote of the nearest neighbours among all labelled training images
probe          linear classifier of clean features, by Newton-CG; probe-1%, probe-100: few labels
sgd-probe      the papers': SGD at rate 30, every image cropped and flipped anew each epoch
finetune       all weights are trained; finetune-1%, finetune-10%: few labels
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from simlab._checks import near
from simlab.data import Dataset
from simlab.evaluate import stratified

PROTOCOLS = ("knn", "probe", "sgd-probe", "finetune")
WITH_LABELS = ("probe", "finetune")  # those that a number of labels may follow
PER_LAYER = ("knn", "probe")
FROZEN = ("knn", "probe", "sgd-probe")


@dataclass(frozen=True)
class Protocol:
    """One protocol.

    Attributes:
        kind: One of `PROTOCOLS`.
        labels: Labelled training images, as `stratified` takes them; 0: all.
        name: As it was asked for.
    """

    kind: str
    labels: float
    name: str

    @property
    def draws(self) -> bool:
        """Whether the seed decides more than which images choose a hyper-parameter."""
        return self.labels != 0 or self.kind in ("sgd-probe", "finetune")

    @property
    def per_layer(self) -> bool:
        """Whether layers other than the last are measured as well."""
        return self.kind in PER_LAYER

    def labelled(self, data: Dataset, seed: int) -> Tensor:
        """Draw the labelled images: indices [L] into the training split.

        Raises:
            ValueError: The number does not fit the classes.
        """
        generator = torch.Generator().manual_seed(seed)
        return stratified(data.train.labels, self.labels, generator)

    def check(self, data: Dataset) -> None:
        """Refuse a dataset with too few labels, before anything is computed.

        Raises:
            ValueError: There are none, or fewer than two for each class.
        """
        labels = data.train.labels.cpu()
        try:
            drawn = labels[self.labelled(data, 0)]
        except ValueError as error:
            raise ValueError(f"{self.name} on {data.name}: {error}") from error
        classes, number = drawn.unique(return_counts=True)
        if len(classes) < 2 or int(number.min()) < 2:
            raise ValueError(
                f"{self.name} on {data.name}: there are {len(drawn)} labelled images of "
                f"{len(classes)} classes: expected two classes and at least two images of each"
            )


def parse_protocol(text: str) -> Protocol:
    """Read a protocol's name, such as knn, probe-100 or finetune-10%.

    Raises:
        ValueError: It is unknown.
    """
    for kind in PROTOCOLS:
        if text == kind:
            return Protocol(kind, 0, text)
    kind, _, number = text.rpartition("-")
    if kind not in WITH_LABELS:
        examples = [*PROTOCOLS, "probe-1%", "probe-10%", "finetune-1%", "finetune-10%"]
        raise ValueError(f"protocol {text!r} is unknown{near(text, examples)}")
    try:
        labels = float(number.removesuffix("%"))
    except ValueError:
        labels = 0.0
    if number.endswith("%"):
        labels /= 100
    if not labels > 0 or (number.endswith("%") and labels >= 1):
        raise ValueError(
            f"protocol {text!r}: expected a number of labelled images, {kind}-100, or a share of "
            f"each class below 100 %, {kind}-10%; all of them are {kind!r}"
        )
    return Protocol(kind, labels, text)
