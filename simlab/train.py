"""Training: the loop, and the two things it can be used for.

`pretrain` is self-supervised, `train_supervised` its yardstick. Both give back a `Run`: found
again when it was made before, gone on with when it was stopped half-way.
"""

import copy
import dataclasses
import hashlib
import math
import time
from collections.abc import Callable

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from .augment import parse_augment, two_views, view
from .collapse import collapse_metrics, warn_if_collapsing
from .config import Config, PretrainConfig, SupervisedConfig, TrainConfig
from .data import DataSet, Pictures, load_data
from .devices import autocast, environment, resolve_device, resolve_precision
from .evaluate import features, knn_accuracy
from .models import SMALL_PICTURE, build_encoder
from .optim import build_optimizer, set_rate
from .runs import Run, claim
from .simsiam import SimSiam, SimSiamLoss

CHECK_EVERY = 20  # steps between two looks at the loss; each look waits for the device
MONITOR_PICTURES = 1000  # clean pictures on which std and rank of z are measured


def pretrain(config: PretrainConfig, data: DataSet | None = None, **options) -> Run:
    """Self-supervised pretraining, or the stored run of the same configuration.

    Args:
        config: see `PretrainConfig`.
        data: instead of the data set that config.data names.
        options: `encoder`, a module of yours; `fresh`, forget what is stored; `progress`, a bar;
            `on_epoch`, called with the history after every epoch; `folder`, where runs are kept.
    Returns: the finished run; `run.encoder` holds the final weights, in evaluation mode.
    Raises: FloatingPointError when the loss is no longer a number; ValueError for what does not fit.
    """
    return _run("pretrain", Pretraining, config, data, **options)


def train_supervised(config: SupervisedConfig, data: DataSet | None = None, **options) -> Run:
    """The same encoder trained on labels, with the same augmentation; options as `pretrain`."""
    return _run("supervised", Supervised, config, data, **options)


