"""sim."""

from .sim import (
    LOSS_TYPES,
    SAMPLING_TYPES,
    SIM,
    LossSimTracker,
    attach_sim,
    compute_loss_sim,
    compute_sim_loss,
    detach_sim,
    forward_with_sim_cache,
    init_proj,
)
