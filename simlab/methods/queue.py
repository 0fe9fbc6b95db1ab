"""A queue of embeddings of earlier batches: a ring of rows that is stored with the weights."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Queue(nn.Module):
    """The last rows that were pushed, in a ring.

    Args:
        size: Number K of rows.
        dim: Width d of a row.

    Attributes:
        rows: float32 [K, d]; random unit vectors at first.
        pointer: Where the next row goes.
        pushed: How many rows were ever pushed.
    """

    rows: Tensor
    pointer: Tensor
    pushed: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("rows", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, rows: Tensor) -> None:
        """Put rows [N, d] in the place of the oldest; of more than K rows the last K."""
        size = len(self.rows)
        rows = rows[-size:]
        positions = (self.pointer + torch.arange(len(rows), device=rows.device)) % size
        self.rows[positions] = rows.to(self.rows)
        self.pointer.copy_((self.pointer + len(rows)) % size)
        self.pushed += len(rows)

    @property
    def is_full(self) -> bool:
        """Whether every row was pushed, and none is random any more."""
        return int(self.pushed) >= len(self.rows)
