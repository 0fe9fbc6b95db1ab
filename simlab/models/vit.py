"""A small vision transformer (Dosovitskiy et al., arXiv 2010.11929), and what masked methods need.

    image [N, C, S, S] -> patches [N, L, P P C] -> tokens [N, L, D] -> blocks -> mean [N, D]

Positions are sines and cosines of a patch's row and column, so that views of any size fit. Tokens
can be dropped before the blocks (`keep`), which is what makes masked autoencoders cheap.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH = 4  # side in pixels
WIDTH = 96
DEPTH = 4
HEADS = 3
LOWEST_FREQUENCY = 1e-4  # of the positions; 10000 ** -1 as in Vaswani et al., 1706.03762


class Attention(nn.Module):
    """Self-attention of several heads: [N, L, D] -> [N, L, D]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens x [N, L, D]."""
        q, k, v = self._heads(x)
        mixed = F.scaled_dot_product_attention(q, k, v)  # [N, heads, L, D / heads]
        joined: Tensor = self.out(mixed.transpose(1, 2).flatten(2))  # [N, L, D]
        return joined

    def weights(self, x: Tensor) -> Tensor:
        """How much each token looks at each other one, for figures: [N, heads, L, L]."""
        q, k, _ = self._heads(x)
        return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n, length, width = x.shape
        qkv = self.qkv(x).view(n, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # [N, heads, L, D / heads] each
        return q, k, v


class Block(nn.Module):
    """A transformer's layer: attention, then an MLP on each token, both added to their input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens [N, L, D] to tokens [N, L, D]."""
        x = x + self.attention(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x


class TinyViT(nn.Module):
    """A transformer small enough for two cores; [N, C, H, W] -> [N, D].

    Args:
        channels: C.
        patch: Side P of the patches in pixels.
        width: D.
        depth: Number of blocks.
        heads: Attention heads of a block.
    """

    def __init__(
        self,
        channels: int = 1,
        patch: int = PATCH,
        width: int = WIDTH,
        depth: int = DEPTH,
        heads: int = HEADS,
    ) -> None:
        super().__init__()
        self.patch = patch
        self.feature_dim = width
        self.embedding = nn.Conv2d(channels, width, patch, stride=patch)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [N, C, H, W] to features [N, D], the mean of their tokens."""
        return self.tokens(x).mean(1)

    def tokens(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Map images [N, C, H, W] to tokens [N, L, D], or only those at `keep` to [N, k, D].

        Args:
            x: The images; what is left over beside whole patches is not seen.
            keep: int64 [N, k], which patches enter the blocks, counted row by row.
        """
        tokens = self.embed_patches(x)
        if keep is not None:
            tokens = take_tokens(tokens, keep)
        encoded: Tensor = self.norm(self.blocks(tokens))
        return encoded

    def embed_patches(self, x: Tensor) -> Tensor:
        """Map images [N, C, H, W] to what enters the blocks: patches and positions, [N, L, D]."""
        maps = self.embedding(x)  # [N, D, H / P, W / P]
        rows, columns = maps.shape[2:]
        positions = grid_positions(rows, columns, self.feature_dim).to(maps)  # [L, D]
        tokens: Tensor = maps.flatten(2).mT + positions
        return tokens

    @torch.no_grad()
    def attention_maps(self, x: Tensor) -> Tensor:
        """How much the last block looks at each patch of x [N, C, H, W]: [N, heads, rows, columns].

        The mean over all tokens that look, since there is no class token: the feature is the mean
        of the tokens. A map sums to 1.
        """
        tokens = self.embed_patches(x)
        tokens = self.blocks[:-1](tokens)
        last = self.blocks[-1]
        assert isinstance(last, Block)
        weights = last.attention.weights(last.norm1(tokens))  # [N, heads, L, L]
        seen = weights.mean(2)  # [N, heads, L]
        rows = x.shape[2] // self.patch
        return seen.view(*seen.shape[:2], rows, -1)


def grid_positions(rows: int, columns: int, width: int) -> Tensor:
    """Sines and cosines of each patch's row and column: float32 [rows * columns, width].

    Half of the numbers is for the row, half for the column; frequencies from 1 down to 1e-4.
    """
    quarter = width // 4
    steps = torch.arange(quarter) / max(quarter - 1, 1)
    frequencies = LOWEST_FREQUENCY**steps  # [D / 4]
    row = torch.arange(rows).repeat_interleave(columns)  # [L]
    column = torch.arange(columns).repeat(rows)
    waves = []
    for place in (row, column):
        angles = place[:, None] * frequencies  # [L, D / 4]
        waves += [angles.sin(), angles.cos()]
    positions = torch.cat(waves, dim=1)
    return F.pad(positions, (0, width - positions.shape[1]))  # where D is no multiple of 4


def take_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """Take of each image's tokens [N, L, D] those at index [N, k]: [N, k, D]."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[2]))
