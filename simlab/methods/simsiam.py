"""SimSiam (Chen & He, arXiv 2011.10566): heads and loss, apart from the encoder.

    encoder f    image x [N, C, H, W] -> features h [N, D]
    projector    h -> z [N, d]
    predictor    z -> p [N, d]
    L = D(p1, stopgrad(z2)) / 2 + D(p2, stopgrad(z1)) / 2                        (equation 4)

Nothing but the stop-gradient and the predictor keeps every image from being mapped to one point;
each has a switch, so that the collapse can be watched (notebook 03).
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from simlab.compute.devices import full_precision


class View(NamedTuple):
    """What the network makes of one view: features [N, D], projection and prediction [N, d]."""

    features: Tensor
    z: Tensor
    p: Tensor


class SimSiam(nn.Module):
    """An encoder with SimSiam's two heads.

    Args:
        encoder: [N, C, H, W] -> [N, feature_dim].
        proj_layers: 2 for small images, 3 otherwise (paper, appendix D and section 3).
        proj_dim: hidden and output width d of the projector.
        pred_dim: the predictor's bottleneck; a quarter of d in the paper.
        predictor: "mlp", "none" (p = z) or "fixed" (random, never trained): section 4.2.
        head_bn: BatchNorm in "all" layers of the heads, in the "hidden" ones only, or "none"
            (section 4.4).
    """

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        proj_layers: int = 2,
        proj_dim: int = 2048,
        pred_dim: int = 512,
        predictor: str = "mlp",
        head_bn: str = "all",
    ):
        super().__init__()
        _check("predictor", predictor, ("mlp", "none", "fixed"))
        self.encoder = encoder
        self.projector = projector(feature_dim, proj_layers, proj_dim, head_bn)
        self.predictor = nn.Identity()
        if predictor != "none":
            self.predictor = nn.Sequential(
                *_hidden(proj_dim, pred_dim, head_bn != "none"), nn.Linear(pred_dim, proj_dim)
            )
        self.predictor.requires_grad_(predictor != "fixed")

    def forward(self, x: Tensor) -> View:
        h = self.encoder(x)  # [N, C, H, W] -> [N, D]
        z = self.projector(h)  # [N, D] -> [N, d]
        return View(h, z, self.predictor(z))


class SimSiamLoss(nn.Module):
    """Equation 4, of two `View`s; between -1 and 1, and -1 when both views agree.

    The cosine is taken in float32 whatever the network computes in: in half precision small norms
    vanish and give NaN.
    """

    def __init__(self, stop_gradient: bool = True):
        super().__init__()
        self.stop_gradient = stop_gradient

    def forward(self, view1: View, view2: View) -> Tensor:
        z1, z2 = view1.z, view2.z
        if self.stop_gradient:
            z1, z2 = z1.detach(), z2.detach()
        return (negative_cosine(view1.p, z2) + negative_cosine(view2.p, z1)) / 2


def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    """D(p, z) = - <p / ||p||, z / ||z||>, the mean over the batch of [N, d]: equation 1."""
    with full_precision(p.device):
        return -F.cosine_similarity(p.float(), z.float(), dim=-1).mean()


def projector(feature_dim: int, layers: int, dim: int, head_bn: str) -> nn.Sequential:
    """The head that SimSiam and SimCLR share: [N, feature_dim] -> [N, dim]."""
    _check("head_bn", head_bn, ("all", "hidden", "none"))
    if layers < 1:
        raise ValueError(f"proj_layers={layers}: expected at least 1")
    widths = [feature_dim] + [dim] * (layers - 1)
    parts = [m for width in widths[:-1] for m in _hidden(width, dim, head_bn != "none")]
    # the output's BatchNorm has no scale and shift: they would be lost in the normalised z
    parts.append(nn.Linear(widths[-1], dim, bias=head_bn != "all"))
    if head_bn == "all":
        parts.append(nn.BatchNorm1d(dim, affine=False))
    return nn.Sequential(*parts)


def _hidden(d_in: int, d_out: int, batch_norm: bool) -> list[nn.Module]:
    norm = [nn.BatchNorm1d(d_out)] if batch_norm else []
    return [nn.Linear(d_in, d_out, bias=not batch_norm), *norm, nn.ReLU()]


def _check(name: str, value: str, known: tuple[str, ...]):
    if value not in known:
        raise ValueError(f"{name}={value!r}: expected one of {', '.join(known)}")
