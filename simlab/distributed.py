"""Several processes that train as one: what train.py needs when torchrun started it.

    torchrun --nproc_per_node=2 -m simlab pretrain --epochs 50

Every process has all pictures and the whole network, and works on its share of each batch.
BatchNorm, SimCLR's negatives and the gradients are those of the whole batch, and so is each
picture's random draw: N processes compute what one would, up to rounding. The first process alone
(rank 0) writes. With one process every function here does nothing.
"""

import atexit
import os
import types
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

Result = TypeVar("Result")
# long, since the others wait while the first downloads, or waits for another run's lock; that a
# process died is seen at once all the same
PATIENCE = timedelta(days=1)


def start():
    """Join the processes that torchrun started, if it did; more calls do nothing."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
        return
    gpus, local = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", 0))
    if gpus:
        if local >= gpus:
            raise ValueError(f"process {local + 1} of this machine has no GPU: there are {gpus}")
        torch.cuda.set_device(local)
    store, own, number = next(dist.rendezvous("env://"))
    if os.environ.get("LOCAL_WORLD_SIZE") == str(number):
        # on one machine torchrun keeps its store when it starts the processes again: the addresses
        # of the dead ones are still in it
        store = dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
    dist.init_process_group(backend, store=store, rank=own, world_size=number, timeout=PATIENCE)
    atexit.register(dist.destroy_process_group)


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def restarted() -> bool:
    """Whether torchrun has started the processes again after one had died."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def from_first(function: Callable[[], Result]) -> Result:
    """What the first process' call returns, for all of them; the others wait for it."""
    if world() == 1:
        return function()
    box = [function() if rank() == 0 else None]
    dist.broadcast_object_list(box)
    return box[0]


def first_before_others(function: Callable[[], Result]) -> Result:
    """Each process' own call, the first one's ahead of the others': it may download."""
    result = function() if rank() == 0 else None
    if world() > 1:
        dist.barrier()
    return function() if rank() else result


def shard(order: Tensor, batch_size: int) -> Tensor:
    """This process' part of every batch of `order` [M], M a multiple of batch_size."""
    return order.view(-1, world(), batch_size // world())[:, rank()].reshape(-1)


def share(number: int) -> tuple[int, int] | None:
    """(first, total): which of a batch's pictures this process' `number` are; None for all."""
    return (rank() * number, world() * number) if world() > 1 else None


def rows(number: int) -> Tensor:
    """This process' part of range(number), for work that `gather_rows` puts together."""
    return torch.arange(number).tensor_split(world())[rank()]


def gather_rows(part: Tensor, number: int) -> Tensor:
    """[number, ...] of every process' `rows(number)`, in order; no gradients."""
    if world() == 1:
        return part
    sizes = [len(r) for r in torch.arange(number).tensor_split(world())]
    padded = part.new_zeros(sizes[0], *part.shape[1:])
    padded[: len(part)] = part
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([p[:size] for p, size in zip(parts, sizes, strict=True)])


class _Sum(torch.autograd.Function):
    """The sum over all processes; each one's gradient is the sum of all gradients as well."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _Sum.apply(gradient)


def gather(x: Tensor) -> Tensor:
    """[N, D] of every process -> [world * N, D], with gradients."""
    if world() == 1:
        return x
    place = x.new_zeros(world(), *x.shape)
    return _Sum.apply(torch.cat([place[: rank()], x[None], place[rank() + 1 :]])).flatten(0, 1)


@torch.no_grad()
def average(tensors: list[Tensor]):
    """Replace the tensors, of one type, by their mean over all processes, in one exchange."""
    if world() > 1:
        flat = torch.cat([t.reshape(-1) for t in tensors])
        dist.all_reduce(flat)
        for t, mean in zip(tensors, (flat / world()).split([t.numel() for t in tensors]), strict=True):
            t.copy_(mean.view_as(t))


def average_gradients(network: nn.Module):
    """Of a loss that is the mean over all processes' losses; a missing gradient stays missing."""
    average([p.grad for p in network.parameters() if p.grad is not None])


# ------------------------------------------------------------------------- BatchNorm of all pictures


def with_global_batch_norm(network: nn.Module, device: torch.device) -> nn.Module:
    """The network with its BatchNorm layers normalising by the pictures of all processes."""
    if world() == 1:
        return network
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in network.modules():
        if isinstance(module, _BatchNorm):  # torch's own layer for this refuses CPUs
            module.forward = types.MethodType(_forward, module)
    return network


def _forward(self: _BatchNorm, x: Tensor) -> Tensor:
    """BatchNorm's forward pass [N, C, ...], with everybody's mean and variance in training."""
    if not (self.training or self.running_mean is None):
        return type(self).forward(self, x)
    y, mean, var = _BatchNormOfAll.apply(x, self.weight, self.bias, self.eps)
    if self.training and self.running_mean is not None:
        self.num_batches_tracked += 1
        momentum = self.momentum
        if momentum is None:  # an average over all batches
            momentum = 1 / float(self.num_batches_tracked)
        n = world() * x.numel() / x.shape[1]
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(var * (n / max(n - 1, 1)), momentum)
    return y


class _BatchNormOfAll(torch.autograd.Function):
    """x [N, C, ...] -> its normalisation, and mean and variance [C] of all processes' pictures.

    One exchange forwards (each process' mean and variance) and one backwards.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        over = [0, *range(2, x.dim())]
        own_var, own_mean = torch.var_mean(x.float(), over, correction=0)
        stats = gather(torch.stack([own_mean, own_var])[None])  # [world, 2, C]
        mean = stats[:, 0].mean(0)
        var = stats[:, 1].mean(0) + stats[:, 0].var(0, correction=0)
        ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt())
        ctx.mark_non_differentiable(mean, var)
        return F.batch_norm(x, mean, var, weight, bias, eps=eps), mean, var

    @staticmethod
    def backward(ctx, gradient, *_):
        x, weight, mean, scale = ctx.saved_tensors
        over, column = [0, *range(2, x.dim())], [-1] + [1] * (x.dim() - 2)  # [C] -> [C, 1, 1]
        normal = (x - mean.view(column)) * scale.view(column)
        sums = torch.stack([gradient.float().sum(over), (gradient * normal).sum(over)])  # [2, C]
        means = _Sum.apply(sums) / (world() * x.numel() / x.shape[1])
        dx = gradient - means[0].view(column) - normal * means[1].view(column)
        dx = dx * (scale if weight is None else scale * weight).view(column)
        own = (None, None) if weight is None else (sums[1], sums[0])
        return dx.to(x.dtype), *own, None
