"""compute."""

from .devices import (
    PRECISIONS,
    autocast,
    cpu_has_bfloat16,
    environment,
    full_precision,
    resolve_device,
    resolve_precision,
)
from .distributed import (
    PATIENCE,
    average,
    average_gradients,
    first_before_others,
    from_first,
    gather,
    gather_rows,
    rank,
    restarted,
    rows,
    shard,
    share,
    start,
    with_global_batch_norm,
    world,
)
