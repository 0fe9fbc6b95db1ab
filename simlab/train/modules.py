"""A stored run's method module, and what each term of its loss does to the encoder."""

from itertools import islice

import pandas as pd
import torch
from torch import Tensor, nn

from simlab.compute import resolve_device
from simlab.data import Dataset
from simlab.methods.base import MethodModule
from simlab.runs import Run, config_of

from .loop import Task
from .run import build_task, settled


def load_module(run: Run, data: Dataset, epoch: int = 0) -> MethodModule:
    """Load what was trained: the encoder with the method's heads, its teacher, queue or decoder.

    Args:
        run: A run of a method and an encoder that have names.
        data: The dataset that it learned from.
        epoch: Of whose end; 0: the newest checkpoint.

    Returns:
        The module in evaluation mode, on the device that training would use.

    Raises:
        ValueError: There is no checkpoint, or none of that epoch.
    """
    module = _load_task(run, data, epoch).network
    return module.eval()


def loss_terms(run: Run, data: Dataset, batches: int = 4) -> pd.DataFrame:
    """Measure each term of a run's loss and its gradient, at every epoch that has a checkpoint.

    Args:
        run: A run of a method and an encoder that have names.
        data: The dataset that it learned from.
        batches: Over how many the mean is taken: the same ones at every epoch.

    Returns:
        A row an epoch and term: epoch, term, value, and gradient: the length of the term's gradient
        with respect to the encoder's weights.
    """
    config = config_of(run)
    rows = []
    for epoch in sorted(run.checkpoint_paths()):
        task = _load_task(run, data, epoch)
        network = task.network.train()
        weights = [p for p in network.encoder.parameters() if p.requires_grad]
        device = weights[0].device
        with settled(config, device):
            generators = task.seed_epoch(config, 0, device)
            for views in islice(task.views.epoch(generators), batches):
                terms = network.loss(views, generators.loss, epoch / config.epochs)
                for name, term in terms.items():
                    length = _gradient_length(term, weights)
                    value = float(term.detach())
                    row = {"epoch": epoch, "term": name, "value": value, "gradient": length}
                    rows.append(row)
    means = pd.DataFrame(rows).groupby(["epoch", "term"], sort=False).mean()
    return means.reset_index()


def _load_task(run: Run, data: Dataset, epoch: int) -> Task:
    config = config_of(run)
    paths = run.checkpoint_paths()
    if not paths:
        raise ValueError(f"{run.folder} has no checkpoint, and its encoder alone is no module")
    epoch = epoch or max(paths)
    if epoch not in paths:
        stored = ", ".join(map(str, sorted(paths)))
        raise ValueError(
            f"epoch={epoch}: {run.folder} has checkpoints of {stored}; keep_checkpoints keeps more"
        )
    device = resolve_device(config.device)
    with settled(config, device):
        task = build_task(config, data)
    task.network.load_state_dict(run.read_checkpoint(paths[epoch])["network"])
    task.network.to(device)
    return task


def _gradient_length(term: Tensor, weights: list[nn.Parameter]) -> float:
    """The length of a term's gradient; weights that it does not depend on have none."""
    if not term.requires_grad:
        return 0.0
    gradients = torch.autograd.grad(term, weights, retain_graph=True, allow_unused=True)
    squares = [g.double().square().sum() for g in gradients if g is not None]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0
