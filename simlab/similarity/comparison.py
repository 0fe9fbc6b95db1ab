"""compare(models, data): every layer of some models against every other, from one pass."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..layers import Layers
from . import gram
from .batches import Batches, Data, regrouped
from .entries import BATCH_SIZE, Entries, Models, aligned_confounder, entries_of
from .features import Ids
from .info import Info
from .inputs import Batch, Forward, joined
from .intervals import groups_left_out, random_halves
from .nulls import permuted_products
from .passes import Passes, Pick
from .plan import Confounder, Plan
from .pooling import Pool
from .reader import Reading, Wanted
from .reasons import explain
from .registry import Measures, resolve_measures
from .result import Result
from .sample_set import SetMeasures, represent
from .sums import GramStack, KernelSums

Values = dict[str, np.ndarray]  # of every measure [T, T]


def compare(
    models: Models,
    data: Data | None = None,
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
    inputs: Wanted | None = None,
    forward: Forward | None = None,
    ids: Ids | Mapping[str, Ids] | None = None,
    check_order: bool = True,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    pick: Pick | None = None,
    seed: int = 0,
    memory: int = 2**30,
) -> Result:
    """Compare the layers of models, or features that were stored, on the same samples.

    On a CPU images lie channels last in memory (each model is first tried on one), and a model laid
    out so by `model.to(memory_format=torch.channels_last)` is quicker still.

    Args:
        models: an nn.Module, several, or {name: model}; one alone is compared with itself. In a
            model's place stored features: a tensor, array or pandas table [n, ...], a (nested) dict
            {layer: one of these}, or the path of an .npz file of layers.
        data: images [N, C, H, W] (float, as the models expect them), a DataLoader, a Dataset or any
            iterable of batches: X, (X, labels, ...), or a mapping, which is given to the models by
            name (but for labels); a dataset of simlab's, of which the test images are taken, or one
            of its splits, both normalised; or a tuple with one of these for each model. Floats are
            converted to the type of a model's parameters. None where all features are stored.
        layers: see `select_layers`; or {model's name: layers}.
        measures: names from `MEASURES`, functions f(X, Y) of two centred feature matrices, or
            Measure(f, name=..., kind="distance", limits=..., symmetric=...) to say more of one.
        estimator: of the CKA family. "debiased" and "biased" divide sums over batches (Nguyen 2021,
            eq. 2); "published" averages the biased value of each batch, as simtorch and many papers
            do.
        pool: "flatten", "mean" (over positions or tokens, wherever the channels lie), "mean_first"
            or "mean_last" (where it is not known: they are the first or the last axis), "cls" or a
            function of the output; or {model's name: pool}. "positions" makes every position of a
            map, or token, a sample and the channels its features; "positions 4" averages maps onto
            a grid of 4 x 4 first, which layers of different sizes need.
        samples: take the first that many samples as one set, which all measures but the CKA family
            need; None for one pass over all batches, and for all samples of stored features.
        null: number of permutations of the samples for a null distribution; needs `samples`.
        resamples: for an interval of any measure, 20 say: how many groups of the samples are left
            out in turn (see `intervals`); needs `samples`, and 1.5 times as many forward passes.
            (Ten or more batches give the CKA family an interval without.)
        confounder: of deconfounded_cka: f(images) -> [n, ...], or a tensor [N, ...] in the order of
            the data; None for the images (of the first model's stream).
        options: {measure: its keywords}, as {"mutual_knn": {"k": 5}, "rbf_cka": {"scale": 0.5},
            "deconfounded_cka": {"clamp": True}}.
        inputs: which entries of a batch are given to the models: an index or several, of a tuple;
            names, of a mapping; {argument: index or name} to give them by name.
        forward: f(model, batch), where a batch as it comes is not given to the models like that.
        ids: of stored features' samples, to match them by: {name: its samples' ids}, or one
            sequence for all; an entry "ids" of a dict or file and a table's index hold them, too.
        check_order: whether to check that several streams show the same samples in one order.
        batch_size: where tensors are cut; None for 128, and for all samples of stored features.
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
    chosen = resolve_measures(measures, options)
    how = Reading(inputs, forward, check_order)
    entries = entries_of(models, data, batch_size, how, ids)
    samples = _one_set(entries, samples, batch_size)
    if "deconfounded_cka" in chosen:
        confounder = aligned_confounder(confounder, entries)
    plan = Plan(chosen, options, estimator, confounder, samples, null, resamples)
    passes = Passes(entries.models, layers, entries.streams, pool)
    if plan.regresses_confounder and passes.takes_positions:
        raise ValueError('deconfounded_cka is of whole images, and pool="positions" is not')
    if samples is not None and samples == entries.samples:
        _check_memory(passes, samples, memory)
    sums = KernelSums(plan)
    with passes.attached(device, pick, forward, one_set=samples is not None):
        if samples is None:
            _stream(passes, entries.batches, sums)
            result = _empty_result(plan, passes, entries, sums)
            _add_values(result, plan, sums, None)
        else:
            batches = regrouped(entries.batches.first(samples), batch_size or BATCH_SIZE)
            set_measures = _set_measures(plan, passes, batches, sums, memory)
            result = _empty_result(plan, passes, entries, sums)
            _add_values(result, plan, sums, set_measures)
            _add_nulls(result, plan, sums.centred, set_measures, seed)
            if resamples:
                values_of = partial(_values_of_subset, result, passes, batches, memory)
                _add_resampled(result, plan, values_of, seed)
    explain(result, plan, sums)
    return result


def _set_measures(
    plan: Plan, passes: Passes, batches: list[list[Batch]], sums: KernelSums, memory: int
) -> SetMeasures:
    """Represent one set of samples, and add its Grams to the sums."""
    sample_set = represent(passes, batches, plan, memory)
    sums.add(sample_set.grams, _images_of(batches, plan), sample_set.units)
    layers = passes.layers()
    rows = [[layer.row for layer in layers if layer.model == m] for m in passes.watched_as]
    return SetMeasures(sample_set, rows)


def _empty_result(plan: Plan, passes: Passes, entries: Entries, sums: KernelSums) -> Result:
    return Result(
        list(entries.models),
        passes.layers(),
        {},
        _info(plan, passes, entries, sums),
        reasons=passes.reasons(),
        left_out=passes.left_out(),
    )


def _one_set(entries: Entries, samples: int | None, batch_size: int | None) -> int | None:
    """How many samples are one set: all stored ones, unless a number or batches are given."""
    if samples is None and batch_size is None:
        return entries.samples
    return samples


def _check_memory(passes: Passes, samples: int, memory: int) -> None:
    """Refuse to take all samples of stored features at once where their Grams do not fit."""
    layers = sum(len(watched.names) for watched in passes.watched)
    needed = 4 * layers * samples**2  # bytes, in float32
    if needed > memory:
        raise ValueError(
            f"the Grams of {layers} layers and all {samples} samples take {needed >> 20} MB, "
            f"memory allows {memory >> 20}: batch_size=1024 sums over batches (the CKA family), "
            "samples=4096 takes the first ones, memory= allows more"
        )


def _stream(passes: Passes, batches: Batches, sums: KernelSums) -> None:
    """One pass over all batches, in which features live only in the hooks."""
    stack = GramStack()
    for batch in batches:
        layers = passes.forward(batch, stack.gram_of)
        grams, units = stack.collected(layers, passes.rows_of(len(batch[0])))
        sums.add(grams, batch[0].first, units)


def _images_of(batches: list[list[Batch]], plan: Plan) -> Tensor:
    """The images [n, ...] of the first stream, where they are regressed out."""
    images = [batch[0].first for batch in batches]
    if plan.regresses_confounder:
        return torch.cat(images)
    return torch.empty(sum(map(len, images)), 0)


def _info(plan: Plan, passes: Passes, entries: Entries, sums: KernelSums) -> Info:
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
        correspondence=entries.correspondence,
        inputs=entries.inputs,
        kinds={name: measure.kind for name, measure in plan.measures.items()},
        limits={name: measure.limits for name, measure in plan.measures.items()},
        correlations=[name for name, measure in plan.measures.items() if measure.correlation],
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
    n = result.info.samples
    positions = set_measures.sample_set.n // n  # of one image stay together
    orders = []
    for _ in range(plan.null):
        order = torch.randperm(n, generator=generator)
        rows = order[:, None] * positions + torch.arange(positions)  # [n, positions]
        orders.append(rows.flatten())
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
    result: Result, plan: Plan, values_of: Callable[[Plan, Tensor], Values], seed: int
) -> None:
    """Add every measure's values of halves of the samples, and of all but one group each."""
    n = result.info.samples
    rests = groups_left_out(n, plan.resamples, seed)
    cuts = random_halves(n, plan.resamples // 2, seed)
    halves = [[values_of(plan, half) for half in cut] for cut in cuts]
    for name in result.values:
        result.halves[name] = np.array([[half[name] for half in cut] for cut in halves])
    jackknifed = {name: m for name, m in plan.measures.items() if m.jackknifed}
    if not jackknifed:
        return
    without = [values_of(plan.only(jackknifed), rest) for rest in rests]
    for name in jackknifed:
        result.without[name] = np.stack([values[name] for values in without])


def _values_of_subset(
    result: Result,
    passes: Passes,
    batches: list[list[Batch]],
    memory: int,
    plan: Plan,
    index: Tensor,
) -> Values:
    """Compute every measure's values [T, T] of the samples at `index` alone."""
    streams = [joined(stream)[index] for stream in zip(*batches, strict=True)]
    subset = regrouped([streams], len(batches[0][0]))
    subset_plan = plan.of_subset(index)
    sums = KernelSums(subset_plan)
    set_measures = _set_measures(subset_plan, passes, subset, sums, memory)
    values = Result(result.models, result.layers, {}, result.info)
    _add_values(values, subset_plan, sums, set_measures)
    return values.values
