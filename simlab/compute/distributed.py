"""Several processes that train as one: what the training loop needs when torchrun started it.

    torchrun --nproc_per_node=2 -m simlab pretrain --epochs 50
    srun --ntasks=2 python -m simlab pretrain --epochs 50           in a Slurm job

Every process holds all images and the whole network, and works on its slice of each batch.
BatchNorm, SimCLR's negatives and the gradients are those of the whole batch, and so is each image's
random draw: N processes compute what one would, up to rounding. The first process alone (rank 0)
writes. With one process every function here does nothing.
"""

import atexit
import os
import types
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .slurm import understand_srun

# Long, since the others wait while the first downloads, or waits for another run's lock. That a
# process died is noticed at once all the same.
PATIENCE = timedelta(days=1)

Result = TypeVar("Result")


def start() -> None:
    """Join the processes that torchrun or srun started, if one did; again it does nothing.

    Raises:
        ValueError: There are more processes on this machine than GPUs, where it has any; or srun's
            variables make no sense.
    """
    if dist.is_initialized():
        return
    understand_srun()
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return
    num_gpus = torch.cuda.device_count()
    if num_gpus:
        torch.cuda.set_device(gpu_of_process(os.environ, num_gpus))
    store, this_rank, world_size = next(dist.rendezvous("env://"))
    if os.environ.get("LOCAL_WORLD_SIZE") == str(world_size):
        # On one machine torchrun keeps its store when it restarts the processes: the addresses of
        # the dead ones are still in it.
        store = dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if num_gpus else "gloo",
        store=store,
        rank=this_rank,
        world_size=world_size,
        timeout=PATIENCE,
    )
    atexit.register(dist.destroy_process_group)


def gpu_of_process(environment: Mapping[str, str], num_gpus: int) -> int:
    """Choose the GPU of a process: the one of its number on this machine.

    A task of srun that sees one GPU alone has been given it (`--gpus-per-task=1`); if two tasks see
    the same one, nccl refuses that.

    Args:
        environment: Of the process.
        num_gpus: How many GPUs it sees.

    Raises:
        ValueError: There is none left for it.
    """
    local_rank = int(environment.get("LOCAL_RANK", 0))
    if num_gpus == 1 and "SLURM_GPUS_PER_TASK" in environment:
        return 0
    if local_rank >= num_gpus:
        raise ValueError(
            f"process {local_rank + 1} of this machine has no GPU: there are {num_gpus}"
        )
    return local_rank


def world() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def restarted() -> bool:
    """Tell whether torchrun has restarted the processes after one had died."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def from_first(function: Callable[[], Result]) -> Result:
    """Return what the first process' call returns, in all of them; the others wait for it."""
    if world() == 1:
        return function()
    results = [function() if rank() == 0 else None]
    dist.broadcast_object_list(results)
    return results[0]  # type: ignore[return-value]  # after the broadcast it is the first one's


