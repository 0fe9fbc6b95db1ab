"""What can be trained, as the loop in train.py sees it: a network, the loss of a batch, measures.

SIM (sim.py) is an option of both: put on the encoder's blocks, its loss is added to the task's.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simlab.augment import parse_augment, views_at_once
from simlab.compute.distributed import gather, gather_rows, rows, share, world
from simlab.config import PretrainConfig, SupervisedConfig, TrainConfig
from simlab.data.images import Dataset, Images
from simlab.evaluate.collapse import collapse_metrics
from simlab.evaluate.features import accuracy, features, knn_accuracy, stratified
from simlab.sim.sim import LossSimTracker, attach_sim

from .simclr import SimCLR, SimCLRLoss
from .simsiam import SimSiam, SimSiamLoss, View

AT_ONCE = 2**18, 4  # views of small batches: up to so many numbers, and batches
MONITOR_IMAGES = 1000  # clean images on which std and rank of z are measured


class _Task:
    """What both have in common."""

    def __init__(self, config: TrainConfig, data: Dataset, encoder: nn.Module):
        self.config, self.data = config, data
        self.augment = parse_augment(config.augment)
        self.losses, self.sim = ("loss",), None
        if config.sim_layers:  # SIM on the blocks that it names, before any optimizer is made
            sample = torch.zeros(1, data.train.channels, config.view_size, config.view_size)
            device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
            attach_sim(
                encoder,
                config.sim_layers.split(","),
                sample.to(device),
                beta=config.sim_beta,
                token_sampling_ratio=config.sim_tokens,
                token_sampling_type=config.sim_sampling,
                loss_type=config.sim_loss,
            )
            self.losses, self.sim = ("loss", "sim_loss"), LossSimTracker(encoder)

    def views(
        self, batches: Iterable[tuple[Tensor, Tensor]], generator: torch.Generator
    ) -> Iterator[tuple[Tensor, tuple[Tensor, ...]]]:
        """(index, views) of every batch of (index, uint8 images), made for some small ones at once."""
        c, d, batches = self.config, self.data, iter(batches)
        numbers = c.batch_size // c.accumulate // world() * d.train.channels * c.view_size**2
        at_once = max(1, min(AT_ONCE[0] // numbers, AT_ONCE[1]))
        while some := list(islice(batches, at_once)):
            index, images = zip(*some, strict=True)
            how = self.augment, d.normalize, c.view_size, generator, share(len(images[0]))
            yield from zip(index, views_at_once(self.views_of_each, images, *how), strict=True)

    def with_sim(self, loss: Tensor) -> Tensor:
        """The losses that `self.losses` names, to be added up: [L]."""
        if self.sim is None:
            return loss[None]
        return torch.stack((loss, self.sim.compute_loss_sim().to(loss)))


class Pretraining(_Task):
    """SimSiam or SimCLR: two views of every image, no labels."""

    kind, config_class, views_of_each = "pretrain", PretrainConfig, 2

    def __init__(self, config: PretrainConfig, data: Dataset, encoder: nn.Module, dim: int):
        super().__init__(config, data, encoder)
        self.images = data.pretrain
        heads = {k: getattr(config, k) for k in ("proj_layers", "proj_dim", "head_bn")}
        if config.method == "simclr":
            self.network = SimCLR(encoder, dim, **heads)
            self.loss = SimCLRLoss(config.temperature)
        else:
            heads |= {"pred_dim": config.pred_dim, "predictor": config.predictor}
            self.network = SimSiam(encoder, dim, **heads)
            self.loss = SimSiamLoss(config.stop_gradient)

    def groups(self) -> list[dict]:
        """The optimizer's parameter groups: the predictor may learn at a rate of its own."""
        c, named = self.config, self.network.named_parameters()
        learned = [(n.startswith("predictor."), p) for n, p in named if p.requires_grad]
        predictor, rest = ([p for its, p in learned if its == which] for which in (True, False))
        return [
            {"params": rest, "factor": 1.0, "fixed": False},
            {"params": predictor, "factor": c.pred_lr, "fixed": c.fix_pred_lr},
        ]

    def batch_losses(self, index: Tensor, views: tuple[Tensor, ...]) -> Tensor:
        """The losses that `self.losses` names, to be added up: [L]."""
        view1, view2 = map(self.network, views)
        if self.config.method == "simclr":  # the negatives are every process' images
            view1, view2 = (View(*map(gather, view)) for view in (view1, view2))
        return self.with_sim(self.loss(view1, view2))

    def measure(self, epoch: int) -> dict[str, float]:
        """Is it collapsing (every epoch), and what do the features know (every few)?"""
        c, d, n = self.config, self.data, self.network
        spread = torch.linspace(0, len(d.test) - 1, min(MONITOR_IMAGES, len(d.test))).long()
        # a module, so that `features` freezes its BatchNorm
        z = features(nn.Sequential(n.encoder, n.projector), d.test.subset(spread))
        refuse_nan([z], f"in the features after epoch {epoch}")
        found = collapse_metrics(z)
        labelled = min(int(d.train.labels.min()), int(d.test.labels.min())) >= 0
        due = epoch % c.monitor_every == 0 or epoch == c.epochs
        if due and labelled and len(d.classes) > 1:
            bank, test = (_features_of_all(n.encoder, part) for part in (d.train, d.test))
            k, t = min(c.knn_k, len(bank)), c.knn_temperature
            found["knn"] = knn_accuracy(bank, d.train.labels, test, d.test.labels, k, t)
            found |= {"knn_k": k, "knn_temperature": t}
        return found


