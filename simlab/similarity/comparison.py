"""compare(models, data): every layer of some models against every other, from one pass."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..layers import Layers
from . import gram
from .batches import Batches, Data
from .info import Info
from .intervals import groups_left_out, random_halves
from .nulls import permuted_products
from .passes import Models, Passes, Pick, Pool, named_models
from .plan import Confounder, Plan
from .reasons import explain
from .registry import Measures, resolve_measures
from .result import Result
from .sample_set import SetMeasures, represent
from .sums import KernelSums, stacked_grams

Values = dict[str, np.ndarray]  # of every measure [T, T]


def compare(
    models: Models,
    data: Data,
    layers: Layers | Mapping[str, Layers] | None = None,
    measures: Measures = "cka",
    *,
    estimator: str = "debiased",
    pool: Pool | Mapping[str, Pool] = "flatten",
    samples: int | None = None,
    null: int = 0,
    resamples: int = 0,
    confounder: Confounder | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    batch_size: int = 128,
    device: torch.device | str | None = None,
    pick: Pick | None = None,
    seed: int = 0,
    memory: int = 2**30,
) -> Result:
    """Compare the layers of one or more models on the same samples.

    On a CPU images lie channels last in memory (each model is first tried on one), and a model laid
    out so by `model.to(memory_format=torch.channels_last)` is quicker still.

    Args:
        models: an nn.Module, several, or {name: model}; one alone is compared with itself.
        data: images [N, C, H, W] (float, as the models expect them), a DataLoader or any iterable
            of batches (X or (X, labels, ...)), or a tuple with one of these for each model. Floats
            are converted to the type of a model's parameters.
        layers: see `select_layers`; or {model's name: layers}.
        measures: names from `MEASURES`, or functions f(X, Y) of two centred feature matrices.
        estimator: of the CKA family. "debiased" and "biased" divide sums over batches (Nguyen 2021,
            eq. 2); "published" averages the biased value of each batch, as simtorch and many papers
            do.
        pool: "flatten", "mean", "cls" or a function of the output; or {model's name: pool}.
        samples: take the first that many samples as one set, which all measures but the CKA family
            need; None for one pass over all batches.
        null: number of permutations of the samples for a null distribution; needs `samples`.
        resamples: for an interval of any measure, 20 say: how many groups of the samples are left
            out in turn (see `intervals`); needs `samples`, and 1.5 times as many forward passes.
            (Ten or more batches give the CKA family an interval without.)
        confounder: of deconfounded_cka: f(images) -> [n, ...], or a tensor [N, ...] in the order of
            the data; None for the images (of the first model's stream).
        options: {measure: its keywords}, as {"mutual_knn": {"k": 5}, "rbf_cka": {"scale": 0.5},
            "deconfounded_cka": {"clamp": True}}.
        batch_size: where tensors are cut.
        device: where to run; None leaves the models where they are.
        pick: f(layer's name, output) -> tensor [n, ...], for outputs that are no plain tensor.
        seed: of the permutations and of what is resampled.
        memory: bytes of features that a set of samples may hold at once; what is more takes another
            forward pass.

    Returns:
        A Result. Undefined cells are NaN, with the reason in `result.reasons`.

    Raises:
        ValueError: unknown layers, measures or options; samples that do not correspond or are NaN.
        TypeError: something is no model, no data or no selector.
    """
    options = dict(options or {})
    models = named_models(models)
    chosen = resolve_measures(measures, options)
    plan = Plan(chosen, options, estimator, confounder, samples, null, resamples)
    batches = Batches(data, len(models), batch_size)
    passes = Passes(models, layers, len(batches.sources), pool)
    sums = KernelSums(plan)
    with passes.attached(device, pick):
        if samples is None:
            _stream(passes, batches, sums)
            result = _empty_result(models, plan, passes, batches, sums)
            _add_values(result, plan, sums, None)
        else:
            images = batches.first(samples)
            sample_set = represent(passes, images, plan, batch_size, memory)
            sums.add(sample_set.grams, sample_set.units, images[0])
            result = _empty_result(models, plan, passes, batches, sums)
            set_measures = SetMeasures(sample_set, _rows_of_models(result))
            _add_values(result, plan, sums, set_measures)
            _add_nulls(result, plan, sums.centred, set_measures, seed)
            if resamples:
                part = partial(_values_of_part, result, plan, passes, images, batch_size, memory)
                _add_resampled(result, part, resamples, seed)
    explain(result, plan, sums)
    return result


def _empty_result(
    models: Mapping[str, nn.Module],
    plan: Plan,
    passes: Passes,
    batches: Batches,
    sums: KernelSums,
) -> Result:
    info = _info(plan, passes, batches, sums)
    return Result(list(models), passes.layers(), {}, info, reasons=passes.reasons())


def _rows_of_models(result: Result) -> list[list[int]]:
    return [[layer.row for layer in result.layers_of(model)] for model in result.models]


def _stream(passes: Passes, batches: Batches, sums: KernelSums) -> None:
    """One pass over all batches, in which features live only in the hooks."""

    def to_gram(row: int, features: Tensor) -> tuple[Tensor, float]:
        return gram.centred_gram(features)

    for images in batches:
        outputs = passes.forward(images, to_gram)
        sums.add(*stacked_grams(outputs, len(images[0])), images[0])


def _info(plan: Plan, passes: Passes, batches: Batches, sums: KernelSums) -> Info:
    pools = {name: passes.watched[index].pool for name, index in passes.watched_as.items()}
    across = []
    if len(passes.watched_as) > 1:
        across = [name for name, measure in plan.measures.items() if measure.pair is not None]
    sigma = {}
    if sums.sigma is not None:
        sigma = {layer.label: sums.sigma[layer.row].item() for layer in passes.layers()}
    return Info(
        samples=sums.samples,
        batches=sums.batches,
        batch_sizes=sorted(sums.batch_sizes),
        mode="stream" if plan.samples is None else "one set",
        estimator=plan.estimator,
        pool={name: getattr(pool, "__name__", str(pool)) for name, pool in pools.items()},
        correspondence=batches.correspondence,
        kinds={name: measure.kind for name, measure in plan.measures.items()},
        limits={name: measure.limits for name, measure in plan.measures.items()},
        options={name: dict(keywords) for name, keywords in plan.options.items()},
        across=across,
        sigma=sigma,
        confounder=plan.confounder_name,
        residual_by_batch=plan.residual_by_batch,
    )


def _add_values(
    result: Result, plan: Plan, sums: KernelSums, set_measures: SetMeasures | None
) -> None:
    """Add the values [T, T] of every measure: from sums over batches, else from the sample set."""
    for name, measure in plan.measures.items():
        if measure.kernel is not None:
            groups = np.stack(sums.groups[plan.kernels[name]])  # [G, T, T]
            result.group_sums[name] = groups
            result.values[name] = result.values_from_sums(name, groups.sum(0))
        elif set_measures is not None:
            options = plan.options.get(name, {})
            result.values[name] = set_measures.values(name, measure, options)


def _add_nulls(
    result: Result,
    plan: Plan,
    centred: Mapping[str, Tensor],
    set_measures: SetMeasures,
    seed: int,
) -> None:
    """Add every measure's values [P, T, T] with the second layer's samples permuted."""
    generator = torch.Generator().manual_seed(seed)
    n = set_measures.sample_set.n
    orders = [torch.randperm(n, generator=generator) for _ in range(plan.null)]
    for name, measure in plan.measures.items():
        if not orders:
            continue
        if measure.kernel is None:
            options = plan.options.get(name, {})
            result.nulls[name] = set_measures.nulls(name, measure, options, orders)
        else:
            matrices = centred[plan.kernels[name]]
            if name == "deconfounded_cka" and not plan.residual_by_batch:
                matrices = gram.residual(matrices, matrices[-1])
            matrices = matrices[: len(set_measures.sample_set.layers)]  # without the confounder
            result.nulls[name] = permuted_products(matrices, orders, cosine=True)


def _add_resampled(
    result: Result, values_of: Callable[[Tensor], Values], resamples: int, seed: int
) -> None:
    """Add every measure's values of all samples but one group each, and of halves of them."""
    n = result.info.samples
    without = [values_of(rest) for rest in groups_left_out(n, resamples, seed)]
    halves = [list(map(values_of, cut)) for cut in random_halves(n, resamples // 2, seed)]
    for name in result.values:
        result.without[name] = np.stack([values[name] for values in without])
        result.halves[name] = np.array([[half[name] for half in cut] for cut in halves])


def _values_of_part(
    result: Result,
    plan: Plan,
    passes: Passes,
    images: list[Tensor],
    batch_size: int,
    memory: int,
    index: Tensor,
) -> Values:
    """Compute every measure's values [T, T] of the samples at `index` alone."""
    subset = [x[index.to(x.device)] for x in images]
    subset_plan = plan.of_subset(index)
    sums = KernelSums(subset_plan)
    sample_set = represent(passes, subset, subset_plan, batch_size, memory)
    sums.add(sample_set.grams, sample_set.units, subset[0])
    part = Result(result.models, result.layers, {}, result.info)
    _add_values(part, subset_plan, sums, SetMeasures(sample_set, _rows_of_models(result)))
    return part.values
