"""Features that the tests of the measures share, in float64."""

import torch


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def related(n=60, p=12, q=9, noise=1.0):
    x = normal(n, p)
    return x, x @ normal(p, q, seed=1) + noise * normal(n, q, seed=2)


def rotation(p, seed=3):
    return torch.linalg.qr(normal(p, p, seed=seed))[0]


CONFOUNDER = normal(60, 5, seed=9)
