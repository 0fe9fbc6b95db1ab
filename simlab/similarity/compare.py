"""compare(models, data): every layer of some models against every other, from one pass."""

import contextlib
import inspect
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import gram as g
from .layers import one_of
from .measures import MEASURES, Measure, Representation, normalised_rows
from .passes import Pass, named_models, per_model
from .result import Result
from .samples import Samples

KERNEL_OPTIONS = {"linear": [], "rbf": ["scale"], "residual": ["clamp"]}
GROUPS = 64  # of batches, kept apart for resampling
Reps = list[dict[str, Representation | None]]  # by row, then by metric


def compare(models: Any, data: Any, layers: Any = None, measures: Any = "cka", *,
            estimator: str = "debiased", pool: Any = "flatten", probe: int | None = None,
            null: int = 0, confounder: Any = None, options: Mapping[str, dict] | None = None,
            batch_size: int = 128, device: Any = None, pick: Any = None, seed: int = 0,
            memory: int = 2**30) -> Result:
    """Compare the layers of one or more models on the same samples.

    models: an nn.Module, a list of them, or {name: model}; one alone is compared with itself.
    data: pictures [N, C, H, W] (float, as the models expect them), a DataLoader or any iterable
        of batches (X or (X, labels, ...)), or a tuple with one of these for each model.
    layers: see `select`; or {model name: layers}.
    measures: names from `MEASURES`, or functions f(X, Y) of two centred feature matrices.
    estimator: of the CKA family. "debiased" and "biased" divide sums over batches (Nguyen 2021);
        "published" averages the biased value of each batch, as simtorch and many papers do.
    pool: "flatten", "mean", "cls" or a function of the output; or {model name: pool}.
    probe: take the first `probe` samples as one set; all but the CKA family need it.
    null: number of permutations of the samples for a null distribution; needs `probe`.
    confounder: of deconfounded_cka: f(pictures) -> [n, ...], or a tensor [N, ...] in the order of
        the data; None for the pictures (of the first model's stream).
    options: {measure: its keywords}: {"mutual_knn": {"k": 5}, "deconfounded_cka": {"clamp": True}}.
    batch_size: where tensors are cut. device: where to run; None leaves the models where they are.
    pick: f(layer name, output) -> tensor [n, ...], for outputs that are no plain tensor.
    memory: bytes of features a probe may hold at once; more layers take more forward passes.

    Undefined cells are NaN, with the reason in `result.reasons`. ValueError and TypeError name
    what does not fit: unknown layers or measures, samples that do not correspond or are NaN.
    """
    models, options = named_models(models), dict(options or {})
    chosen = resolve(measures, options)
    one_of(estimator, ("debiased", "biased", "published"), "estimator")
    whole = [name for name, m in chosen.items() if m.kernel is None] + ["null"] * bool(null)
    if probe is None and whole:
        raise ValueError(f"{', '.join(whole)}: needs all samples at once; pass probe=1024 to take "
                         "the first 1024 as one set")
    clamp = options.get("deconfounded_cka", {}).get("clamp", False)
    scale = options.get("rbf_cka", {}).get("scale", 1.0)
    # Otherwise dCKA of summed batches follows from CKA and the confounder's own row.
    by_batch = clamp or estimator == "published"
    kernels = {name: "linear" if m.kernel == "residual" and not by_batch else m.kernel
               for name, m in chosen.items() if m.kernel}
    samples = Samples(data, len(models), batch_size)
    passes = Pass(models, layers, len(samples.sources), pool)
    result = Result(models=list(models), layers=[], values={}, info={
        "samples": 0, "batches": 0, "batch_sizes": [], "estimator": estimator,
        "mode": "stream" if probe is None else "probe",
        "pool": {name: getattr(p := per_model(pool, name, models, "pool"), "__name__", p)
                 for name in models},
        "kinds": {name: m.kind for name, m in chosen.items()},
        "limits": {name: list(m.limits) for name, m in chosen.items()}, "options": options,
        "confounder": None if "deconfounded_cka" not in chosen else "pictures"
        if confounder is None else getattr(confounder, "__name__", "given"),
        # Costly pairs within a model are left out where there are several.
        "across": [n for n, m in chosen.items() if m.pair and len(models) > 1],
        "by_batch": by_batch})
    info, sigma, values, energy = result.info, {}, {}, {}
    sums: dict[str, list[np.ndarray]] = {kernel: [] for kernel in set(kernels.values())}
    with contextlib.ExitStack() as stack:
        passes.open(stack, device, pick)
        for batch in samples if probe is None else [first(samples, probe)]:
            grams: dict[int, Tensor | None] = {}
            base = confounding(confounder, batch[0], info["samples"]) if info["confounder"] else None
            if probe is None:  # features live only in the hook
                def sink(row: int, x: Tensor | None, grams: dict = grams) -> None:
                    grams[row] = None if x is None else g.centred_gram(g.flatten(x))

                passes(batch, sink)
            else:
                reps = represent(passes, batch, batch_size, chosen, memory)
                grams.update((row, r["euclidean"] and r["euclidean"].gram)
                             for row, r in enumerate(reps))
            for row, k in grams.items():
                energy[row] = energy.get(row, 0) + (np.nan if k is None else k.trace().item())
            rows = {kernel: centred(kernel, grams, base, sigma, scale, clamp, estimator)
                    for kernel in sums}
            for kernel, groups in sums.items():  # batch i adds to group i modulo GROUPS
                products = g.inner_products(rows[kernel])
                if info["batches"] < GROUPS:
                    groups.append(products)
                else:
                    groups[info["batches"] % GROUPS] += products
            info["samples"] += len(batch[0])
            info["batches"] += 1
            info["batch_sizes"] = sorted({*info["batch_sizes"], len(batch[0])})
    result.layers = passes.layers()
    result.groups = {name: np.stack(sums[kernel]) for name, kernel in kernels.items()}
    if probe is not None:
        stacks = {name: rows[kernel] for name, kernel in kernels.items()}
        values = whole_set(result, reps, chosen, stacks, null, seed)
    result.values = {name: values[name] if m.kernel is None
                     else result.from_sums(name, result.groups[name].sum(0))
                     for name, m in chosen.items()}
    info["correspondence"] = samples.correspondence
    info["sigma"] = {layer.label: sigma[layer.row] for layer in result.layers if layer.row in sigma}
    result.reasons = passes.reasons()
    for layer in result.layers:
        for name, value in result.values.items():
            if layer.label not in result.reasons and np.isnan(value[layer.row]).all():
                result.reasons[f"{layer.label} ({name})" if energy[layer.row] > 0 else layer.label] = (
                    "constant: its features do not differ between the samples"
                    if energy[layer.row] == 0 else "NaN or infinite features"
                    if np.isnan(energy[layer.row]) else
                    "nothing is left of it beside the confounder" if name == "deconfounded_cka"
                    else "its samples are all equally far apart")
    return result


