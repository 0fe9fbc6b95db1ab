"""SIM's sampling: which positions ("tokens") of a block's input x and output y are compared.

`draw_positions` is the published sampling in its versions v0, v1 and v2. Around it stand what the
published code lacks: `pair_positions` brings x onto y's grid, so that blocks with a stride
work, and `sample_tokens` takes care that there are enough tokens to compare.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .fast import FEW_TOKENS, take_tokens


def draw_positions(x: Tensor, n: int, sampling_type: str) -> Tensor:
    """Draw n of the N positions at random.

    Args:
        x: The block's input [B, C, N]; v2 looks at its values.
        n: Number of positions, at most N.
        sampling_type: "v0" draws once for the entire batch; "v1" draws for each sample; "v2" draws
            3n candidates for each sample and keeps the n where x's mean over channels is highest.

    Returns:
        Indices of positions, [1, n] for v0, otherwise [B, n].
    """
    batch, _, total = x.shape
    if sampling_type == "v0":
        return torch.randperm(total, device=x.device)[None, :n]
    # sorting uniform numbers gives every sample a permutation of its own
    order = torch.argsort(torch.rand(batch, total, device=x.device), dim=1)  # [B, N]
    if sampling_type == "v1":
        return order[:, :n]
    candidates = order[:, : 3 * n]
    scores = x.mean(dim=1).gather(1, candidates)  # [B, 3n]
    highest = scores.topk(n, dim=1).indices
    return candidates.gather(1, highest)


def count_tokens(ratio: float, total: int) -> int:
    """Number of tokens among `total` positions: a share up to 1, above that a count."""
    requested = ratio * total if ratio <= 1 else ratio
    return min(int(requested), total)


def count_channels(ratio: float, total: int) -> int:
    """Number of channels among `total`: a share of them, at least one."""
    return max(int(ratio * total), 1)


def sample_tokens(
    x: Tensor, y: Tensor, ratio: float, sampling_type: str, at_least: int, label: str
) -> tuple[Tensor, Tensor]:
    """Sample the same n tokens of x and of y.

    Where the published count is below `at_least` two tokens are taken. On a map of one position the
    samples of the batch then take the tokens' place, to be sampled in turn: [B, K, 1] is read as
    [1, K, B].

    Args:
        x: The block's input [B, K_in, N].
        y: The block's output [B, K_out, N].
        ratio: `token_sampling_ratio`.
        sampling_type: `token_sampling_type`.
        at_least: Number of tokens without which the loss is not defined, 1 or 2.
        label: Name of the block, for error messages.

    Returns:
        Tokens of x [B, n, K_in] and of y [B, n, K_out], contiguous.

    Raises:
        ValueError: If there are fewer than `at_least` positions in the entire batch.
    """
    n = count_tokens(ratio, x.shape[2])
    if n < at_least:
        if x.shape[2] == 1:
            x = x.permute(2, 1, 0)  # [B, K_in, 1] -> [1, K_in, B]
            y = y.permute(2, 1, 0)
            n = count_tokens(ratio, x.shape[2])
        n = min(max(n, 2), x.shape[2])
    if n < at_least:
        raise ValueError(
            f"{label}: one position and a batch of one, but norm_mse standardises over at least "
            "two tokens: use larger batches (drop_last=True), larger maps or another loss_type"
        )
    positions = draw_positions(x, n, sampling_type)
    if n >= FEW_TOKENS:
        # the order matters to no loss, but reading memory in order is three times as fast
        positions = positions.sort(dim=1).values
    positions = positions.expand(len(x), n)
    return take_tokens(x, positions), take_tokens(y, positions)


def pair_positions(
    x: Tensor, y: Tensor, dims: tuple[int, int], channel_ratio: float, label: str
) -> tuple[Tensor, Tensor]:
    """Select the channels and bring x onto y's grid.

    Where the grids differ x is resized to y's by adaptive average pooling (1-D along the sequence
    for tokens, 2-D for maps, 3-D for volumes; onto a finer grid values repeat).

    Args:
        x: The block's input [B, C, *positions]: tokens [B, C, N], a map [B, C, H, W], a volume
            [B, C, D, H, W], or a vector [B, C], which counts as a map of one position.
        y: Its output, likewise.
        dims: Number of channels to take of x and of y, (K_in, K_out).
        channel_ratio: `channel_sampling_ratio`, from which `dims` were computed.
        label: Name of the block, for error messages.

    Returns:
        x as [B, K_in, N] and y as [B, K_out, N]; y is a view.

    Raises:
        ValueError: If the layouts cannot be paired or the channels are not those of `dims`.
    """
    x = x[..., None, None] if x.dim() == 2 else x  # [B, C] -> [B, C, 1, 1]
    y = y[..., None, None] if y.dim() == 2 else y
    label = f"{label}: x {list(x.shape)}, y {list(y.shape)}"
    if not (3 <= x.dim() <= 5 and 3 <= y.dim() <= 5 and len(x) == len(y)):
        raise ValueError(f"{label}: expected [B, C] or [B, C, one to three axes], one B")
    _check_channels(x.shape[1], y.shape[1], dims, channel_ratio, label)
    x = _first_channels(x, dims[0])
    y = _first_channels(y, dims[1])
    if x.dim() == y.dim() and x.shape[2:] != y.shape[2:]:
        x = _resize(x, y)
    x = x.flatten(2)  # [B, K, *positions] -> [B, K, N]
    y = y.flatten(2)
    if x.shape[2] != y.shape[2]:
        raise ValueError(
            f"{label}: a map and tokens can be paired only if they have as many positions"
        )
    return x, y


def _check_channels(
    channels_x: int, channels_y: int, dims: tuple[int, int], ratio: float, label: str
) -> None:
    k_in, k_out = dims
    x_is_right = count_channels(ratio, channels_x) == k_in
    # y may have channels which are not sampled, but not where all are to be sampled
    y_is_right = channels_y == k_out or (channels_y > k_out and ratio != 1)
    if not (x_is_right and y_is_right):
        raise ValueError(
            f"{label}: {channels_x} and {channels_y} channels, but SIM was built to take {k_in} "
            f"and {k_out}: give the true dims (attach_sim: sample_input=)"
        )


def _first_channels(x: Tensor, k: int) -> Tensor:
    """The first k channels of [B, C, ...], a view."""
    # not where all are taken: the backward pass of narrow copies the entire map
    return x if x.shape[1] == k else x.narrow(1, 0, k)


def _resize(x: Tensor, y: Tensor) -> Tensor:
    """Average x [B, K, *positions] onto the grid of y."""
    if y.dim() == 5:
        return functional.adaptive_avg_pool3d(x, (y.shape[2], y.shape[3], y.shape[4]))
    if y.dim() == 4:
        return functional.adaptive_avg_pool2d(x, (y.shape[2], y.shape[3]))
    return functional.adaptive_avg_pool1d(x, y.shape[2])
