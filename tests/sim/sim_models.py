"""Blocks and models with SIM that several tests use."""

import torch
from torch import nn

from simlab.sim import (
    attach_sim,
    compute_loss_sim,
    forward_with_sim_cache,
    init_proj,
)

VERSIONS = ("v0", "v1", "v2")


def decorated(make_f, dim_in, dim_out=None, **options):
    """A decorated block around f; the dims may be ints or attributes' names."""

    class Block(nn.Module):
        @init_proj(dim_in, dim_out, **options)
        def __init__(self):
            super().__init__()
            self.c_in, self.c_out = 6, 9
            self.f = make_f()

        @forward_with_sim_cache()
        def forward(self, x):
            return self.f(x)

    return Block()


def step(model, x, loss):
    y = model(x)
    (y.square().mean() + loss()).backward()
    return {name: p.grad for name, p in model.named_parameters()}


class Block(nn.Module):
    @init_proj(input_dim_name="in_channels", output_dim_name="out_channels")
    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.f = nn.Conv2d(in_channels, out_channels, 3, 1, 1)
        self.in_channels = in_channels
        self.out_channels = out_channels

    @forward_with_sim_cache()
    def forward(self, x):
        return self.f(x)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(*[Block(3, 3) for _ in range(3)])

    def forward(self, x):
        return self.backbone(x)


def trained(model, x, check=True):
    """One step; every SIM parameter must get a finite gradient, as DDP needs."""
    model.train()
    y = model(x)
    loss = compute_loss_sim(model, check=check)
    (y.float().square().mean() + loss).backward()
    sim_grads = [p.grad for n, p in model.named_parameters() if "proj" in n or "predictor" in n]
    assert sim_grads and all(g is not None and g.isfinite().all() for g in sim_grads)
    return loss


def small(**options):
    torch.manual_seed(0)
    return nn.Sequential(
        *[decorated(lambda: nn.Conv2d(6, 6, 3, 1, 1), 6, **options) for _ in range(2)]
    )


def two_steps(model, x, seed=5):
    torch.manual_seed(seed)
    values = []
    for _ in range(2):
        y = model(x)
        loss = y.square().mean() + compute_loss_sim(model)
        model.zero_grad()
        loss.backward()
        values.append(loss.detach())
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
    return torch.stack(values)


def attached():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1))
    attach_sim(model, nn.Conv2d)
    return model
