"""compare(models, data): every layer of some models against every other, from one pass."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..layers import Layers
from . import gram
from .batches import Batches, Data
from .info import Info
from .passes import Models, Passes, Pick, Pool, named_models
from .plan import Confounder, Plan
from .registry import Measures, resolve_measures
from .result import Result
from .sample_set import SetMeasures, cosines, represent
from .sums import KernelSums, stacked


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
            of batches (X or (X, labels, ...)), or a tuple with one of these for each model.
        layers: see `select_layers`; or {model's name: layers}.
        measures: names from `MEASURES`, or functions f(X, Y) of two centred feature matrices.
        estimator: of the CKA family. "debiased" and "biased" divide sums over batches (Nguyen 2021,
            eq. 2); "published" averages the biased value of each batch, as simtorch and many papers
            do.
        pool: "flatten", "mean" (over positions or tokens, wherever the channels lie), "mean_first"
            or "mean_last" (where it is not known: they are the first or the last axis), "cls" or a
            function of the output; or {model's name: pool}.
        samples: take the first that many samples as one set, which all measures but the CKA family
            need; None for one pass over all batches.
        null: number of permutations of the samples for a null distribution; needs `samples`.
        confounder: of deconfounded_cka: f(images) -> [n, ...], or a tensor [N, ...] in the order of
            the data; None for the images (of the first model's stream).
        options: {measure: its keywords}, as {"mutual_knn": {"k": 5}, "rbf_cka": {"scale": 0.5},
            "deconfounded_cka": {"clamp": True}}.
        batch_size: where tensors are cut.
        device: where to run; None leaves the models where they are.
        pick: f(layer's name, output) -> tensor [n, ...], for outputs that are no plain tensor.
        seed: of the permutations.
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
    plan = Plan(chosen, options, estimator, confounder, samples, null)
    batches = Batches(data, len(models), batch_size)
    passes = Passes(models, layers, len(batches.sources), pool)
    sums = KernelSums(plan)
    sample_set = None
    with passes.attached(device, pick):
        if samples is None:
            _stream(passes, batches, sums)
        else:
            images = batches.first(samples)
            sample_set = represent(passes, images, plan, batch_size, memory)
            sums.add(sample_set.grams, images[0])
    info = _info(plan, passes, batches, sums)
    result = Result(
        list(models),
        passes.layers(),
        {},
        info,
        reasons=passes.reasons(),
        left_out=passes.left_out(),
    )
    if sample_set is None:
        _add_values(result, plan, sums, None)
    else:
        rows = [[layer.row for layer in result.layers_of(model)] for model in result.models]
        set_measures = SetMeasures(sample_set, rows)
        _add_values(result, plan, sums, set_measures)
        _add_nulls(result, plan, sums.centred, set_measures, seed)
    _explain(result, sums.energy)
    return result


def _stream(passes: Passes, batches: Batches, sums: KernelSums) -> None:
    """One pass over all batches, in which features live only in the hooks."""

    def to_gram(row: int, features: Tensor) -> Tensor:
        return gram.centred_gram(features)

    for images in batches:
        grams = stacked(passes.forward(images, to_gram), len(images[0]))  # [T, n, n]
        sums.add(grams, images[0])


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
            result.values[name] = set_measures.values(measure, plan.options.get(name, {}))


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
            nulls = [set_measures.values(measure, options, order) for order in orders]
        else:
            matrices = centred[plan.kernels[name]]
            if name == "deconfounded_cka" and not plan.residual_by_batch:
                matrices = gram.residual(matrices, matrices[-1])
            matrices = matrices[: len(set_measures.sample_set.layers)]  # without the confounder
            nulls = [cosines(matrices, order) for order in orders]
        result.nulls[name] = np.stack(nulls)


def _explain(result: Result, energy: Tensor) -> None:
    """Add the reason to every layer whose values are all NaN."""
    for layer in result.layers:
        for name, values in result.values.items():
            if layer.label in result.reasons or not np.isnan(values[layer.row]).all():
                continue
            layer_energy = energy[layer.row].item()
            if layer_energy > 0:
                result.reasons[f"{layer.label} ({name})"] = _reason_of_measure(name)
            else:  # whatever the measure
                result.reasons[layer.label] = _reason_of_layer(layer_energy)


def _reason_of_layer(energy: float) -> str:
    if energy == 0:
        return "constant: its features do not differ between the samples"
    return "NaN or infinite features"


def _reason_of_measure(measure: str) -> str:
    if measure == "deconfounded_cka":
        return "nothing is left of it beside the confounder"
    if measure == "rbf_cka":
        return "half of its samples or more coincide: its kernel has no width"
    return "its samples are all equally far apart"
