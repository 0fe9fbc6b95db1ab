"""Which device computes, and in which precision."""

import platform
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import nn

PRECISIONS = ("float32", "bfloat16", "float16")


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device of that name; "auto" takes a GPU where there is one.

    Raises:
        ValueError: This machine has no such device.
    """
    if str(device) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)  # a device may have a name here and still not exist
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device={str(device)!r} can't be used here: {reason}") from error
    return resolved


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return the precision to train in; "auto" is what the device is fast at.

    bfloat16 where the hardware multiplies in it (emulated, it is slower than float32), float16 on
    older GPUs, else float32.

    Raises:
        ValueError: The precision is none of those.
    """
    if precision in PRECISIONS:
        return precision
    if precision != "auto":
        raise ValueError(f"precision={precision!r}: expected 'auto' or one of {PRECISIONS}")
    if device.type == "cuda":
        return _fast_precision_of_gpu(device)
    if device.type == "cpu" and cpu_has_bfloat16():
        return "bfloat16"
    return "float32"


def _fast_precision_of_gpu(device: torch.device) -> str:
    major, _ = torch.cuda.get_device_capability(device)
    if major >= 8:  # from Ampere on
        return "bfloat16"
    if major == 7:  # Volta and Turing have tensor cores for float16 alone
        return "float16"
    return "float32"


def cpu_has_bfloat16() -> bool:
    """Tell whether the processor itself multiplies in bfloat16 (AVX512-BF16, AMX, Arm BF16)."""
    info = Path("/proc/cpuinfo")  # of Linux alone
    flags = info.read_text().split() if info.exists() else []
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which the forward pass runs."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which float32 stays float32, whether or not autocast is on around it."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def channels_last(module: nn.Module, device: torch.device) -> nn.Module:
    """Move a module to a device, its weights channels last: convolutions are faster so."""
    return module.to(device).to(memory_format=torch.channels_last)


def environment(device: torch.device) -> dict[str, str | int]:
    """Describe what a result may depend on beside its configuration; stored with every run."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.system(),
        "device": str(device),
        "device_name": name,
        "threads": torch.get_num_threads(),
    }
