"""compare(models, data): every layer of some models against every other, from one pass."""

import contextlib
import inspect
import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..layers import one_of
from . import gram as g
from .measures import MEASURES, Measure, Representation, normalised_rows
from .passes import Pass, named_models
from .result import Result
from .samples import Samples

KERNEL_OPTIONS = {"linear": [], "rbf": ["scale"], "residual": ["clamp"]}
GROUPS = 64  # of batches, kept apart for resampling
UNDEFINED = {
    "deconfounded_cka": "nothing is left of it beside the confounder",
    "rbf_cka": "half of its samples or more coincide: its kernel has no width",
}
Reps = list[dict[str, Representation | None]]  # by row, then by metric


def compare(
    models: Any,
    data: Any,
    layers: Any = None,
    measures: Any = "cka",
    *,
    estimator: str = "debiased",
    pool: Any = "flatten",
    probe: int | None = None,
    null: int = 0,
    confounder: Any = None,
    options: Mapping[str, dict] | None = None,
    batch_size: int = 128,
    device: Any = None,
    pick: Any = None,
    seed: int = 0,
    memory: int = 2**30,
) -> Result:
    """Compare the layers of one or more models on the same samples.

    models: an nn.Module, a list of them, or {name: model}; one alone is compared with itself.
    data: images [N, C, H, W] (float, as the models expect them), a DataLoader or any iterable
        of batches (X or (X, labels, ...)), or a tuple with one of these for each model.
    layers: see `select`; or {model name: layers}.
    measures: names from `MEASURES`, or functions f(X, Y) of two centred feature matrices.
    estimator: of the CKA family. "debiased" and "biased" divide sums over batches (Nguyen 2021);
        "published" averages the biased value of each batch, as simtorch and many papers do.
    pool: "flatten", "mean", "cls" or a function of the output; or {model name: pool}.
    probe: take the first `probe` samples as one set; all but the CKA family need it.
    null: number of permutations of the samples for a null distribution; needs `probe`.
    confounder: of deconfounded_cka: f(images) -> [n, ...], or a tensor [N, ...] in the order of
        the data; None for the images (of the first model's stream).
    options: {measure: its keywords}: {"mutual_knn": {"k": 5}, "deconfounded_cka": {"clamp": True}}.
    batch_size: where tensors are cut. device: where to run; None leaves the models where they are.
    pick: f(layer name, output) -> tensor [n, ...], for outputs that are no plain tensor.
    memory: bytes of features a probe may hold at once; more layers take more forward passes.

    On a CPU images lie channels last in memory (each model is first tried on one), and a model laid
    out so by `model.to(memory_format=torch.channels_last)` is quicker still.

    Undefined cells are NaN, with the reason in `result.reasons`. ValueError and TypeError name
    what does not fit: unknown layers or measures, samples that do not correspond or are NaN.
    """
    models, options = named_models(models), dict(options or {})
    chosen = resolve(measures, options)
    one_of(estimator, ("debiased", "biased", "published"), "estimator")
    whole = [name for name, m in chosen.items() if m.kernel is None] + ["null"] * bool(null)
    if probe is None and whole:
        raise ValueError(
            f"{', '.join(whole)}: needs all samples at once; pass probe=1024 to take "
            "the first 1024 as one set"
        )
    clamp = options.get("deconfounded_cka", {}).get("clamp", False)
    scale = options.get("rbf_cka", {}).get("scale", 1.0)
    # Otherwise dCKA of summed batches follows from CKA and the confounder's own row.
    by_batch = clamp or estimator == "published"
    kernels = {
        name: "linear" if m.kernel == "residual" and not by_batch else m.kernel
        for name, m in chosen.items()
        if m.kernel
    }
    samples = Samples(data, len(models), batch_size)
    passes = Pass(models, layers, len(samples.sources), pool)
    against = "images" if confounder is None else getattr(confounder, "__name__", "given")
    info: dict[str, Any] = {
        "samples": 0,
        "batches": 0,
        "batch_sizes": [],
        "estimator": estimator,
        "mode": "stream" if probe is None else "probe",
        "pool": {
            name: getattr(kind := passes.runs[run][2], "__name__", kind)
            for name, run in passes.run_of.items()
        },
        "kinds": {name: m.kind for name, m in chosen.items()},
        "limits": {name: list(m.limits) for name, m in chosen.items()},
        "options": options,
        "confounder": against if "deconfounded_cka" in chosen else None,
        # Costly pairs within a model are left out where there are several.
        "across": [n for n, m in chosen.items() if m.pair and len(models) > 1],
        "by_batch": by_batch,
    }
    sigma, energy, stacks = torch.empty(0), torch.zeros(()), {}
    sums: dict[str, dict] = {kernel: defaultdict(float) for kernel in set(kernels.values())}
    with contextlib.ExitStack() as stack:
        passes.open(stack, device, pick)
        for batch in samples if probe is None else [first(samples, probe)]:
            if probe is None:  # features live only in the hook
                grams = stacked(passes(batch, lambda _, x: g.centred_gram(x)), len(batch[0]))
            else:
                reps, grams = represent(passes, batch, batch_size, chosen, memory)
            energy = energy + grams.diagonal(dim1=1, dim2=2).sum(1).cpu()  # [T]
            if info["confounder"]:  # as the last row
                base = confounding(confounder, batch[0], info["samples"])
                grams = torch.cat([grams, base[None].to(grams.device)])
            if "rbf" in sums and not len(sigma):  # widths are fixed once
                sigma = scale * g.median_distance(grams)  # [T]
            for kernel, groups in sums.items():  # batch i adds to group i modulo GROUPS
                rows = g.kernel_rows(
                    kernel,
                    grams,
                    estimator == "debiased",
                    sigma=sigma,
                    confounder=grams[-1],
                    clamp=clamp,
                )
                if estimator == "published":  # unit rows: the sum is then the sum of the ratios
                    rows /= torch.linalg.matrix_norm(rows)[:, None, None].clamp(min=1e-30)
                groups[info["batches"] % GROUPS] += g.inner_products(rows)
                if null:  # of samples in another order, for which the rows are needed
                    stacks |= {name: rows for name, k in kernels.items() if k == kernel}
            info["samples"] += len(batch[0])
            info["batches"] += 1
            info["batch_sizes"] = sorted({*info["batch_sizes"], len(batch[0])})
    groups = {name: np.stack([*sums[kernel].values()]) for name, kernel in kernels.items()}
    result = Result(list(models), passes.layers(), {}, info, groups, reasons=passes.reasons())
    result.values = {
        name: result.from_sums(name, groups[name].sum(0)) if m.kernel else None
        for name, m in chosen.items()
    }
    if probe is not None:
        whole_set(result, reps, chosen, stacks, null, seed)
    info["correspondence"] = samples.correspondence
    info["sigma"] = {layer.label: sigma[layer.row].item() for layer in result.layers if len(sigma)}
    for layer in result.layers:
        for name, value in result.values.items():
            if layer.label not in result.reasons and np.isnan(value[layer.row]).all():
                whole = not energy[layer.row] > 0  # constant or NaN for every measure
                result.reasons[layer.label if whole else f"{layer.label} ({name})"] = (
                    "constant: its features do not differ between the samples"
                    if energy[layer.row] == 0
                    else "NaN or infinite features"
                    if whole
                    else UNDEFINED.get(name, "its samples are all equally far apart")
                )
    return result


