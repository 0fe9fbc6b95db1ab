"""SIM (Self Identity Mapping): rebuild a block's input from its output, so it discards less.

A regulariser by Cai et al., "Self Identity Mapping", arXiv 2509.18165 (here rhoSIM, the sampled
variant). In training mode n positions ("tokens") of a block y = f(x) are sampled, both sides are
projected, and

    beta * L(predictor(proj_y(pre_proj(y))), stop_gradient(proj_x(x)))

waits until it is taken: loss = task_loss + compute_loss_sim(model). A block that you write gets SIM
by two decorators, `init_proj` and `forward_with_sim_cache`; a finished model by `attach_sim`.

To read in this order:

    options.py    SimOptions: every option, its default and its source
    sampling.py   which positions are compared: v0, v1, v2
    loss.py       how they are compared: cos, kl, smooth_l1, mse, norm_mse
    blocks.py     the projections, the loss of one forward pass, the decorators
    attach.py     attach_sim, detach_sim
    pending.py    where losses wait
    tracker.py    compute_loss_sim, LossSimTracker
    fast.py       three steps again, in less time; to be skipped

Where the published code (SIM-pytorch) gives a number this gives the same one, for equal weights and
random state. Where it fails or gives NaN:

- Layouts: [B, C, H, W], [B, N, C], and [B, C] as a 1 x 1 map. x is the first floating tensor among
  the inputs, y among the outputs. A block that changes x in place is compared with the changed x.
- Resolution: x is averaged onto y's grid before the positions are paired.
- Few positions: where the published count is 0 (or 1, which norm_mse cannot standardise) two are
  taken; on a map of one position the batch takes the tokens' place, and a batch of one raises for
  norm_mse. On small maps a larger token_sampling_ratio does more.
- Ratio 0 is SIM off: no parameters, no random draws, no loss. A count above N takes all N.
- Several passes before the loss is taken (two views): a block's loss is their mean. A pass counts
  until it is taken or a backward pass has gone through it; one under no_grad counts only where none
  with a graph waits. Activation checkpointing needs use_reentrant=False.
- A NaN stays in the sum; `check=True` and `LossSimTracker.report` name the block.

The package needs torch, the standard library and `layers` beside it, and nothing else.
"""

from .attach import SIM, attach_sim, detach_sim
from .blocks import forward_with_sim_cache, init_proj
from .loss import compute_sim_loss
from .options import LOSS_TYPES, SAMPLING_TYPES, SimOptions
from .tracker import LossSimTracker, compute_loss_sim

__all__ = [
    "LOSS_TYPES",
    "SAMPLING_TYPES",
    "SIM",
    "LossSimTracker",
    "SimOptions",
    "attach_sim",
    "compute_loss_sim",
    "compute_sim_loss",
    "detach_sim",
    "forward_with_sim_cache",
    "init_proj",
]
