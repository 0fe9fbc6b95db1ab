"""Fine-tuning: all weights of an encoder are trained on few or all labels, by the training loop.

The learning rate falls from the last block to the first (`learning_rates`), a new linear classifier
has a greater one. A fifth of the labelled images of the first seed chooses the rate by the loss;
then all labelled images are trained on, and the test split is evaluated once, after the last epoch.
Each training is a run, and is not repeated where it is stored.
"""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from simlab._checks import AtMost, MoreThan
from simlab.compute import environment
from simlab.config import SupervisedConfig
from simlab.data import Dataset, Images, StreamedImages
from simlab.evaluate import features
from simlab.methods.base import ParameterGroup
from simlab.methods.supervised import Supervised, SupervisedModule
from simlab.runs import Run, claim, describe_encoder, module_digest, object_digest
from simlab.train import build_task, resolve, settled
from simlab.train.callbacks import Watchers
from simlab.train.loop import fit

from .frozen import Row, held_out_and_rest
from .inputs import Prepared, unchanged
from .learning_rates import rate_factors
from .protocols import Protocol
from .settings import FINETUNING_RATES, Settings
from .sources import weights_digest


@dataclass(frozen=True, kw_only=True)
class FineTuned(Supervised):
    """Cross-entropy on the labels, with a learning rate for each block of the encoder."""

    layer_decay: Annotated[float, MoreThan(0), AtMost(1)] = 1.0
    """Learning rate of a block, as a multiple of the next block's."""

    head_factor: Annotated[float, MoreThan(0)] = 1.0
    """Learning rate of the classifier, as a multiple of the last block's."""

    def build(self, encoder: nn.Module, feature_dim: int) -> "FineTunedModule":
        """Build the encoder with a linear classifier."""
        return FineTunedModule(encoder, feature_dim, self)


class FineTunedModule(SupervisedModule):
    """An encoder with a linear classifier, and their learning rates."""

    def __init__(self, encoder: nn.Module, feature_dim: int, options: FineTuned) -> None:
        super().__init__(encoder, feature_dim, options)
        self.factors = rate_factors(encoder, options.layer_decay)
        self.head_factor = options.head_factor

    def parameter_groups(self) -> list[ParameterGroup]:
        """A group for each learning rate; what is frozen is in none."""
        groups: dict[float, list[nn.Parameter]] = {}
        for name, weight in self.encoder.named_parameters():
            if weight.requires_grad:
                groups.setdefault(self.factors[name], []).append(weight)
        head = ParameterGroup(list(self.classifier.parameters()), self.head_factor)
        return [ParameterGroup(weights, factor) for factor, weights in groups.items()] + [head]