class Pretraining:
    """SimSiam as the loop sees it: a network, the loss of a batch, and what to measure."""

    def __init__(self, config: PretrainConfig, data: DataSet, encoder: nn.Module, dim: int):
        self.config, self.data, self.pictures = config, data, data.pretrain
        self.augment = parse_augment(config.augment)
        self.network = SimSiam(
            encoder, dim, config.proj_layers, config.proj_dim, config.pred_dim,
            config.predictor, config.head_bn,
        )  # fmt: skip
        self.loss = SimSiamLoss(config.stop_gradient)

    def parameters(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Those whose learning rate decays, and those whose rate stays."""
        predictor = [p for p in self.network.predictor.parameters() if p.requires_grad]
        rest = [*self.network.encoder.parameters(), *self.network.projector.parameters()]
        return (rest, predictor) if self.config.fix_pred_lr else (rest + predictor, [])

    def batch_loss(self, index: Tensor, images: Tensor, generator: torch.Generator) -> Tensor:
        c, d = self.config, self.data
        x1, x2 = two_views(images, self.augment, d.mean, d.std, c.view_size, generator)
        return self.loss(self.network(x1), self.network(x2))

    def measure(self, epoch: int) -> dict[str, float]:
        """Is it collapsing (every epoch), and what do the features know (every few)?"""
        c, d = self.config, self.data
        clean = d.test.subset(torch.arange(min(MONITOR_PICTURES, len(d.test))))
        z = features(lambda x: self.network(x).z, clean, d.mean, d.std)
        found = collapse_metrics(z)
        if epoch % c.monitor_every == 0 or epoch == c.epochs:
            if len(d.train.classes) > 1 and int(d.train.labels.min()) >= 0:
                bank = features(self.network.encoder, d.train, d.mean, d.std)
                test = features(self.network.encoder, d.test, d.mean, d.std)
                found["knn"] = knn_accuracy(
                    bank, d.train.labels, test, d.test.labels, c.knn_k, c.knn_temperature
                )
        return found


class Supervised:
    """Cross-entropy on the labels, with one augmented view of every picture."""

    def __init__(self, config: SupervisedConfig, data: DataSet, encoder: nn.Module, dim: int):
        self.config, self.data = config, data
        self.pictures = labelled(data.train, config.labels, config.seed)
        self.augment = parse_augment(config.augment)
        self.network = nn.Sequential()
        self.network.add_module("encoder", encoder)
        self.network.add_module("classifier", nn.Linear(dim, len(data.classes)))

    def parameters(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        return list(self.network.parameters()), []

    def batch_loss(self, index: Tensor, images: Tensor, generator: torch.Generator) -> Tensor:
        c, d = self.config, self.data
        x = view(images, self.augment, d.mean, d.std, c.view_size, generator)
        labels = self.pictures.labels[index.to(self.pictures.device)]
        return F.cross_entropy(self.network(x).float(), labels)

    def measure(self, epoch: int) -> dict[str, float]:
        if epoch < self.config.epochs:
            return {}
        d = self.data
        logits = features(self.network, d.test, d.mean, d.std)
        return {"test_accuracy": float((logits.argmax(1) == d.test.labels).float().mean())}


def fit(
    task: Pretraining | Supervised,
    config: TrainConfig,
    run: Run,
    device: torch.device,
    progress: bool = True,
    on_epoch: Callable[[list[dict]], None] | None = None,
) -> list[dict]:
    """Train from the newest checkpoint, or from the start; returns the history, a row an epoch."""
    pictures, network = task.pictures, task.network.to(device, memory_format=torch.channels_last)
    batch_size = min(config.batch_size, len(pictures))
    steps = len(pictures) // batch_size  # of an epoch; what is left over waits for the next
    optimizer = build_optimizer(config, *task.parameters())
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
    generator = torch.Generator(device)
    history, best, first_epoch, seconds = [], -math.inf, 0, 0.0
    if state := run.load_checkpoint():
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
        set_random_state(state["random"])
        history, best, first_epoch = state["history"], state["best"], state["epoch"]
        seconds = history[-1]["seconds"]
        run.log(f"goes on after epoch {first_epoch}")

    network.train()
    started = time.monotonic() - seconds
    bar = tqdm(
        total=config.epochs * steps * batch_size, initial=first_epoch * steps * batch_size,
        desc=run.folder.name.split("-")[0], unit=" pictures", unit_scale=True,
        disable=not progress, mininterval=0.5,
    )  # fmt: skip
    with bar:
        for epoch in range(first_epoch, config.epochs):
            # an own order and own views for every epoch, whether or not the run was stopped before
            order_of_epoch = torch.Generator().manual_seed(config.seed * 100_003 + epoch)
            generator.manual_seed(config.seed * 100_003 + epoch)
            order = torch.randperm(len(pictures), generator=order_of_epoch)[: steps * batch_size]
            total = torch.zeros((), device=device)
            for step, (index, images) in enumerate(pictures.batches(order, batch_size)):
                rate = set_rate(optimizer, config, epoch + step / steps)
                with autocast(config.precision, device):
                    loss = task.batch_loss(index, images, generator)
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                total += loss.detach()
                if step % CHECK_EVERY == 0 or step == steps - 1:
                    _refuse_nan(total, epoch, step, rate)
                    bar.set_postfix_str(_short(history[-1:], total / (step + 1)), refresh=False)
                bar.update(batch_size)
            row = {"epoch": epoch + 1, "loss": float(total) / steps, "lr": rate}
            row |= task.measure(epoch + 1) | {"seconds": time.monotonic() - started}
            history.append(row)
            run.log("  ".join(f"{k} {v:.4g}" for k, v in row.items()))
            if warning := warn_if_collapsing(row["loss"], row.get("std_ratio", math.inf)):
                run.log(warning)
                tqdm.write(f"epoch {epoch + 1}: {warning}")
            is_best = row.get("knn", -math.inf) > best
            best = max(best, row.get("knn", -math.inf))
            run.save_history(history)
            state = {
                "epoch": epoch + 1, "best": best, "history": history, "random": random_state(),
                "network": network.state_dict(), "optimizer": optimizer.state_dict(),
                "scaler": scaler.state_dict(),
            }  # fmt: skip
            run.save_checkpoint((epoch + 1) * steps, state, is_best, config.keep_checkpoints)
            if on_epoch:
                on_epoch(history)
    return history


def resolve(config: Config, data: DataSet) -> Config:
    """The configuration with every "auto" and 0 replaced by the choice made for this data."""
    size, colour = data.train.size, data.train.channels == 3
    changes = {
        "precision": resolve_precision(config.precision, resolve_device(config.device)),
        "view_size": config.view_size or size,
    }
    if config.augment.split()[:1] == ["auto"]:
        name = "scattered" if not colour else f"simsiam-{'cifar' if size <= 40 else 'imagenet'}"
        changes["augment"] = config.augment.replace("auto", name, 1)
    if config.encoder == "auto":
        changes["encoder"] = "tiny" if size <= 40 else "resnet18"
    if config.stem == "auto":
        changes["stem"] = "small" if size <= SMALL_PICTURE else "large"
    if getattr(config, "proj_layers", 1) == 0:
        changes["proj_layers"] = 2 if size <= SMALL_PICTURE else 3
    return dataclasses.replace(config, **changes)


def labelled(pictures: Pictures, number: int, seed: int) -> Pictures:
    """`number` pictures, as many of each class, drawn by the seed; 0 takes all of them."""
    if number == 0:
        return pictures
    classes = len(pictures.classes)
    if number % classes or number > len(pictures):
        raise ValueError(
            f"labels={number}: expected a multiple of the {classes} classes, at most "
            f"{len(pictures)}, or 0 for all"
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(pictures), generator=generator)
    labels = pictures.labels.cpu()[order]
    chosen = [order[labels == c][: number // classes] for c in range(classes)]
    short = [pictures.classes[c] for c, own in enumerate(chosen) if len(own) < number // classes]
    if short:
        raise ValueError(f"labels={number}: too few pictures of {', '.join(short)}")
    return pictures.subset(torch.cat(chosen))


def random_state() -> dict[str, Tensor]:
    """The state of torch's global generators (dropout and SIM draw from them)."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Tensor]):
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _run(
    kind: str,
    task_of: type[Pretraining] | type[Supervised],
    config: Config,
    data: DataSet | None,
    encoder: nn.Module | None = None,
    fresh: bool = False,
    progress: bool = True,
    on_epoch: Callable[[list[dict]], None] | None = None,
    folder: str = "",
) -> Run:
    device = resolve_device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    data = data or load_data(config.data, config.data_folder, config.download, config.image_size)
    config = resolve(config, data)
    data, digest = data.to(device), data.digest()
    torch.manual_seed(config.seed)  # before the first weight is drawn
    own = encoder is not None
    encoder, dim = build_encoder(
        copy.deepcopy(encoder) if own else config.encoder,
        data.train.channels, data.train.size, config.stem,
    )  # fmt: skip
    extra = {"data": digest, "encoder": weights_digest(encoder) if own else ""}
    with claim(kind, config, extra, folder, fresh) as run:
        if not run.finished:
            task = task_of(config, data, encoder, dim)
            start = time.monotonic()
            run.log(f"starts on {device}: {config}")
            history = fit(task, config, run, device, progress, on_epoch)
            best = max(history, key=lambda row: row.get("knn", -math.inf))
            result = {"final": history[-1], "best": best, "environment": environment(device)}
            result["seconds"] = round(time.monotonic() - start, 1)
            run.finish(encoder.state_dict(), result)
    encoder.load_state_dict(run.load_encoder_state())
    run.encoder = encoder.to(device).eval()
    return run


def weights_digest(module: nn.Module) -> str:
    """What tells a module of the user's from another: its layers and its initial weights."""
    h = hashlib.sha256(repr(module).encode())
    for name, value in module.state_dict().items():
        h.update(name.encode())
        h.update(value.detach().cpu().contiguous().view(torch.uint8).numpy())
    return h.hexdigest()[:16]


def _refuse_nan(total: Tensor, epoch: int, step: int, rate: float):
    if not math.isfinite(float(total)):
        raise FloatingPointError(
            f"the loss is {float(total)} in epoch {epoch + 1}, step {step + 1}, at a learning rate "
            f"of {rate:.3g}. Lower lr, add warmup_epochs, or set precision='float32'. The last "
            "checkpoint is whole"
        )


def _short(last: list[dict], loss: Tensor) -> str:
    """What the progress bar shows: this epoch's loss, and the last epoch's std and kNN."""
    shown = {k: last[0][k] for k in ("std_ratio", "knn") if last and k in last[0]}
    return "  ".join(f"{k} {v:.3f}" for k, v in {"loss": float(loss), **shown}.items())
