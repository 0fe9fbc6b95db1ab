"""What is measured while training: sums of the loss, collapse, kNN accuracy, test accuracy."""

import torch
from torch import Tensor, nn

from simlab.compute.distributed import gather_rows, rows
from simlab.config import PretrainConfig
from simlab.data import Dataset, Images
from simlab.evaluate import accuracy, collapse_metrics, features, knn_accuracy
from simlab.methods.base import MethodModule

MONITOR_IMAGES = 1000  # clean images on which std and rank of the embedding are measured

# ------------------------------------------------------------------------------------- the losses


class LossSums:
    """The terms of the loss, added up over an epoch without waiting for the device."""

    def __init__(self, parts: int) -> None:
        self.parts = parts  # of a batch; each part's loss counts that much less
        self.names: list[str] = []
        self.sums = torch.zeros(0)

    def add(self, terms: dict[str, Tensor]) -> Tensor:
        """Add the terms of a part of a batch; returns their sum, to be minimised."""
        if not self.names:
            self.names = list(terms)
            self.sums = torch.zeros(len(terms), device=next(iter(terms.values())).device)
        values = torch.stack([term.to(self.sums) for term in terms.values()])  # [T]
        self.sums += values.detach() / self.parts
        return values.sum()

    def loss(self) -> Tensor:
        """The sum of the method's own terms: all but SIM's."""
        terms = [name for name in self.names if name != "sim_loss"]  # SIM's comes last
        return self.sums[: len(terms)].sum()

    def means(self, steps: int) -> dict[str, float]:
        """The mean of each term over the steps, and of the method's loss as "loss"."""
        values = (self.sums / steps).tolist()
        means = dict(zip(self.names, values, strict=True))
        if "loss" in means:
            return means
        loss = sum(value for name, value in means.items() if name != "sim_loss")
        return {"loss": loss} | means


def refuse_nan(values: list[Tensor], where: str) -> None:
    """Stop before anything broken is stored: a loss, weights, or what comes out of them.

    Raises:
        FloatingPointError: A value is NaN or infinite.
    """
    # a sum is finite only if every number is; one look at the device for all of them
    sums = torch.stack([value.sum(dtype=torch.float32) for value in values])
    if not bool(sums.isfinite().all()):
        raise FloatingPointError(
            f"training diverged: a loss, weight or feature is NaN or infinite {where}. Lower lr, "
            "add warmup_epochs, or set precision='float32'. What was stored before is whole"
        )


# ----------------------------------------------------------------------------------- the features


class Pretraining:
    """The measures of pretraining: std and rank of the embedding, the encoder's kNN accuracy."""

    def __init__(self, config: PretrainConfig, data: Dataset) -> None:
        self.config = config
        self.data = data

    def measure(self, network: MethodModule, epoch: int) -> dict[str, float]:
        """Measure after an epoch (from 1); the kNN accuracy after every few, and the last."""
        config = self.config
        embedding = self._embed_test_images(network)
        refuse_nan([embedding], f"in the features after epoch {epoch}")
        measures: dict[str, float] = dict(collapse_metrics(embedding))
        is_due = epoch % config.monitor_every == 0 or epoch == config.epochs
        if is_due and self._has_labels():
            measures |= self._knn(network.encoder)
        return measures

    def _embed_test_images(self, network: MethodModule) -> Tensor:
        """The embedding of clean images spread over the test images (folders are sorted)."""
        data = self.data
        number = min(MONITOR_IMAGES, len(data.test))
        spread = torch.linspace(0, len(data.test) - 1, number).long()
        return features(_Embedder(network), data.test.subset(spread))

    def _has_labels(self) -> bool:
        data = self.data
        lowest = min(int(data.train.labels.min()), int(data.test.labels.min()))
        return lowest >= 0 and len(data.classes) > 1

    def _knn(self, encoder: nn.Module) -> dict[str, float]:
        data = self.data
        bank = features_of_all(encoder, data.train)
        test = features_of_all(encoder, data.test)
        k = min(self.config.knn_k, len(bank))
        temperature = self.config.knn_temperature
        knn = knn_accuracy(bank, data.train.labels, test, data.test.labels, k, temperature)
        return {"knn": knn, "knn_k": k, "knn_temperature": temperature}


class SupervisedTraining:
    """The measure of supervised training: the accuracy on the test images, once, at its end."""

    def __init__(self, epochs: int, data: Dataset) -> None:
        self.epochs = epochs
        self.data = data

    def measure(self, network: MethodModule, epoch: int) -> dict[str, float]:
        """Measure after the last epoch (from 1)."""
        data = self.data
        if epoch < self.epochs or int(data.test.labels.min()) < 0:
            return {}
        logits = features_of_all(network, data.test)
        refuse_nan([logits], f"in the outputs after epoch {epoch}")
        return {"test_accuracy": accuracy(logits, data.test.labels)}


class _Embedder(nn.Module):
    """A method's `embed` as a module, so that `features` freezes its BatchNorm."""

    def __init__(self, network: MethodModule) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network.embed(x)


def features_of_all(encoder: nn.Module, images: Images) -> Tensor:
    """The features [N, D] of all images, each process making those of its part."""
    local = features(encoder, images, only=rows(len(images)))
    return gather_rows(local, len(images))