def resolve(measures: Any, options: Mapping[str, dict]) -> dict[str, Measure]:
    """Names and functions of two matrices -> {name: Measure}."""
    out = {}
    for m in [measures] if isinstance(measures, str) or callable(measures) else measures:
        if callable(m):
            out[m.__name__] = Measure("measure", (0, 1), features=True, symmetric=False,
                                      pair=lambda a, b, m=m: float(m(a.features, b.features)))
        else:
            out[m] = MEASURES[one_of(m, MEASURES, "measures")]
    for name, given in options.items():
        m = out[one_of(name, out, "options")]
        known = KERNEL_OPTIONS[m.kernel] if m.kernel else \
            list(inspect.signature(m.pair or m.rows).parameters)[2 if m.pair else 1:]
        for option in given:
            one_of(option, known, f"option of {name}")
    return out


def confounding(source: Any, x: Tensor, start: int) -> Tensor:
    """[n, n] Gram of what is to be regressed out of the n samples x, which begin at `start`."""
    n = len(x)
    z = source[start:start + n] if isinstance(source, Tensor) else source(x) if source else x
    if len(z) != n:
        raise ValueError(f"confounder: {len(z)} rows for the {n} samples from {start} on")
    gram = g.centred_gram(z.float().reshape(n, -1))
    if not gram.trace() > 0:
        raise ValueError(f"the confounder is constant or NaN in the {n} samples from {start} on")
    return gram


def centred(kernel: str, grams: dict[int, Tensor | None], base: Tensor | None,
            sigma: dict[int, float], scale: float, clamp: bool, estimator: str) -> list[Tensor]:
    """Rows [n, n] of one batch by layer, the confounder's last; RBF's widths are fixed once."""
    where = next((k for k in grams.values() if k is not None), torch.empty(0))
    size = len(where)
    out = []
    for row, gram in [*sorted(grams.items()), *([] if base is None else [(-1, base)])]:
        gram = torch.full((size, size), torch.nan) if gram is None else gram
        if kernel == "rbf" and row not in sigma:
            sigma[row] = scale * g.median_distance(gram).item()
        k = g.kernel_row(kernel, gram, estimator == "debiased", sigma=sigma.get(row, 0),
                         confounder=base, clamp=clamp)
        if estimator == "published":  # unit rows: the sum is then the sum of the ratios
            k /= k.norm().clamp(min=torch.finfo(k.dtype).tiny)
        out.append(k.to(where.device))  # models may live on several devices
    return out


