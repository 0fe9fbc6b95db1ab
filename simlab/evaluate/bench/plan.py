"""What is measured: an encoder and its baselines, on datasets, by protocols."""

from dataclasses import dataclass

import torch

from simlab.data import Dataset
from simlab.evaluate import counted

from .cost import seconds_of, seconds_per_image
from .finetuning import check_trainable
from .inputs import unchanged
from .layers import layer_names
from .protocols import Protocol
from .settings import Settings
from .sources import Source

UNTRAINED = "untrained twin"


@dataclass
class Plan:
    """What is measured.

    Attributes:
        source: The encoder.
        datasets: On the device.
        protocols: In the order of the table.
        layers: Names or globs of layers that are judged beside the output.
        seeds: Of fresh weights, labelled images, classifiers.
        settings: What the protocols leave open.
        baselines: Whether the untrained twin and raw pixels are measured.
        device: Where it is computed.
    """

    source: Source
    datasets: list[Dataset]
    protocols: list[Protocol]
    layers: tuple[str, ...]
    seeds: list[int]
    settings: Settings
    baselines: bool
    device: torch.device

    @property
    def is_trained(self) -> bool:
        """Whether the encoder has weights of its own, and not other random ones for each seed."""
        return self.source.trained is not None

    @property
    def has_untrained(self) -> bool:
        """Whether fresh weights are measured, as a baseline or because nothing else was given."""
        is_wanted = self.baselines or not self.is_trained
        return is_wanted and self.source.fresh is not None

    @property
    def untrained_name(self) -> str:
        """What the table calls the encoder with fresh weights."""
        return UNTRAINED if self.is_trained else f"{self.source.name} (random weights)"

    @property
    def notes(self) -> list[str]:
        """What a reader of the table should know."""
        notes = []
        if not self.is_trained:
            notes.append("random weights, others for each seed: this is its own untrained twin")
        elif self.baselines and self.source.fresh is None:
            notes.append(f"no untrained twin: {self.source.why_not_fresh}")
        for data in self.datasets:
            images = counted(data.train.labels, data.test.labels, data.classes)
            texts = [*data.notes, images.left_out]
            notes += [f"{data.name}: {text}" for text in texts if text]
        return notes

    def check(self) -> None:
        """Refuse what can't be measured, before anything is.

        Raises:
            ValueError: See `evaluate`.
        """
        if not self.protocols or not self.seeds:
            raise ValueError("there is nothing to measure: give protocols and seeds")
        names = [protocol.name for protocol in self.protocols]
        for kind, given in (("protocols", names), ("seeds", self.seeds)):
            if len(set(given)) < len(given):
                raise ValueError(f"{kind}={given}: one is given twice")
        encoder = self.source.first
        layer_names(encoder, self.layers)
        check_trainable(encoder, self.protocols, self.source.name)
        for data in self.datasets:
            images = counted(data.train.labels, data.test.labels, data.classes)
            if images.missing:
                raise ValueError(f"{data.name}: {images.missing}")
            for protocol in self.protocols:
                protocol.check(data)

    def seconds(self) -> float:
        """Estimate the time of all of it; the encoder is tried on each dataset.

        Raises:
            ValueError: It gives no features of one of them.
        """
        encoder = self.source.first
        outputs = 1 + len(layer_names(encoder, self.layers))
        encoders = self.is_trained + self.has_untrained * len(self.seeds)
        repeats = (self.is_trained + self.has_untrained) * len(self.seeds)
        total = 0.0
        for data in self.datasets:
            module = self.source.prepared(encoder, data, self.device)
            x = unchanged(data).train.subset(torch.arange(1)).images.float() / 255
            with torch.no_grad():
                width = module(x).shape[1] * outputs
            per_image = seconds_per_image(module, data)
            total += seconds_of(
                self.protocols, data, per_image, width, encoders, repeats, self.settings
            )
        return total
