"""The published SIM once more, written plainly from its description and apart from the package."""

import torch
import torch.nn.functional as F
from torch import nn


def reference_loss(zy, zx, kind):
    if kind == "cos":
        return (2 - 2 * F.cosine_similarity(zy, zx, dim=-1)).mean()
    if kind == "kl":
        return F.kl_div(F.log_softmax(zy, -1), F.softmax(zx, -1), reduction="batchmean")
    if kind == "smooth_l1":
        return F.smooth_l1_loss(zy, zx)
    if kind == "mse":
        return F.mse_loss(zy, zx)
    a, b = ((z - z.mean(1, keepdim=True)) / (z.std(1, keepdim=True) + 1e-6) for z in (zy, zx))
    return torch.norm(a - b, dim=-1).mean()


class Reference(nn.Module):
    """f with published SIM: rearrange, cut channels, sample tokens, project, compare."""

    def __init__(
        self, make_f, c_in, c_out, *, ratio=0.2, channels=1.0, version="v0", loss="norm_mse"
    ):
        super().__init__()
        self.f = make_f()
        k_in, k_out = max(int(channels * c_in), 1), max(int(channels * c_out), 1)
        self.pre_proj = (
            nn.Identity() if k_in == k_out else nn.Sequential(nn.Linear(k_out, k_in, bias=False))
        )
        self.proj_x = nn.Sequential(
            nn.Linear(k_in, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 128)
        )
        self.predictor = nn.Sequential(nn.Linear(128, 128))
        self.options = ratio, channels, version, loss

    def forward(self, x):
        ratio, channels, version, loss = self.options
        out = self.f(x)
        x, y = (
            t.permute(0, 2, 3, 1).flatten(1, 2) if t.dim() == 4 else t for t in (x.detach(), out)
        )
        k = min(max(int(channels * x.shape[-1]), 1), x.shape[-1])
        if k < x.shape[-1]:
            x, y = x[..., :k], y[..., :k]
        b, total, _ = x.shape
        n = min(int(ratio * total) if ratio <= 1 else int(ratio), total)
        if version == "v0":
            ids = torch.randperm(total)[:n].expand(b, n)
        else:
            ids = torch.argsort(torch.rand(b, total), dim=1)
            if version == "v2":
                ids = ids[:, : 3 * n]
                best = torch.topk(x.mean(-1).gather(1, ids), n, dim=1).indices
                ids = ids.gather(1, best)
            ids = ids[:, :n]
        rows = torch.arange(b)[:, None]
        x, y = x[rows, ids], y[rows, ids]
        with torch.no_grad():
            zx = self.proj_x(x)
        zy = self.predictor(self.proj_x(self.pre_proj(y)))
        self.loss_sim = 5e-3 * reference_loss(zy, zx.detach(), loss)
        return out
