"""Features that fill every dimension, and some that collapsed in known ways."""

import torch

N, D = 256, 64


def noise(n=N, d=D, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(d=D, seed=9):
    return torch.linalg.qr(noise(d, d, seed))[0]


def clusters(k, n=N, d=D, width=0.01):
    return noise(k, d, 1)[torch.arange(n) % k] + width * noise(n, d, 2)


def flat(r, n=N, d=D):
    """Isotropic in r dimensions, rotated over all d channels."""
    return noise(n, r) @ rotation(d)[:r]
