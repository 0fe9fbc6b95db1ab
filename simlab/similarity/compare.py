"""compare(models, data): every layer of some models against every other, from one pass."""

import contextlib
import difflib
import inspect
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import gram as g
from .measures import MEASURES, Measure, Representation, normalised_rows
from .passes import Pass, named_models, per_model
from .result import Result
from .samples import Samples

KERNEL_OPTIONS = {"linear": (), "rbf": ("scale",), "residual": ("clamp",)}
ESTIMATORS = ("debiased", "biased", "published")
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
    probe: take the first `probe` samples as one set instead of a stream of batches. All measures
        but the CKA family need it.
    null: number of permutations of the samples for a null distribution; needs `probe`.
    confounder: of deconfounded_cka: f(pictures) -> [n, ...], or a tensor [N, ...] in the order of
        the data; None for the pictures (of the first model's stream).
    options: {measure: its keywords}, such as {"mutual_knn": {"k": 5}}, {"rbf_cka": {"scale": .5}},
        {"deconfounded_cka": {"clamp": True}}.
    batch_size: where tensors are cut. device: where to run; None leaves the models where they are.
    pick: f(layer name, output) -> tensor [n, ...], for outputs that are no plain tensor.
    memory: bytes of features a probe may hold at once; more layers take more forward passes.

    Undefined cells are NaN, with the reason in `result.reasons`. ValueError and TypeError name
    what does not fit: unknown layers or measures, samples that do not correspond or are NaN.
    """
    models, options = named_models(models), dict(options or {})
    chosen = resolve(measures, options)
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator={estimator!r}: expected one of {', '.join(ESTIMATORS)}")
    whole = [name for name, m in chosen.items() if m.kernel is None] + ["null"] * bool(null)
    if probe is None and whole:
        raise ValueError(f"{', '.join(whole)}: needs all samples at once; pass probe=1024 to take "
                         "the first 1024 as one set")
    clamp = options.get("deconfounded_cka", {}).get("clamp", False)
    # Otherwise dCKA of summed batches follows from CKA and the confounder's own row.
    by_batch = clamp or estimator == "published"
    kernels = {name: "linear" if m.kernel == "residual" and not by_batch else m.kernel
               for name, m in chosen.items() if m.kernel}
    rows = g.Rows(set(kernels.values()), estimator,
                  options.get("rbf_cka", {}).get("scale", 1.0), clamp)
    samples = Samples(data, len(models), batch_size)
    passes = Pass(models, layers, len(samples.sources), pool, ordered=probe is not None)
    confound = Confounder(confounder) if "deconfounded_cka" in chosen else None
    values: dict[str, np.ndarray] = {}
    nulls: dict[str, np.ndarray] = {}
    sizes: list[int] = []
    with contextlib.ExitStack() as stack:
        passes.open(stack, device, pick)
        for batch in samples if probe is None else [first(samples, probe)]:
            sizes.append(len(batch[0]))
            rows.open(sizes[-1], confound(batch) if confound else None)
            if probe is None:  # features live only in the hook
                passes(batch, lambda row, x: rows.add(row, None if x is None
                                                      else g.centred_gram(x)))
                rows.close()
                continue
            reps = represent(passes, batch, batch_size, chosen, memory)
            for row, rep in enumerate(reps):
                rows.add(row, rep["euclidean"] and rep["euclidean"].gram)
            rows.close()
            values, nulls = whole_set(reps, passes, chosen, options, rows, kernels, null, seed)
    totals = rows.totals()
    for name, kernel in kernels.items():
        values[name] = g.from_sums(totals[kernel], confound is not None,
                                   name == "deconfounded_cka" and not by_batch)
    result = Result(
        models=list(models), layers=passes.layers(), nulls=nulls,
        values={name: values[name] for name in chosen},
        groups={name: np.stack(rows.sums[kernel].groups) for name, kernel in kernels.items()},
        info={"samples": sum(sizes), "batches": len(sizes), "batch_sizes": sorted(set(sizes)),
              "estimator": estimator, "mode": "stream" if probe is None else "probe",
              "pool": {name: getattr(p := per_model(pool, name, models, "pool"), "__name__", p)
                       for name in models},
              "kinds": {name: m.kind for name, m in chosen.items()},
              "limits": {name: list(m.limits) for name, m in chosen.items()},
              "options": options, "confounder": confound.name if confound else None,
              # Costly pairs within a model are left out where there are several.
              "across": [n for n, m in chosen.items() if m.pair and len(models) > 1],
              "by_batch": by_batch, "correspondence": samples.correspondence})
    result.info["sigma"] = {layer.label: rows.sigma[layer.row] for layer in result.layers
                            if layer.row in rows.sigma}
    result.reasons = reasons(result, passes, totals)
    return result


def resolve(measures: Any, options: Mapping[str, dict]) -> dict[str, Measure]:
    """Names and functions of two matrices -> {name: Measure}."""
    out = {}
    for m in [measures] if isinstance(measures, str) or callable(measures) else measures:
        if callable(m):
            out[m.__name__] = Measure("measure", (0, 1), features=True, symmetric=False,
                                      pair=lambda a, b, m=m: float(m(a.features, b.features)))
        elif m in MEASURES:
            out[m] = MEASURES[m]
        else:
            near = difflib.get_close_matches(str(m), MEASURES, n=1, cutoff=0.3)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"measure {m!r} is unknown.{hint} Known: {', '.join(MEASURES)}, or a "
                             "function of two matrices")
    for name, given in options.items():
        if name not in out:
            raise ValueError(f"options for {name!r}, which is not among the measures")
        m = out[name]
        known = list(KERNEL_OPTIONS[m.kernel]) if m.kernel else \
            list(inspect.signature(m.pair or m.rows).parameters)[2 if m.pair else 1:]
        if wrong := set(given) - set(known):
            raise ValueError(f"{name} has no option {wrong.pop()!r}; it has: {known or 'none'}")
    return out


class Confounder:
    """Gram of what is to be regressed out, batch by batch."""

    def __init__(self, source: Tensor | Callable[[Tensor], Tensor] | None) -> None:
        self.source, self.start = source, 0
        self.name = "pictures" if source is None else getattr(source, "__name__", "given")

    def __call__(self, batch: list[Tensor]) -> Tensor:
        x, n = batch[0], len(batch[0])
        if isinstance(self.source, Tensor):
            x = self.source[self.start:self.start + n]
        elif self.source is not None:
            x = self.source(x)
        if len(x) != n:
            raise ValueError(f"confounder: {len(x)} rows for the {n} samples from {self.start} on")
        gram = g.centred_gram(x.float().reshape(n, -1))
        if not gram.trace() > 0:
            raise ValueError(f"the confounder is constant or NaN in the {n} samples from "
                             f"{self.start} on")
        self.start += n
        return gram


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
    sizes = [4 * len(batch[0]) * size for *_, size in passes.info]
    if (need := sum(sizes) if keep else max(sizes)) > memory:
        raise ValueError(f"the features of {len(batch[0])} samples take {need >> 20} MB at once, "
                         f"memory allows {memory >> 20}: pool them, probe fewer, or raise memory=")
    reps: Reps = []
    home: torch.device | None = None
    while len(reps) < len(sizes):  # as many layers as memory allows, the rest in another round
        totals = itertools.accumulate(sizes[len(reps):])
        group = range(len(reps), len(reps) + sum(total <= memory for total in totals))
        held: dict[int, list[Tensor | None]] = {row: [] for row in group}

        def sink(row: int, features: Tensor | None, held: dict = held) -> None:
            if row in held:  # a copy: a later in-place edit must not reach it
                held[row].append(None if features is None else features.clone())

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
            reps.append({metric: representation(normalised_rows(x.to(home), metric), keep,
                                                decompose) for metric in metrics})
    return reps


def representation(x: Tensor, keep: bool, decompose: bool) -> Representation:
    """[n, d] -> what is kept of it: a Gram, made and decomposed in float64, held in float32."""
    rep = Representation.from_gram(g.centred_gram(x, torch.float64))
    if decompose:
        rep.basis = rep.basis[0].float(), rep.basis[1].float()
    rep.gram = rep.gram.float()
    rep.features = Representation(x).features.float() if keep else None
    return rep


def whole_set(reps: Reps, passes: Pass, chosen: dict[str, Measure], options: dict, made: g.Rows,
              kernels: dict[str, str], null: int, seed: int) -> tuple[dict, dict]:
    """Values [T, T] of the measures that are no sums, and null distributions [P, T, T] of all."""
    owned: dict[str, list[int]] = {}
    for layer in passes.layers():
        owned.setdefault(layer.model, []).append(layer.row)
    blocks = list(itertools.combinations(owned.values(), 2)) or [(*owned.values(),) * 2]
    pairs = {(min(p), max(p)) for a, b in blocks for p in itertools.product(a, b)}
    pairs |= {(row, row) for row in range(len(reps))}
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(made.samples, generator=generator) for _ in range(null)]
    values, nulls = {}, {}
    for name, m in chosen.items():
        own, kwargs = [rep[m.metric] for rep in reps], options.get(name, {})
        if m.pair:
            values[name] = pairwise(m, own, pairs, kwargs, None)
            found = [pairwise(m, own, pairs, kwargs, order) for order in orders]
        else:  # cosines of rows
            if m.rows:
                empty = torch.full((made.samples,) * 2, torch.nan)
                rows = [m.rows(r, **kwargs) if r else empty for r in own]
                values[name] = g.cosine(g.inner_products(rows))
            else:
                rows = made.stacks[kernels[name]][:len(reps)]
            if name == "deconfounded_cka" and kernels[name] == "linear":
                base = made.stacks["linear"][-1]
                rows = [r - (r * base).sum() / (base * base).sum() * base for r in rows]
            found = []
            for order in orders:
                moved = [row[order][:, order] for row in rows]
                found.append(g.cosine(g.inner_products(rows + moved))[:len(rows), len(rows):])
        if found:
            nulls[name] = np.stack(found)
    return values, nulls


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


def reasons(result: Result, passes: Pass, totals: dict[str, np.ndarray]) -> dict[str, str]:
    """By "model/layer": why a layer's cells are NaN, or why it has no row."""
    out = passes.reasons()
    own = [np.diagonal(total) for total in totals.values()]
    for layer in result.layers:
        for name, value in result.values.items():
            if layer.label in out or not np.isnan(value[layer.row]).all():
                continue
            if any(np.isnan(d[layer.row]) for d in own):
                out[layer.label] = "NaN or infinite features"
            elif name == "deconfounded_cka" and all(d[layer.row] > 0 for d in own):
                out[f"{layer.label} ({name})"] = "nothing is left of it beside the confounder"
            else:
                out[layer.label] = "constant: its features do not differ between the samples"
    return out