def shard(order: Tensor, batch_size: int) -> Tensor:
    """Return this process' slice of every batch of `order` [M], M a multiple of batch_size."""
    batches = order.view(-1, world(), batch_size // world())  # [M / B, world, B / world]
    return batches[:, rank()].reshape(-1)


def share(number: int) -> tuple[int, int] | None:
    """Return (first, total): the place of this process' `number` images in the batch of all.

    None where one process has them all.
    """
    return (rank() * number, world() * number) if world() > 1 else None


def rows(number: int) -> Tensor:
    """Return this process' slice of range(number), for work that `gather_rows` puts together."""
    return torch.arange(number).tensor_split(world())[rank()]


def gather_rows(local: Tensor, number: int) -> Tensor:
    """Put together every process' `rows(number)`, in order and without gradients: [number, ...]."""
    if world() == 1:
        return local
    total = local.new_zeros(number, *local.shape[1:])
    total[rows(number)] = local
    dist.all_reduce(total)
    return total


def gather(x: Tensor) -> Tensor:
    """Concatenate x [N, D] of every process: [world * N, D], with gradients.

    Each process' gradient is the sum of all processes' gradients, since every one of them computes
    the loss of the whole batch.
    """
    if world() == 1:
        return x
    gathered: Tensor = _Gather.apply(x)
    return gathered.flatten(0, 1)


class _Gather(torch.autograd.Function):
    """Every process' x [N, D] as [world, N, D]; x's gradient is the sum of all processes'."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        gathered = x.new_empty(world(), *x.shape)
        dist.all_gather(list(gathered.unbind()), x.contiguous())
        return gathered

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[rank()]


@torch.no_grad()
def average(tensors: list[Tensor]) -> None:
    """Replace the tensors, all of one dtype, by their mean over all processes, in one exchange."""
    if world() == 1:
        return
    flat = torch.cat([t.flatten() for t in tensors])
    dist.all_reduce(flat)
    sums = flat.split([t.numel() for t in tensors])
    for tensor, total in zip(tensors, sums, strict=True):
        tensor.copy_(total.view_as(tensor) / world())


def share_of_cores() -> int:
    """Return how many cores of this machine are there for this process, at least one."""
    if hasattr(os, "sched_getaffinity"):  # those that a container or a job may use
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(1, cores // local_processes)


# -------------------------------------------------------------- BatchNorm over all processes


def with_global_batch_norm(network: nn.Module, device: torch.device) -> nn.Module:
    """Return the network with BatchNorm layers that normalise by the images of all processes."""
    if world() == 1:
        return network
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return converted
    for module in network.modules():
        if isinstance(module, _BatchNorm):  # torch's own SyncBatchNorm refuses CPUs
            module.forward = types.MethodType(_global_batch_norm, module)  # type: ignore[method-assign]  # one layer's own
    return network


def _global_batch_norm(self: _BatchNorm, x: Tensor) -> Tensor:
    """BatchNorm's forward pass [N, C, ...], in training with mean and variance of all processes.

    There is one exchange in the forward pass, of each process' mean and variance, and one of their
    gradients in the backward pass.
    """
    uses_running_statistics = not self.training and self.running_mean is not None
    if uses_running_statistics:
        return type(self).forward(self, x)
    dims = [0, *range(2, x.dim())]  # all but the channels
    local_var, local_mean = torch.var_mean(x.float(), dims, correction=0)  # [C] each
    stats = gather(torch.stack((local_var, local_mean))[None])  # [world, 2, C]
    variances, means = stats.unbind(1)  # [world, C] each
    mean = means.mean(0)
    # the variance of everything: that within the processes, and that between them
    var = variances.mean(0) + means.var(0, correction=0)
    if self.training and self.running_mean is not None:
        _update_running_statistics(self, mean.detach(), var.detach(), x.numel() // x.shape[1])
    scale = (var + self.eps).rsqrt()
    shift: Tensor | float = 0.0
    if self.affine:
        scale = scale * self.weight
        shift = self.bias
    shift = shift - mean * scale
    column = [-1] + [1] * (x.dim() - 2)  # [C] -> [C, 1, 1]
    return torch.addcmul(shift.view(column), x.float(), scale.view(column)).to(x.dtype)


def _update_running_statistics(norm: _BatchNorm, mean: Tensor, var: Tensor, local: int) -> None:
    """Move running_mean and running_var towards a batch's mean and variance [C].

    Args:
        norm: The layer.
        mean: Of the batch of all processes.
        var: The biased variance, as BatchNorm normalises by it.
        local: Number of values a channel from which each process measured them.
    """
    assert norm.running_mean is not None and norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked += 1
    n = world() * local
    if norm.momentum is None:  # then they are the average over all batches
        momentum = 1 / float(norm.num_batches_tracked)
    else:
        momentum = norm.momentum
    norm.running_mean.lerp_(mean, momentum)
    norm.running_var.lerp_(var * (n / max(n - 1, 1)), momentum)