class Supervised(_Task):
    """Cross-entropy on the labels, with one augmented view of every image."""

    kind, config_class, views_of_each = "supervised", SupervisedConfig, 1

    def __init__(self, config: SupervisedConfig, data: Dataset, encoder: nn.Module, dim: int):
        if len(data.classes) < 2 or int(data.train.labels.min()) < 0:
            raise ValueError(
                f"{data.name}: expected a label for every image, of at least two classes; here are "
                f"{len(data.classes)} classes, and the least label is {data.train.labels.min()}"
            )
        super().__init__(config, data, encoder)
        generator = torch.Generator().manual_seed(config.seed)
        number = config.labels or len(data.train)
        self.images = data.train.subset(stratified(data.train.labels, number, generator))
        self.network = nn.Sequential()
        self.network.add_module("encoder", encoder)
        self.network.add_module("classifier", nn.Linear(dim, len(data.classes)))

    def groups(self) -> list[dict]:
        return [{"params": list(self.network.parameters()), "factor": 1.0, "fixed": False}]

    def batch_losses(self, index: Tensor, views: tuple[Tensor, ...]) -> Tensor:
        (x,) = views
        labels = self.images.labels[index.to(x.device)]
        return self.with_sim(F.cross_entropy(self.network(x).float(), labels))

    def measure(self, epoch: int) -> dict[str, float]:
        d = self.data
        if epoch < self.config.epochs or int(d.test.labels.min()) < 0:
            return {}
        logits = _features_of_all(self.network, d.test)
        refuse_nan([logits], f"in the outputs after epoch {epoch}")
        return {"test_accuracy": accuracy(logits, d.test.labels)}


def _features_of_all(encoder: nn.Module, images: Images) -> Tensor:
    """`features`, each process making those of its part: [N, D] in every one."""
    part = features(encoder, images, only=rows(len(images)))
    return gather_rows(part, len(images))


def refuse_nan(values: list[Tensor], where: str):
    """Stop before anything broken is stored: a loss, weights, or what comes out of them."""
    # a sum is finite only if every number is; one look at the device for all of them
    if not bool(torch.stack([v.sum(dtype=torch.float32) for v in values]).isfinite().all()):
        raise FloatingPointError(
            f"training diverged: a loss, weight or feature is NaN or infinite {where}. Lower lr, "
            "add warmup_epochs, or set precision='float32'. What was stored before is whole"
        )
