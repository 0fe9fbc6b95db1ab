"""Training: the loop, and the two things it can be used for.

`pretrain` is self-supervised, `train_supervised` its yardstick. Both give back a `Run`: found
again when it was made before, gone on with when it was stopped half-way. Started by torchrun,
several processes do it together (distributed.py).
"""

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from simlab.compute import distributed
from simlab.compute.devices import autocast, environment, resolve_device
from simlab.config import PretrainConfig, SupervisedConfig, TrainConfig
from simlab.data import Dataset, load_data
from simlab.evaluate.collapse import warn_if_collapsing
from simlab.methods.tasks import Pretraining, Supervised, refuse_nan
from simlab.models.encoders import build_encoder
from simlab.runs.identity import module_digest
from simlab.runs.run import Run, claim
from simlab.sim import detach_sim
from simlab.train.resolve import resolve

from .monitor import StepLog
from .optim import build_optimizer, set_rate

CHECK_EVERY = 20  # steps between two looks at the loss; each look waits for the device


def pretrain(config: PretrainConfig, data: Dataset | None = None, **options) -> Run:
    """Self-supervised pretraining, or the stored run of the same configuration.

    Args:
        config: see `PretrainConfig`.
        data: instead of the dataset that config.data names.
        options: `encoder`, a module of yours; `fresh`, forget what is stored; `progress`, a bar;
            `on_epoch`, called with the history after every epoch; `folder`, where runs are kept.
    Returns: the finished run; `run.encoder` holds the final weights, in evaluation mode. The
        caller's random state and number of threads stay what they are.
    Raises: FloatingPointError when the loss is no longer a number; ValueError or TypeError for what
        does not fit.
    """
    return _run(Pretraining, config, data, **options)


def train_supervised(config: SupervisedConfig, data: Dataset | None = None, **options) -> Run:
    """The same encoder trained on labels, with the same augmentation; options as `pretrain`."""
    return _run(Supervised, config, data, **options)


