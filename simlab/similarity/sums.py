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
        sigma: widths [T] of the rbf kernels in float64, fixed by the first batch.
        centred: {kernel: centred Grams [T, n, n] of the last batch}, if permutations need them.
        samples: their number so far.
        batches: their number so far.
        batch_sizes: the different ones.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.groups: dict[str, list[np.ndarray]] = {k: [] for k in plan.kernels.values()}
        self.energy = np.zeros(())
        self.sigma: np.ndarray | None = None
        self.centred: dict[str, Tensor] = {}
        self.samples = 0
        self.batches = 0
        self.batch_sizes: set[int] = set()

    def add(self, grams: Tensor, images: Tensor, units: np.ndarray) -> None:
        """Add one batch.

        Args:
            grams: of the layers' features [T, n, n], divided by the layers' units.
            images: of the first stream [n, ...], for the confounder.
            units: [T].
        """
        plan = self.plan
        traces = grams.diagonal(dim1=1, dim2=2).sum(1).cpu().double().numpy()
        self.energy = self.energy + traces * units**2
        if plan.regresses_confounder:
            confounder, unit = confounder_gram(plan.confounder, images, self.samples)
            grams = torch.cat([grams, confounder[None].to(grams.device)])
            units = np.append(units, unit)
        if "rbf" in self.groups and self.sigma is None:
            widths = plan.option("rbf_cka", "scale", 1.0) * gram.median_distance(grams)
            self.sigma = widths.cpu().double().numpy() * units
        for kernel, groups in self.groups.items():
            centred = self._centred(kernel, grams, units)
            products = gram.inner_products(centred)
            if kernel != "rbf" and plan.estimator != "published":  # which have no unit
                products *= units[:, None] ** 2 * units**2
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

    def _centred(self, kernel: str, grams: Tensor, units: np.ndarray) -> Tensor:
        sigma = None
        if self.sigma is not None:
            sigma = torch.from_numpy(self.sigma / units).to(grams)
        centred = gram.centred_kernel(
            kernel,
            grams,
            self.plan.debiased,
            sigma=sigma,
            confounder=grams[-1],
            clamp=self.plan.option("deconfounded_cka", "clamp", False),
        )
        if self.plan.estimator == "published":
            # Of norm 1: the sum over batches is then the sum of the batches' own ratios.
            norm = torch.linalg.matrix_norm(centred)[:, None, None]
            centred /= norm.clamp(min=1e-30)
        return centred


def confounder_gram(
    confounder: Confounder | None, images: Tensor, start: int
) -> tuple[Tensor, float]:
    """Compute the Gram [n, n] of what is regressed out of the n samples that begin at `start`.

    Returns:
        The Gram and its unit, see `gram.centred_gram`.

    Raises:
        ValueError: the confounder has another number of rows, or is constant or NaN.
    """
    n = len(images)
    if confounder is None:
        if not images.is_floating_point():
            raise ValueError(
                f"confounder: the first inputs are of {images.dtype}, tokens perhaps, and no "
                "images to be regressed out; give confounder="
            )
        z = images
    elif isinstance(confounder, Tensor):
        z = confounder[start : start + n]
    else:
        z = confounder(images)
    z = z.detach()
    if len(z) != n:
        raise ValueError(f"confounder: {len(z)} rows for the {n} samples from {start} on")
    matrix, unit = gram.centred_gram(z if z.is_floating_point() else z.float())
    if not matrix.trace() > 0:
        raise ValueError(f"the confounder is constant or NaN in the {n} samples from {start} on")
    return matrix, unit


class GramStack:
    """The Grams of a batch's layers in one tensor [T, n, n], which the next batch fills anew.

    So nothing that outlives a model's activations is allocated among them in each batch.
    """

    def __init__(self) -> None:
        self._stack: Tensor | None = None

    def gram_of(self, row: int, features: Tensor) -> tuple[Tensor, float]:
        """Compute the Gram of a layer's features [n, ...], in its place where it fits there.

        Returns:
            The Gram [n, n] and its unit, see `gram.centred_gram`.
        """
        place = None
        stack = self._stack
        if stack is not None and row < len(stack) and len(features) == stack.shape[1]:
            place = stack[row] if features.device == stack.device else None
        return gram.centred_gram(features, out=place)

    def collected(
        self, grams: list[tuple[Tensor, float] | None], n: int
    ) -> tuple[Tensor, np.ndarray]:
        """Put a batch's Grams together.

        Args:
            grams: what `gram_of` gave, by row; None for a layer without output.
            n: number of samples.

        Returns:
            The Grams [T, n, n], NaN for a layer without output, valid until the next batch; and
            their units [T].
        """
        matrices = [None if layer is None else layer[0] for layer in grams]
        units = np.array([1.0 if layer is None else layer[1] for layer in grams])
        stack = self._stack
        if stack is None or stack.shape != (len(grams), n, n):
            self._stack = stacked(matrices, n)
            return self._stack, units
        for place, matrix in zip(stack, matrices, strict=True):
            if matrix is None:
                place.fill_(torch.nan)
            elif not matrix.is_set_to(place):  # a layer on another device
                place.copy_(matrix)
        return stack, units


def stacked(matrices: list[Tensor | None], n: int) -> Tensor:
    """Stack matrices [n, n] to [T, n, n] on one device; NaN for a layer without output.

    Models may live on several devices: the first layer's is taken.
    """
    home = next((matrix.device for matrix in matrices if matrix is not None), None)
    missing = torch.full((n, n), torch.nan, device=home)
    return torch.stack([missing if matrix is None else matrix.to(home) for matrix in matrices])