class FineTuning:
    """Fine-tuning of one encoder on one dataset with one number of labels.

    Args:
        data: The images.
        protocol: How many of them have a label.
        settings: What is left open.
        folder: Where the runs are kept.
        progress: Show a bar.
    """

    def __init__(
        self,
        data: Dataset,
        protocol: Protocol,
        settings: Settings,
        folder: Path,
        progress: bool = True,
    ) -> None:
        self.data = unchanged(data)
        self.protocol = protocol
        self.settings = settings
        self.folder = folder
        self.progress = progress
        self.device = data.train.device
        number = len(protocol.labelled(data, 0))
        self.epochs = settings.epochs_of(number / int((data.train.labels >= 0).sum()))

    def choose_rate(self, module: Prepared, seed: int) -> Row:
        """Train on four fifths of the labelled images with each rate; the others choose.

        Args:
            module: The encoder behind its preprocessing.
            seed: Draws the labelled images and those that choose.

        Returns:
            The rate with the lowest loss, its accuracy on the images that chose, and the losses.

        Raises:
            FloatingPointError: Training diverged with every rate.
        """
        labelled = self.protocol.labelled(self.data, seed)
        labels = self.data.train.labels.cpu()
        held_out, rest = held_out_and_rest(labels, labelled, seed)
        train = images_at(self.data.train, rest)
        validation = images_at(self.data.train, held_out)
        losses: dict[float, float] = {}
        accuracies: dict[float, float] = {}
        for rate in FINETUNING_RATES:
            # to these runs the images that choose are the test split
            try:
                run = self._trained(module, train, validation, rate, seed)
            except FloatingPointError:  # which is this rate's result
                losses[rate] = float("inf")
                continue
            losses[rate] = run.result["test_loss"]
            accuracies[rate] = run.result["final"]["test_accuracy"]
        if not accuracies:
            raise FloatingPointError(f"fine-tuning diverged with each rate of {FINETUNING_RATES}")
        best = min(accuracies, key=lambda rate: losses[rate])
        return {"rate": best, "validation": accuracies[best], "losses": losses}

    def measure(self, module: Prepared, seed: int, rate: float) -> Row:
        """Train on all labelled images of a seed, and evaluate the test images once."""
        labelled = self.protocol.labelled(self.data, seed)
        train = images_at(self.data.train, labelled)
        run = self._trained(module, train, self.data.test, rate, seed)
        final = run.result["final"]
        has_batch_norm = any(isinstance(layer, _BatchNorm) for layer in module.modules())
        return {
            "accuracy": final["test_accuracy"],
            "labels": len(train),
            "tested": final.get("test_images", len(self.data.test)),
            "rate": rate,
            "epochs": run.config["epochs"],
            "layer_decay": self.settings.layer_decay,
            "batch_norm": self.settings.batch_norm if has_batch_norm else "none",
            "run": run.name,
        }

    def _trained(
        self, module: Prepared, train: Images, test: Images, rate: float, seed: int
    ) -> Run:
        """Train a copy of the encoder, or load the stored run."""
        data = Dataset(self.data.name, train, test, normalize=self.data.normalize)
        network = _trainable(module, self.settings.batch_norm)
        method = FineTuned(
            layer_decay=self.settings.layer_decay, head_factor=self.settings.head_factor
        )
        config = resolve(self._config(module, train, rate, seed), data, network, method)
        identity = {
            "data": data.digest(),
            "encoder": module_digest(network, weights_digest(network)),
            "method": object_digest(method, "method"),
        }
        with settled(config, self.device):
            task = build_task(config, data, method=method, encoder=network)
            with claim("finetune", config, identity, self.folder) as run:
                run.describe(describe_encoder(config, data, network))
                if not run.finished:
                    run.log(f"fine-tuning starts with {config}")
                    watchers = Watchers(run)
                    history = fit(task, config, run, self.device, watchers, self.progress)
                    result = {
                        "final": history[-1],
                        "best": history[-1],
                        "test_loss": _loss(task.network, data.test),
                        "environment": environment(self.device),
                        "finished": time.strftime("%Y-%m-%d %H:%M"),
                    }
                    run.finish(task.network.encoder.state_dict(), result)
        return run

    def _config(self, module: Prepared, train: Images, rate: float, seed: int) -> SupervisedConfig:
        settings = self.settings
        return SupervisedConfig(
            epochs=self.epochs,
            batch_size=min(settings.finetune_batch_size, len(train)),
            lr=rate,
            weight_decay=settings.weight_decay,
            augment=settings.augment,
            view_size=module.expects.size,
            seed=seed,
            device=str(self.device),
        )


def images_at(images: Images, index: Tensor) -> Images:
    """The images at `index` [M]; streamed ones stay on the disk."""
    if not isinstance(images, StreamedImages):
        return images.subset(index)
    paths = tuple(images.files.paths[i] for i in index.tolist())
    labels = images.labels[index.to(images.labels.device)]
    return StreamedImages(
        replace(images.files, paths=paths), labels, images.classes, images.normalize
    )


def _trainable(module: Prepared, batch_norm: str) -> Prepared:
    """A copy whose weights are all trained, but those of BatchNorm where it is frozen."""
    copied = copy.deepcopy(module).cpu().requires_grad_(True)
    if batch_norm == "frozen":
        for layer in copied.modules():
            if isinstance(layer, _BatchNorm):
                layer.requires_grad_(False)
    return copied


def _loss(network: nn.Module, images: Images) -> float:
    """The mean cross-entropy of clean images that have a label."""
    logits = features(network, images)  # [N, K]
    has_label = images.labels >= 0
    return float(F.cross_entropy(logits[has_label], images.labels[has_label]))


def check_trainable(encoder: Any, protocols: Sequence[Protocol], name: str) -> None:
    """Refuse to fine-tune what has no weights.

    Raises:
        ValueError: The encoder is a function, or was compiled by torch.jit.
    """
    names = [protocol.name for protocol in protocols if protocol.kind == "finetune"]
    is_module = isinstance(encoder, nn.Module) and not isinstance(encoder, torch.jit.ScriptModule)
    if names and not (is_module and any(True for _ in encoder.parameters())):
        raise ValueError(
            f"{', '.join(names)}: {name} has no weights that can be trained; give the module, or "
            "leave fine-tuning out"
        )
