"""Small models and data that the tests of `compare` share."""

import numpy as np
import torch
from torch import nn

torch.manual_seed(0)
X = torch.randn(100, 3, 8, 8)


def small(seed=0, width=6):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 2, 3), nn.Flatten(), nn.Linear(32, 7)
    ).eval()


def features(model, x, upto):
    with torch.no_grad():
        return model[: upto + 1](x).flatten(1).double()


A, B = small(), small(1, 9)
LAYERS = (0, 2, 4)


def truth(measure, **options):
    return np.array(
        [[measure(features(A, X, i), features(B, X, j), **options) for j in LAYERS] for i in LAYERS]
    )


class Halves(nn.Module):
    def __init__(self, half):
        super().__init__()
        self.half = half

    def forward(self, x):
        return x.chunk(2, 1)[self.half]
