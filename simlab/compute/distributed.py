"""Several processes that train as one: what train.py needs when torchrun started it.

    torchrun --nproc_per_node=2 -m simlab pretrain --epochs 50

Every process has all images and the whole network, and works on its share of each batch.
BatchNorm, SimCLR's negatives and the gradients are those of the whole batch, and so is each
image's random draw: N processes compute what one would, up to rounding. The first process alone
(rank 0) writes. With one process every function here does nothing.
"""

import atexit
import os
import types
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

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


def from_first(function: Callable) -> object:
    """What the first process' call returns, for all of them; the others wait for it."""
    if world() == 1:
        return function()
    box = [function() if rank() == 0 else None]
    dist.broadcast_object_list(box)
    return box[0]


def first_before_others(function: Callable) -> object:
    """Each process' own call, the first one's ahead of the others': it may download."""
    result = function() if rank() == 0 else None
    if world() > 1:
        dist.barrier()
    return function() if rank() else result


def shard(order: Tensor, batch_size: int) -> Tensor:
    """This process' part of every batch of `order` [M], M a multiple of batch_size."""
    return order.view(-1, world(), batch_size // world())[:, rank()].reshape(-1)


def share(number: int) -> tuple[int, int] | None:
    """(first, total): which of a batch's images this process' `number` are; None for all."""
    return (rank() * number, world() * number) if world() > 1 else None


def rows(number: int) -> Tensor:
    """This process' part of range(number), for work that `gather_rows` puts together."""
    return torch.arange(number).tensor_split(world())[rank()]


def gather_rows(part: Tensor, number: int) -> Tensor:
    """[number, ...] of every process' `rows(number)`, in order; no gradients."""
    if world() == 1:
        return part
    whole = part.new_zeros(number, *part.shape[1:])
    whole[rows(number)] = part
    dist.all_reduce(whole)
    return whole


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
        flat = torch.cat([t.flatten() for t in tensors])
        dist.all_reduce(flat)
        for t, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            t.copy_(mean.view_as(t) / world())


def average_gradients(network: nn.Module):
    """Of a loss that is the mean over all processes' losses; a missing gradient stays missing."""
    if world() > 1:
        average([p.grad for p in network.parameters() if p.grad is not None])


# ------------------------------------------------------------------------- BatchNorm of all images


def with_global_batch_norm(network: nn.Module, device: torch.device) -> nn.Module:
    """The network with its BatchNorm layers normalising by the images of all processes."""
    if world() == 1:
        return network
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in network.modules():
        if isinstance(module, _BatchNorm):  # torch's own layer for this refuses CPUs
            module.forward = types.MethodType(_forward, module)
    return network


def _forward(self: _BatchNorm, x: Tensor) -> Tensor:
    """BatchNorm's forward pass [N, C, ...], with everybody's mean and variance in training.

    One exchange forwards, of each process' mean and variance, and one of their gradients backwards.
    """
    if not (self.training or self.running_mean is None):
        return type(self).forward(self, x)
    own = torch.var_mean(x.float(), [0, *range(2, x.dim())], correction=0)
    stats = gather(torch.stack(own)[None])  # [world, 2, C]
    mean = stats[:, 1].mean(0)
    var = stats[:, 0].mean(0) + stats[:, 1].var(0, correction=0)
    if self.training and self.running_mean is not None:
        self.num_batches_tracked += 1
        n = world() * x.numel() / x.shape[1]
        # without a momentum they are the average over all batches
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.detach(), momentum)
        self.running_var.lerp_(var.detach() * (n / max(n - 1, 1)), momentum)
    scale, shift = (var + self.eps).rsqrt(), 0.0
    if self.affine:
        scale, shift = scale * self.weight, self.bias
    shift = shift - mean * scale
    column = [-1] + [1] * (x.dim() - 2)  # [C] -> [C, 1, 1]
    return torch.addcmul(shift.view(column), x.float(), scale.view(column)).to(x.dtype)