def first(samples: Samples, count: int) -> list[Tensor]:
    """The first `count` samples of each stream as one batch."""
    held: list[list[Tensor]] = []
    for batch in samples:
        held.append(batch)
        if sum(len(b[0]) for b in held) >= count:
            break
    return [torch.cat(parts)[:count] for parts in zip(*held, strict=True)]


def represent(passes: Pass, batch: list[Tensor], batch_size: int, chosen: dict[str, Measure],
              memory: int) -> Reps:
    """{metric: Representation} of each row: Grams of all samples, features where needed."""
    parts = [list(part) for part in zip(*(x.split(batch_size) for x in batch), strict=True)]
    passes(parts[0], lambda row, features: None)  # shapes first: they decide what fits
    metrics = {m.metric for m in chosen.values()} | {"euclidean"}
    keep = any(m.features for m in chosen.values())
    decompose = any(m.pair and m.kind != "measure" for m in chosen.values())
    sizes = [4 * len(batch[0]) * size for *_, size in passes.rows.values()]
    if (need := sum(sizes) if keep else max(sizes)) > memory:
        raise ValueError(f"the features of {len(batch[0])} samples take {need >> 20} MB at once, "
                         f"memory allows {memory >> 20}: pool them, probe fewer, or raise memory=")
    reps: Reps = []
    home: torch.device | None = None
    while len(reps) < len(sizes):  # as many layers as memory allows, the rest in another round
        totals = itertools.accumulate(sizes[len(reps):])
        group = range(len(reps), len(reps) + sum(total <= memory for total in totals))
        held: dict[int, list[Tensor | None]] = {row: [] for row in group}

        def sink(row: int, x: Tensor | None, held: dict = held) -> None:
            if row in held:  # a copy: a later in-place edit must not reach it
                held[row].append(None if x is None else x.flatten(1).clone())

        for part in parts:
            passes(part, sink)
        for row in group:
            pieces = held.pop(row)
            if any(p is None or not p.isfinite().all() for p in pieces):
                reps.append(dict.fromkeys(metrics))
                continue
            x = torch.cat(pieces)
            # All meet on one device, which must have float64.
            home = home or torch.device("cpu" if x.device.type == "mps" else x.device)
            reps.append({m: Representation.compact(normalised_rows(x.to(home), m), keep, decompose)
                         for m in metrics})
    return reps


def whole_set(result: Result, reps: Reps, chosen: dict[str, Measure],
              stacks: dict[str, list[Tensor]], null: int, seed: int) -> dict[str, np.ndarray]:
    """Values [T, T] of the measures that are no sums; null distributions [P, T, T] of all."""
    rows_of = [[layer.row for layer in result.of(model)] for model in result.models]
    blocks = list(itertools.combinations(rows_of, 2)) or [(rows_of[0], rows_of[0])]
    pairs = {(min(p), max(p)) for a, b in blocks for p in itertools.product(a, b)}
    pairs |= {(row, row) for row in range(len(reps))}
    generator = torch.Generator().manual_seed(seed)
    n, values = result.info["samples"], {}
    orders = [torch.randperm(n, generator=generator) for _ in range(null)]
    for name, m in chosen.items():
        own, kwargs = [rep[m.metric] for rep in reps], result.info["options"].get(name, {})
        if m.pair:
            found = [pairwise(m, own, pairs, kwargs, order) for order in [None, *orders]]
        else:  # cosines of rows
            rows = stacks[name] if m.kernel else [
                m.rows(r, **kwargs) if r else torch.full((n, n), torch.nan) for r in own]
            if name == "deconfounded_cka" and not result.info["by_batch"]:
                rows = [g.residual(row, rows[-1]) for row in rows]
            rows = rows[:len(reps)]
            found = [g.cosine(g.inner_products(rows + [row[order][:, order] for row in rows]))
                     [:len(rows), len(rows):] for order in [torch.arange(n), *orders]]
        values[name] = found[0]
        if null:
            result.nulls[name] = np.stack(found[1:])
    return values


def pairwise(m: Measure, reps: list[Representation | None], pairs: set[tuple[int, int]],
             kwargs: dict, order: Tensor | None) -> np.ndarray:
    """[T, T] of a measure of two Representations, the second one's samples in another order."""
    out = np.full((len(reps), len(reps)), np.nan)
    reps = [r if r and r.energy > 0 else None for r in reps]
    moved = [r.permuted(order) if r and order is not None else r for r in reps]
    for i, j in pairs:
        if reps[i] and reps[j]:
            out[i, j] = m.pair(reps[i], moved[j], **kwargs)
            out[j, i] = out[i, j] if m.symmetric else m.pair(reps[j], moved[i], **kwargs)
    return out
