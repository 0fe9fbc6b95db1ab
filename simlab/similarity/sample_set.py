"""All samples as one set: every measure, and null distributions by permutation."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import gram
from .measures import refuse_unless_logits
from .passes import Passes
from .plan import Plan
from .registry import Measure
from .representation import Representation, normalised_rows
from .sums import stacked

ByMetric = dict[str, Representation | None]  # None for a layer without finite features


@dataclass(frozen=True)
class SampleSet:
    """The representations of all layers of the same n samples.

    Attributes:
        layers: by row, for each metric that the measures need.
        n: number of samples.
    """

    layers: list[ByMetric]
    n: int

    @property
    def grams(self) -> Tensor:
        """Centred Grams [T, n, n]; NaN for a layer without finite features."""
        grams = []
        for layer in self.layers:
            representation = layer["euclidean"]
            grams.append(None if representation is None else representation.gram)
        return stacked(grams, self.n)


def represent(
    passes: Passes, images: list[Tensor], plan: Plan, batch_size: int, memory: int
) -> SampleSet:
    """Run the models and hold every layer's representation of the samples.

    As many layers at a time as memory allows: each group of them takes another forward pass.

    Args:
        passes: the models, attached.
        images: of each stream [n, ...].
        plan: what is computed; it decides whether features and bases are held.
        batch_size: of the forward passes.
        memory: bytes of features that may be held at once.

    Raises:
        ValueError: the memory does not suffice.
    """
    n = len(images[0])
    batches = [list(batch) for batch in zip(*(x.split(batch_size) for x in images), strict=True)]
    passes.forward(batches[0], lambda row, output: None)  # shapes first: they decide what fits
    _refuse_other_than_logits(passes, plan)
    measures = plan.measures.values()
    metrics = {measure.metric for measure in measures} | {"euclidean"}
    keep_features = any(measure.features for measure in measures)
    decompose = any(measure.pair and measure.kind != "measure" for measure in measures)
    sizes = [4 * n * row.size for row in passes.rows.values()]  # bytes, in float32
    needed = sum(sizes) if keep_features else max(sizes)
    if needed > memory:
        raise ValueError(
            f"the features of {n} samples take {needed >> 20} MB at once, memory allows "
            f"{memory >> 20}: pool them, take fewer samples, or raise memory="
        )
    layers: list[ByMetric] = []
    home: torch.device | None = None  # where all layers meet
    for group in batched_by_memory(sizes, memory):
        for features in _features(passes, batches, group):
            representations: ByMetric = dict.fromkeys(metrics)
            if features is not None:
                home = home or _device_with_float64(features.device)
                for metric in metrics:
                    x = normalised_rows(features.to(home), metric)
                    representations[metric] = Representation.compact(x, keep_features, decompose)
            layers.append(representations)
    return SampleSet(layers, n)


def _refuse_other_than_logits(passes: Passes, plan: Plan) -> None:
    shapes = {layer.label: layer.shape for layer in passes.layers()}
    for name, measure in plan.measures.items():
        if measure.logits:
            refuse_unless_logits(name, shapes)


def batched_by_memory(sizes: list[int], memory: int) -> Iterator[range]:
    """Cut rows into consecutive groups of at most `memory` bytes; each size must fit alone."""
    start = 0
    while start < len(sizes):
        stop = start + 1
        total = sizes[start]
        while stop < len(sizes) and total + sizes[stop] <= memory:
            total += sizes[stop]
            stop += 1
        yield range(start, stop)
        start = stop


def _features(passes: Passes, batches: list[list[Tensor]], group: range) -> Iterator[Tensor | None]:
    """Features [n, d] of the rows in `group`; None where they are missing or not finite."""

    def keep(row: int, output: Tensor) -> Tensor | None:
        # A copy: a later in-place edit must not reach it.
        return output.flatten(1).clone() if row in group else None

    outputs = [passes.forward(batch, keep) for batch in batches]  # by batch, then by row
    for row in group:
        pieces = [by_row[row] for by_row in outputs]
        if any(piece is None or not piece.isfinite().all() for piece in pieces):
            yield None
        else:
            yield torch.cat(pieces)


def _device_with_float64(device: torch.device) -> torch.device:
    return torch.device("cpu") if device.type == "mps" else device


# ---------------------------------------------------------------------------------------- measures


class SetMeasures:
    """Computes measures of all layers, also with the samples of the second one permuted.

    Attributes:
        pairs: rows (i, j), i <= j, between which costly measures are computed: across models where
            there are several, and of each layer with itself.
    """

    def __init__(self, sample_set: SampleSet, rows_of_models: list[list[int]]) -> None:
        self.sample_set = sample_set
        blocks = list(itertools.combinations(rows_of_models, 2))
        if not blocks:
            blocks = [(rows_of_models[0], rows_of_models[0])]
        self.pairs = {(row, row) for row in range(len(sample_set.layers))}
        for rows, columns in blocks:
            for i, j in itertools.product(rows, columns):
                self.pairs.add((min(i, j), max(i, j)))

    def values(
        self, measure: Measure, options: Mapping[str, Any], order: Tensor | None = None
    ) -> np.ndarray:
        """Compute a measure that is no sum over batches.

        Args:
            measure: one with `pair` or `sample_matrix`.
            options: its keywords.
            order: of the second layer's samples [n]; None leaves them as they are.

        Returns:
            [T, T].
        """
        layers = [by_metric[measure.metric] for by_metric in self.sample_set.layers]
        if measure.pair is not None:
            return self._pairwise(measure, layers, options, order)
        assert measure.sample_matrix is not None
        matrices: list[Tensor | None] = []
        for layer in layers:
            matrices.append(None if layer is None else measure.sample_matrix(layer, **options))
        return cosines(stacked(matrices, self.sample_set.n), order)

    def _pairwise(
        self,
        measure: Measure,
        layers: list[Representation | None],
        options: Mapping[str, Any],
        order: Tensor | None,
    ) -> np.ndarray:
        assert measure.pair is not None
        values = np.full((len(layers), len(layers)), np.nan)
        permuted: list[Representation | None] = []
        for layer in layers:
            permuted.append(layer if layer is None or order is None else layer.permuted(order))
        for i, j in self.pairs:
            a, b = layers[i], layers[j]
            if a is None or b is None or not a.energy > 0 or not b.energy > 0:
                continue
            values[i, j] = measure.pair(a, permuted[j], **options)
            if measure.symmetric:
                values[j, i] = values[i, j]
            else:
                values[j, i] = measure.pair(b, permuted[i], **options)
        return values


def cosines(matrices: Tensor, order: Tensor | None) -> np.ndarray:
    """Compute [T, T] cosines of matrices [T, n, n], the second one's samples in another order."""
    permuted = matrices if order is None else matrices[:, order][:, :, order]
    count = len(matrices)
    products = gram.inner_products(torch.cat([matrices, permuted]))  # [2T, 2T]
    return gram.cosine(products)[:count, count:]