def fit(
    task: Pretraining | Supervised,
    config: TrainConfig,
    run: Run,
    device: torch.device,
    progress: bool = True,
    on_epoch: Callable[[list[dict]], None] | None = None,
) -> list[dict]:
    """Train from the newest checkpoint, or from the start; returns the history, a row an epoch."""
    network = task.network.to(device, memory_format=torch.channels_last)
    network = task.network = distributed.with_global_batch_norm(network, device)
    batch_size, parts = config.batch_size, config.accumulate
    if batch_size % (parts * distributed.world()) or batch_size == parts:
        raise ValueError(
            f"batch_size={batch_size} can't be cut into {parts} (accumulate) x {distributed.world()} "
            "(processes) equal parts; one of `accumulate` parts needs at least two images"
        )
    images, part_size = task.images, batch_size // parts
    steps = len(images) // batch_size  # of an epoch; what is left over waits for the next
    optimizer = build_optimizer(config, task.groups())
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
    stored, history = {"network": network, "optimizer": optimizer, "scaler": scaler}, []
    if state := distributed.from_first(run.load_checkpoint):
        for name, part in stored.items():
            part.load_state_dict(state[name])
        history = state["history"]
        run.log(f"goes on after epoch {len(history)}")

    network.train()
    first_epoch, generator = len(history), torch.Generator(device)
    started = time.monotonic() - (history[-1]["seconds"] if history else 0)
    with tqdm(
        total=config.epochs * steps * batch_size,
        initial=first_epoch * steps * batch_size,
        desc=run.folder.name.split("-")[0],
        unit=" images",
        unit_scale=True,
        mininterval=0.5,
        disable=not progress or distributed.rank() > 0,
    ) as bar:
        for epoch in range(first_epoch, config.epochs):
            # own random numbers for every epoch, whether or not the run was stopped before: for the
            # order, the views, and the global generators, from which dropout and SIM draw
            at = 3 * (config.seed * 100_003 + epoch)
            order_of_epoch = torch.Generator().manual_seed(at)
            generator.manual_seed(at + 1)
            # dropout differs between processes; the positions that SIM compares must not
            torch.manual_seed(at + 2 + (0 if config.sim_layers else distributed.rank() << 52))
            order = torch.randperm(len(images), generator=order_of_epoch)[: steps * batch_size]
            # once: a copy at every step would wait for the device
            order = distributed.shard(order, part_size).to(device)
            total = torch.zeros(len(task.losses), device=device)
            told = StepLog(epoch + 1, steps, (config.epochs - epoch) * steps)
            batches = images.batches(order, part_size // distributed.world())
            views_of_all = task.views(told.waiting(batches), generator)
            for part, (index, views) in enumerate(views_of_all, 1):
                with autocast(config.precision, device):
                    losses = task.batch_losses(index, views)  # [1], [2] with SIM
                scaler.scale(losses.sum() / parts).backward()
                total += losses.detach() / parts
                if part % parts:
                    continue
                step = part // parts - 1
                rate = set_rate(optimizer, config, epoch + step / steps)
                distributed.average_gradients(network)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
                if step % CHECK_EVERY == 0 or step == steps - 1:
                    where = f"by step {step + 1} of epoch {epoch + 1}, at a rate of {rate:.3g}"
                    refuse_nan([total, *network.parameters(), *network.buffers()], where)
                    bar.set_postfix_str(_short(history[-1:], total[0] / (step + 1)), refresh=False)
                if config.log_every and (step + 1) % config.log_every == 0:
                    so_far = total[:1].clone()  # everybody's
                    distributed.average([so_far])
                    run.log(told.line(step + 1, so_far[0]))
                bar.update(batch_size)

            distributed.average([total])
            means = (total / steps).tolist()
            row = {"epoch": epoch + 1, **dict(zip(task.losses, means, strict=True)), "lr": rate}
            row |= task.measure(epoch + 1) | {"seconds": time.monotonic() - started}
            history.append(row)
            left = row["seconds"] / (epoch + 1) * (config.epochs - epoch - 1)
            run.log("  ".join(f"{k} {v:.4g}" for k, v in row.items()) + f"  left {left:.0f} s")
            if "knn" in row:
                run.log_knn(epoch + 1, row["knn"])
            if warning := warn_if_collapsing(row["loss"], row.get("std_ratio", math.inf)):
                run.log(warning)
                if distributed.rank() == 0:
                    tqdm.write(f"epoch {epoch + 1}: {warning}")
            run.save_history(history)
            state = {name: part.state_dict() for name, part in stored.items()}
            state |= {"epoch": epoch + 1, "history": history}
            run.save_checkpoint(epoch + 1, state, config.keep_checkpoints)
            if on_epoch:
                on_epoch(history)
    return history


def untrained(config: TrainConfig, data: Dataset) -> nn.Module:
    """The encoder as training finds it, with its random first weights: a baseline."""
    device, shape = resolve_device(config.device), (data.train.channels, data.train.size)
    with settled(config, device):
        encoder, _ = build_encoder(config.encoder, *shape, config.stem)
    return encoder.to(device, memory_format=torch.channels_last).eval()


@contextlib.contextmanager
def settled(config: TrainConfig, device: torch.device) -> Iterator[None]:
    """The configuration's seed and threads; afterwards the caller's own again."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        torch.set_num_threads(config.threads or threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _run(
    task_of: type[Pretraining] | type[Supervised],
    config: TrainConfig,
    data: Dataset | None,
    encoder: nn.Module | None = None,
    fresh: bool = False,
    progress: bool = True,
    on_epoch: Callable[[list[dict]], None] | None = None,
    folder: str = "",
) -> Run:
    if not isinstance(config, task_of.config_class):
        wanted = task_of.config_class.__name__
        raise TypeError(f"config is a {type(config).__name__}: expected a {wanted}")
    distributed.start()
    if data is None:
        where = config.data, config.data_folder, config.download, config.image_size
        data = distributed.first_before_others(lambda: load_data(*where))
    if not isinstance(data, Dataset):
        raise TypeError(f"data is a {type(data).__name__}: expected a Dataset; see from_arrays")
    config, device = resolve(config, data, encoder), resolve_device(config.device)
    extra = {"data": data.digest(), "encoder": "" if encoder is None else module_digest(encoder)}
    with settled(config, device):  # before the first weight is drawn
        net = copy.deepcopy(encoder) if encoder is not None else config.encoder
        net, dim = build_encoder(net, data.train.channels, data.train.size, config.stem)
        task = task_of(config, data.to(device), net, dim)
        with claim(task.kind, config, extra, folder, fresh) as run:
            history, where = [], environment(device) | {"processes": distributed.world()}
            if not distributed.from_first(lambda: run.finished):
                run.log(f"starts with {config} on {where}")
                history = fit(task, config, run, device, progress, on_epoch)
            if config.sim_layers:
                detach_sim(net)
            if history:
                last = history[-1]
                best = max([r for r in history if "knn" in r] or [last], key=lambda r: r.get("knn"))
                result = {"final": last, "best": best, "environment": where}
                run.finish(net.state_dict(), result | {"seconds": round(last["seconds"], 1)})
            net.load_state_dict(distributed.from_first(run.load_encoder_state))
    # laid out as in training whether it was trained or loaded: the same bits come out
    run.encoder = net.to(device, memory_format=torch.channels_last).eval()
    return run


def _short(last: list[dict], loss: Tensor) -> str:
    """What the progress bar shows: this epoch's loss, and the last epoch's std and kNN."""
    shown = {k: last[0][k] for k in ("std_ratio", "knn") if last and k in last[0]}
    return "  ".join(f"{k} {v:.3f}" for k, v in {"loss": float(loss), **shown}.items())