def resolve(measures: Any, options: Mapping[str, dict]) -> dict[str, Measure]:
    """Names and functions of two matrices -> {name: Measure}."""
    out = {}
    for m in [measures] if isinstance(measures, str) or callable(measures) else measures:
        if callable(m):
            out[m.__name__] = Measure(
                "measure", features=True, symmetric=False, pair=of_features(m)
            )
        else:
            out[m] = MEASURES[one_of(m, MEASURES, "measures")]
    for name, given in options.items():
        m = out[one_of(name, out, "options")]
        known = (
            KERNEL_OPTIONS[m.kernel]
            if m.kernel
            else list(inspect.signature(m.pair or m.rows).parameters)[2 if m.pair else 1 :]
        )
        for option in given:
            one_of(option, known, f"option of {name}")
    return out


def of_features(measure: Callable) -> Callable:
    """A function of two feature matrices as one of two Representations."""
    return lambda a, b: float(measure(a.features, b.features))


def confounding(source: Any, x: Tensor, start: int) -> Tensor:
    """[n, n] Gram of what is to be regressed out of the n samples x, which begin at `start`."""
    n = len(x)
    z = source[start : start + n] if isinstance(source, Tensor) else source(x) if source else x
    if len(z) != n:
        raise ValueError(f"confounder: {len(z)} rows for the {n} samples from {start} on")
    gram = g.centred_gram(z.float())
    if not gram.trace() > 0:
        raise ValueError(f"the confounder is constant or NaN in the {n} samples from {start} on")
    return gram


def stacked(grams: list[Tensor | None], n: int) -> Tensor:
    """[T, n, n] on one device (models may live on several); NaN for a layer without output."""
    home = next((k.device for k in grams if k is not None), None)
    return torch.stack(
        [torch.full((n, n), torch.nan, device=home) if k is None else k.to(home) for k in grams]
    )


