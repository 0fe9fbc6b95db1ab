"""Where something is computed, in which precision, and by how many processes.

- `devices`: which device, which precision, and the contexts of mixed precision.
- `distributed`: processes that train as one, started by torchrun or srun.
- `gradients`: how they share their gradients.
- `small_maps`: convolutions that bfloat16 gets wrong on a CPU.
"""

from .devices import (
    PRECISIONS,
    autocast,
    channels_last,
    cpu_has_bfloat16,
    environment,
    full_precision,
    resolve_device,
    resolve_precision,
)

__all__ = [
    "PRECISIONS",
    "autocast",
    "channels_last",
    "cpu_has_bfloat16",
    "environment",
    "full_precision",
    "resolve_device",
    "resolve_precision",
]
