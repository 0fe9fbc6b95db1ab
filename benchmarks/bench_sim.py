"""What SIM costs in training: six blocks of two 3x3 convolutions, C = 64, 32 x 32 maps, ratio 0.2.

    python benchmarks/bench_sim.py [--threads 1 2] [--batch 16] [--repeats 15]

Four take turns in one process, a step each, and the median counts: no SIM; simlab's; the order of
operations of the published code (rearrange the map, then sample, ...), transcribed plainly below;
and SIM's matrix products alone, on the same network without SIM.

The FLOP floor is what the multiply-adds would cost if they ran as fast as those of the
convolutions: per sampled token K*256 + 256*128 + 128*128 for x (forward), and that plus 128*128
for y, forward and twice backward; the first convolution needs no gradient of its input. The line
"products alone" is what they do cost, with nothing sampled, biased, rectified or compared. simlab
has fewer of them: the last two matrices of y's path are multiplied with each other first.
CPU time is printed beside wall time: on a machine that others use it is the steadier one.
"""

import argparse
import copy
import statistics
import time

import torch
from torch import nn

from simlab.sim import attach_sim, compute_loss_sim

WIDTH, SIDE, BLOCKS, RATIO = 64, 32, 6, 0.2
TOKENS = int(RATIO * SIDE * SIDE)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Sequential(
            nn.Conv2d(WIDTH, WIDTH, 3, 1, 1), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 3, 1, 1)
        )

    def forward(self, x):
        return self.f(x)


class PublishedOrder(nn.Module):
    """A block with SIM as the published code orders it (v0, norm_mse)."""

    def __init__(self, block):
        super().__init__()
        self.block = block
        self.proj = nn.Sequential(
            nn.Linear(WIDTH, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 128)
        )
        self.predictor = nn.Linear(128, 128)

    def forward(self, x):
        y = self.block(x)
        a, b = (t.permute(0, 2, 3, 1).reshape(len(t), -1, WIDTH) for t in (x.detach(), y))
        ids = torch.randperm(a.shape[1])[:TOKENS]
        a, b = a[:, ids], b[:, ids]
        with torch.no_grad():
            zx = self.proj(a)
        zy = self.predictor(self.proj(b))
        zx, zy = ((z - z.mean(1, keepdim=True)) / (z.std(1, keepdim=True) + 1e-6) for z in (zx, zy))
        self.loss = 5e-3 * torch.norm(zx - zy, dim=-1).mean()
        return y


class ProductsAlone(nn.Module):
    """A block and, beside it, the matrix products that the floor counts."""

    def __init__(self, block, batch):
        super().__init__()
        self.block = block
        widths = (WIDTH, 256, 128, 128, 128)
        self.tokens = [torch.randn(batch * TOKENS, width) for width in widths]
        self.weights = [torch.randn(n, k) for k, n in zip(widths, widths[1:], strict=False)]

    @torch.no_grad()
    def multiply(self, layers, backward):
        for a, z, w in list(zip(self.tokens, self.tokens[1:], self.weights, strict=False))[:layers]:
            torch.mm(a, w.t())
            if backward:
                torch.mm(z, w)
                torch.mm(z.t(), a)

    def forward(self, x):
        y = self.block(x)
        self.multiply(3, backward=False)  # x
        self.multiply(4, backward=True)  # y
        return y


def floor() -> float:
    conv = WIDTH * WIDTH * 9 * SIDE * SIDE
    convs = conv * (2 * BLOCKS * 3 - 1)
    mlp = WIDTH * 256 + 256 * 128 + 128 * 128
    return BLOCKS * TOKENS * (mlp + 3 * (mlp + 128 * 128)) / convs


def networks(batch):
    plain = nn.Sequential(*[Block() for _ in range(BLOCKS)])
    ours = copy.deepcopy(plain)
    attach_sim(ours, Block, token_sampling_ratio=RATIO)
    published = nn.Sequential(*[PublishedOrder(copy.deepcopy(block)) for block in plain])
    products = nn.Sequential(*[ProductsAlone(copy.deepcopy(block), batch) for block in plain])
    return {
        "no SIM": (plain, lambda: 0.0),
        "simlab": (ours, lambda: compute_loss_sim(ours)),
        "published order": (published, lambda: sum(b.loss for b in published) / BLOCKS),
        "products alone": (products, lambda: 0.0),
    }


def step(model, extra, x):
    wall, cpu = time.perf_counter(), time.process_time()
    for p in model.parameters():
        p.grad = None
    (model(x).square().mean() + extra()).backward()
    return time.perf_counter() - wall, time.process_time() - cpu


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    torch.manual_seed(0)
    nets, x = networks(args.batch), torch.randn(args.batch, WIDTH, SIDE, SIDE)
    print(
        f"torch {torch.__version__}, batch {args.batch}, median of {args.repeats} steps; "
        f"FLOP floor {floor():.1%}"
    )
    print(
        f"{'threads':>7}  {'network':<16} {'wall s':>8} {'overhead':>9} {'over floor':>11}"
        f" {'CPU s':>8} {'overhead':>9} {'over floor':>11}"
    )
    for threads in args.threads:
        torch.set_num_threads(threads)
        times = {name: [] for name in nets}
        for repeat in range(args.repeats + 2):
            for name, (model, extra) in nets.items():
                spent = step(model, extra, x)
                if repeat >= 2:  # two to warm up
                    times[name].append(spent)
        medians = {
            n: [statistics.median(t) for t in zip(*v, strict=True)] for n, v in times.items()
        }
        for name, spent in medians.items():
            line = f"{threads:>7}  {name:<16}"
            for seconds, plain in zip(spent, medians["no SIM"], strict=True):
                extra = seconds / plain - 1
                points = f"{100 * (extra - floor()):+.1f}" if name != "no SIM" else ""
                line += f" {seconds:8.3f} {extra:9.1%} {points:>11}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