def first(samples: Samples, count: int) -> list[Tensor]:
    """The first `count` samples of each stream as one batch."""
    held: list[list[Tensor]] = []
    for batch in samples:
        held.append(batch)
        if sum(len(b[0]) for b in held) >= count:
            break
    return [torch.cat(parts)[:count] for parts in zip(*held, strict=True)]


def represent(
    passes: Pass, batch: list[Tensor], batch_size: int, chosen: dict[str, Measure], memory: int
) -> tuple[Reps, Tensor]:
    """{metric: Representation} of each row, features where needed; all Grams [T, n, n]."""
    parts = [list(part) for part in zip(*(x.split(batch_size) for x in batch), strict=True)]
    passes(parts[0], lambda row, x: None)  # shapes first: they decide what fits
    metrics = {m.metric for m in chosen.values()} | {"euclidean"}
    keep = any(m.features for m in chosen.values())
    decompose = any(m.pair and m.kind != "measure" for m in chosen.values())
    sizes = [4 * len(batch[0]) * size for _, _, size, _ in passes.rows.values()]
    if (need := sum(sizes) if keep else max(sizes)) > memory:
        raise ValueError(
            f"the features of {len(batch[0])} samples take {need >> 20} MB at once, "
            f"memory allows {memory >> 20}: pool them, probe fewer, or raise memory="
        )
    reps, home = [], None
    while len(reps) < len(sizes):  # as many layers as memory allows, the rest in another round
        totals = itertools.accumulate(sizes[len(reps) :])
        group = range(len(reps), len(reps) + sum(total <= memory for total in totals))
        # Copies: a later in-place edit must not reach them.
        found = [
            passes(part, lambda row, x, group=group: x.flatten(1).clone() if row in group else None)
            for part in parts
        ]
        for row in group:
            pieces = [part[row] for part in found]
            if any(p is None or not p.isfinite().all() for p in pieces):
                reps.append(dict.fromkeys(metrics))
                continue
            x = torch.cat(pieces)
            # All meet on one device, which must have float64.
            home = home or torch.device("cpu" if x.device.type == "mps" else x.device)
            reps.append(
                {
                    m: Representation.compact(normalised_rows(x.to(home), m), keep, decompose)
                    for m in metrics
                }
            )
    return reps, stacked([r["euclidean"] and r["euclidean"].gram for r in reps], len(batch[0]))


def whole_set(
    result: Result,
    reps: Reps,
    chosen: dict[str, Measure],
    stacks: dict[str, Tensor],
    null: int,
    seed: int,
) -> None:
    """Adds the values [T, T] of measures that are no sums, and null distributions [P, T, T]."""
    rows_of = [[layer.row for layer in result.of(model)] for model in result.models]
    blocks = list(itertools.combinations(rows_of, 2)) or [(rows_of[0], rows_of[0])]
    pairs = {(min(p), max(p)) for a, b in blocks for p in itertools.product(a, b)}
    pairs |= {(row, row) for row in range(len(reps))}
    generator = torch.Generator().manual_seed(seed)
    n = result.info["samples"]
    orders = [torch.randperm(n, generator=generator) for _ in range(null)]
    for name, m in chosen.items():
        if m.kernel and not null:
            continue  # its sums were enough
        own, kwargs = [rep[m.metric] for rep in reps], result.info["options"].get(name, {})
        if m.pair:
            found = [pairwise(m, own, pairs, kwargs, order) for order in [None, *orders]]
        else:  # cosines of rows
            rows = (
                stacks[name] if m.kernel else stacked([r and m.rows(r, **kwargs) for r in own], n)
            )
            if name == "deconfounded_cka" and not result.info["by_batch"]:
                rows = g.residual(rows, rows[-1])
            rows = rows[: len(reps)]
            found = [
                g.cosine(g.inner_products(torch.cat([rows, rows[:, order][:, :, order]])))[
                    : len(rows), len(rows) :
                ]
                for order in [torch.arange(n), *orders]
            ]
        if not m.kernel:
            result.values[name] = found[0]
        if null:
            result.nulls[name] = np.stack(found[1:])


def pairwise(
    m: Measure,
    reps: list[Representation | None],
    pairs: set[tuple[int, int]],
    kwargs: dict,
    order: Tensor | None,
) -> np.ndarray:
    """[T, T] of a measure of two Representations, the second one's samples in another order."""
    out = np.full((len(reps), len(reps)), np.nan)
    reps = [r if r and r.energy > 0 else None for r in reps]
    moved = [r.permuted(order) if r and order is not None else r for r in reps]
    for i, j in pairs:
        if reps[i] and reps[j]:
            out[i, j] = m.pair(reps[i], moved[j], **kwargs)
            out[j, i] = out[i, j] if m.symmetric else m.pair(reps[j], moved[i], **kwargs)
    return out
