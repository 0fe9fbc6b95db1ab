"""The CKA family from one pass: sums of inner products over batches."""

import numpy as np
import torch
from torch import Tensor

from . import gram
from .plan import Confounder, Plan

MAX_GROUPS = 64  # of batches, whose sums are kept apart for resampling


class KernelSums:
    """Adds up the inner products of all layers' centred Grams, batch by batch.

    Attributes:
        groups: {kernel: sums [T, T] of some of the batches}; with a confounder [T+1, T+1], where
            it is the last row.
        energy: summed squared norms of the layers' centred features [T]; 0 for constant ones.
        sigma: widths [T] of the rbf kernels, fixed by the first batch.
        centred: {kernel: centred Grams [T, n, n] of the last batch}, if permutations need them.
        samples: their number so far.
        batches: their number so far.
        batch_sizes: the different ones.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.groups: dict[str, list[np.ndarray]] = {k: [] for k in plan.kernels.values()}
        self.energy = torch.zeros(())
        self.sigma: Tensor | None = None
        self.centred: dict[str, Tensor] = {}
        self.samples = 0
        self.batches = 0
        self.batch_sizes: set[int] = set()

    def add(self, grams: Tensor, images: Tensor) -> None:
        """Add one batch.

        Args:
            grams: of the layers' features [T, n, n].
            images: of the first stream [n, ...], for the confounder.
        """
        plan = self.plan
        self.energy = self.energy + grams.diagonal(dim1=1, dim2=2).sum(1).cpu()
        if plan.regresses_confounder:
            confounder = confounder_gram(plan.confounder, images, self.samples)
            grams = torch.cat([grams, confounder[None].to(grams.device)])
        if "rbf" in self.groups and self.sigma is None:
            self.sigma = plan.option("rbf_cka", "scale", 1.0) * gram.median_distance(grams)
        for kernel, groups in self.groups.items():
            centred = self._centred(kernel, grams)
            products = gram.inner_products(centred)
            group = self.batches % MAX_GROUPS
            if group == len(groups):
                groups.append(products)
            else:
                groups[group] += products
            if plan.null:
                self.centred[kernel] = centred
        self.samples += len(images)
        self.batches += 1
        self.batch_sizes.add(len(images))

    def _centred(self, kernel: str, grams: Tensor) -> Tensor:
        centred = gram.centred_kernel(
            kernel,
            grams,
            self.plan.debiased,
            sigma=self.sigma,
            confounder=grams[-1],
            clamp=self.plan.option("deconfounded_cka", "clamp", False),
        )
        if self.plan.estimator == "published":
            # Of norm 1: the sum over batches is then the sum of the batches' own ratios.
            norm = torch.linalg.matrix_norm(centred)[:, None, None]
            centred /= norm.clamp(min=1e-30)
        return centred


def confounder_gram(confounder: Confounder | None, images: Tensor, start: int) -> Tensor:
    """Compute the Gram [n, n] of what is regressed out of the n samples that begin at `start`.

    Raises:
        ValueError: the confounder has another number of rows, or is constant or NaN.
    """
    n = len(images)
    if confounder is None:
        z = images
    elif isinstance(confounder, Tensor):
        z = confounder[start : start + n]
    else:
        z = confounder(images)
    if len(z) != n:
        raise ValueError(f"confounder: {len(z)} rows for the {n} samples from {start} on")
    matrix = gram.centred_gram(z.float())
    if not matrix.trace() > 0:
        raise ValueError(f"the confounder is constant or NaN in the {n} samples from {start} on")
    return matrix


def stacked(matrices: list[Tensor | None], n: int) -> Tensor:
    """Stack matrices [n, n] to [T, n, n] on one device; NaN for a layer without output.

    Models may live on several devices: the first layer's is taken.
    """
    home = next((matrix.device for matrix in matrices if matrix is not None), None)
    missing = torch.full((n, n), torch.nan, device=home)
    return torch.stack([missing if matrix is None else matrix.to(home) for matrix in matrices])
