"""All samples as one set: every measure."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import gram
from .inputs import Batch
from .measures import refuse_unless_logits
from .nulls import permuted_products
from .passes import Passes
from .plan import Plan
from .registry import Measure
from .representation import Representation, all_finite
from .sums import stacked

ByMetric = dict[str, Representation | None]  # None for a layer without finite features


@dataclass(frozen=True)
class SampleSet:
    """The representations of all layers of the same n samples.

    Attributes:
        layers: by row, for each metric that measures of pairs need; and the euclidean one.
        matrices: {measure with a `sample_matrix`: the layers' [n, n] by row}.
        n: number of samples: of images, or of their positions.
    """

    layers: list[ByMetric]
    matrices: dict[str, list[Tensor | None]]
    n: int

    @property
    def grams(self) -> Tensor:
        """Centred Grams [T, n, n] in units that suit them; NaN for a layer without features."""
        grams = []
        for layer in self.layers:
            representation = layer["euclidean"]
            grams.append(None if representation is None else representation.gram)
        return stacked(grams, self.n)

    @property
    def units(self) -> np.ndarray:
        """Units [T] of the Grams."""
        layers = [layer["euclidean"] for layer in self.layers]
        return np.array([1.0 if layer is None else layer.unit for layer in layers])


def represent(passes: Passes, batches: list[list[Batch]], plan: Plan, memory: int) -> SampleSet:
    """Run the models and hold every layer's representation of the samples.

    As many layers at a time as memory allows: each group of them takes another forward pass.

    Args:
        passes: the models, attached.
        batches: the samples, of each stream.
        plan: what is computed; it decides whether features and bases are held.
        memory: bytes of features that may be held at once.

    Raises:
        ValueError: the memory does not suffice.
    """
    keep_features = any(measure.features for measure in plan.measures.values())
    # A first batch tells the shapes and types, which decide what fits.
    dtypes = passes.forward(batches[0], lambda row, output: output.dtype)
    n = passes.rows_of(sum(len(batch[0]) for batch in batches))
    _refuse_other_than_logits(passes, plan)
    sizes = []
    for row, dtype in zip(passes.rows.values(), dtypes, strict=True):
        if keep_features and dtype is not None:
            dtype = torch.promote_types(dtype, torch.float32)
        dtypes[row.index] = dtype
        sizes.append(0 if dtype is None else n * row.size * dtype.itemsize)
    needed = sum(sizes) if keep_features else max(sizes)
    if needed > memory:
        raise ValueError(
            f"the features of {n} samples take {needed >> 20} MB at once, memory allows "
            f"{memory >> 20}: pool them, take fewer samples, or raise memory="
        )
    sample_set = SampleSet([], {}, n)
    home: torch.device | None = None  # where all layers meet
    for group in batched_by_memory(sizes, memory):
        for features in _features(passes, batches, group, dtypes):
            if features is not None:
                home = home or _device_with_float64(features.device)
                features = features.to(home)
            _add_layer(sample_set, features, plan, keep_features)
    return sample_set


def _add_layer(
    sample_set: SampleSet, features: Tensor | None, plan: Plan, keep_features: bool
) -> None:
    """Compute from a layer's features [n, d] what is held of them, which are used up."""
    measures = plan.measures.values()
    read: ByMetric = dict.fromkeys(["euclidean", *(measure.metric for measure in measures)])
    if features is not None:
        read = {metric: Representation(features, metric) for metric in read}
    decompose = False
    held_metrics = {"euclidean"}
    for name, measure in plan.measures.items():
        representation = read[measure.metric]
        if measure.pair is not None:
            held_metrics.add(measure.metric)
            decompose |= measure.function is None
        elif measure.sample_matrix is not None:
            matrix = None
            if representation is not None:
                options = plan.options.get(name, {})
                matrix = measure.sample_matrix(representation, **options).float()
            sample_set.matrices.setdefault(name, []).append(matrix)
    held: ByMetric = dict.fromkeys(held_metrics)
    # The euclidean one last: it centres the features where they are.
    for metric in sorted(held_metrics, key=lambda metric: metric == "euclidean"):
        representation = read[metric]
        if representation is not None:
            held[metric] = representation.held(keep_features, decompose)
    sample_set.layers.append(held)


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


def _features(
    passes: Passes,
    batches: list[list[Batch]],
    group: range,
    dtypes: list[torch.dtype | None],
) -> Iterator[Tensor | None]:
    """Features [n, d] of the rows in `group`; None where they are missing or not finite."""
    n = passes.rows_of(sum(len(batch[0]) for batch in batches))
    buffers: dict[int, Tensor] = {}
    filled = dict.fromkeys(group, 0)  # samples so far

    def keep(row: int, output: Tensor) -> None:
        if row not in group:
            return
        if row not in buffers:
            width = output[0].numel()
            buffers[row] = torch.empty(n, width, dtype=dtypes[row], device=output.device)
        start = filled[row]
        buffers[row][start : start + len(output)] = output.flatten(1)
        filled[row] += len(output)

    for batch in batches:
        passes.forward(batch, keep)
    for row in group:
        buffer = buffers.pop(row, None)
        if buffer is None or filled[row] < n or not all_finite(buffer):
            yield None
        else:
            yield buffer


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

    def values(self, name: str, measure: Measure, options: Mapping[str, Any]) -> np.ndarray:
        """Compute a measure that is no sum over batches: [T, T].

        Args:
            name: of the measure.
            measure: one with `pair` or `sample_matrix`.
            options: its keywords.
        """
        if measure.pair is not None:
            return self._pairwise(measure, options)
        products = gram.inner_products(self._matrices(name))
        return gram.cosine(products) if measure.cosine else products

    def nulls(
        self, name: str, measure: Measure, options: Mapping[str, Any], orders: list[Tensor]
    ) -> np.ndarray:
        """Compute it with the second layer's samples in each of P orders: [P, T, T]."""
        if measure.pair is not None:
            return np.stack([self._pairwise(measure, options, order) for order in orders])
        return permuted_products(self._matrices(name), orders, measure.cosine)

    def _matrices(self, name: str) -> Tensor:
        """[T, n, n] of a measure with a `sample_matrix`."""
        return stacked(self.sample_set.matrices[name], self.sample_set.n)

    def _pairwise(
        self, measure: Measure, options: Mapping[str, Any], order: Tensor | None = None
    ) -> np.ndarray:
        assert measure.pair is not None
        layers = [by_metric[measure.metric] for by_metric in self.sample_set.layers]
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
