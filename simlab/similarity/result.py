"""What a comparison gives back: values with the names, shapes and settings they belong to."""

import html
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .gram import from_sums


class Layer(NamedTuple):
    """One layer of one model; `shape` and `size` (after pooling) are per sample."""

    model: str
    name: str
    type: str
    shape: tuple[int, ...]
    size: int
    row: int  # in the arrays: a model that is given twice has its rows once

    @property
    def label(self) -> str:
        return f"{self.model}/{self.name}"


@dataclass
class Result:
    """Values of all measures for all layers; `matrix` is the first model's by the last model's.

    `info` holds samples, batches, estimator, pool, sigma, confounder and correspondence; `reasons`
    says by layer why cells are NaN or a layer has no row. Arrays [T, T] are by `Layer.row`.
    """

    models: list[str]
    layers: list[Layer]
    values: dict[str, np.ndarray]
    info: dict[str, Any]
    groups: dict[str, np.ndarray] = field(default_factory=dict)  # [G, T, T] sums of some batches
    nulls: dict[str, np.ndarray] = field(default_factory=dict)  # [P, T, T] permuted samples
    reasons: dict[str, str] = field(default_factory=dict)

    def of(self, model: str | None, default: int = 0) -> list[Layer]:
        """The layers of one model; None is the first (or the `default`-th)."""
        model = self.models[default] if model is None else model
        if model not in self.models:
            raise ValueError(f"no model {model!r}: expected one of {', '.join(self.models)}")
        return [layer for layer in self.layers if layer.model == model]

    def _measure(self, measure: str | None) -> str:
        measure = next(iter(self.values)) if measure is None else measure
        if measure not in self.values:
            raise ValueError(f"no measure {measure!r}: expected one of {', '.join(self.values)}")
        return measure

    def _cut(self, array: np.ndarray, a: str | None, b: str | None) -> np.ndarray:
        rows, cols = ([layer.row for layer in self.of(*m)] for m in ((a, 0), (b, -1)))
        return array[..., np.array(rows)[:, None], np.array(cols)]

    def block(self, a: str | None = None, b: str | None = None,
              measure: str | None = None) -> np.ndarray:
        """[layers of a, layers of b] of one measure; by default first model, last model, first."""
        measure, ends = self._measure(measure), (a or self.models[0], b or self.models[-1])
        if measure in self.info["across"] and ends[0] == ends[1]:
            raise ValueError(f"{measure} was computed across models only: compare {ends[0]!r} alone")
        return self._cut(self.values[measure], a, b)

    @property
    def matrix(self) -> np.ndarray:
        """The first measure, [layers of the first model, layers of the last model]."""
        return self.block()

    def interval(self, a: str | None = None, b: str | None = None, measure: str | None = None, *,
                 level: float = 0.95, resamples: int = 1000,
                 seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Percentile interval (low, high) of `block` by resampling batches with replacement.

        ValueError with fewer than 10 batches, and for measures that are not sums over batches.
        """
        measure = self._measure(measure)
        if self.info["batches"] < 10 or measure not in self.groups:
            raise ValueError(f"an interval of {measure} by resampling needs at least 10 batches "
                             f"and a measure of the CKA family; there are {self.info['batches']} "
                             f"({self.info['mode']}): use a smaller batch_size")
        groups, draw = self.groups[measure], np.random.default_rng(seed)
        weights = draw.multinomial(len(groups), np.full(len(groups), 1 / len(groups)), resamples)
        drawn = [self._cut(self._finish(measure, np.tensordot(w, groups, 1)), a, b)
                 for w in weights]
        low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return low, high

    def _finish(self, measure: str, sums: np.ndarray) -> np.ndarray:
        deconfound = measure == "deconfounded_cka" and not self.info["by_batch"]
        return from_sums(sums, self.info["confounder"] is not None, deconfound)

    def p_values(self, a: str | None = None, b: str | None = None,
                 measure: str | None = None) -> np.ndarray:
        """Share of permutations at least as alike as the samples in their order, (1+k)/(1+P)."""
        measure = self._measure(measure)
        if measure not in self.nulls:
            raise ValueError(f"no null distribution of {measure}: compare(..., probe=N, null=100)")
        null, seen = self._cut(self.nulls[measure], a, b), self.block(a, b, measure)
        beats = null <= seen if self.info["kinds"][measure] == "distance" else null >= seen
        return np.where(np.isnan(seen), np.nan, (1 + beats.sum(0)) / (1 + len(null)))

    def overview(self, layer: str | int = -1, measure: str | None = None) -> np.ndarray:
        """[models, models] at one layer, by name or by place from the start or the end."""
        picks = []
        for model in self.models:
            own = self.of(model)
            found = [own[layer]] if isinstance(layer, int) else [o for o in own if o.name == layer]
            if not found:
                raise ValueError(f"model {model!r} has no layer {layer!r} in this result")
            picks.append(found[0].row)
        return self.values[self._measure(measure)][np.ix_(picks, picks)]

    def to_frame(self, measure: str | None = None, *, tidy: bool = False) -> Any:
        """pandas: the matrix with layer names, or (tidy) a line per cell of all pairs of models."""
        import pandas as pd

        if not tidy:
            return pd.DataFrame(self.block(measure=measure), index=[o.name for o in self.of(None)],
                                columns=[o.name for o in self.of(None, -1)])
        return pd.DataFrame([
            {"measure": name, "model_1": a.model, "layer_1": a.name, "model_2": b.model,
             "layer_2": b.name, "value": value[a.row, b.row]}
            for name, value in self.values.items() for a in self.layers for b in self.layers])

    def plot(self, kind: str = "matrix", *, ax: Any = None, **options: Any) -> Any:
        """Draw "matrix" (layers x layers), "depth" (a curve) or "overview" (models x models).

        Options go to the functions of the same names in `figures`. Returns the Axes.
        """
        from . import figures

        kinds = {"matrix": figures.matrix, "depth": figures.depth, "overview": figures.overview}
        if kind not in kinds:
            raise ValueError(f"kind={kind!r}: expected one of {', '.join(kinds)}")
        return kinds[kind](self, ax=ax, **options)

    def save(self, path: str | Path) -> Path:
        """Write one .npz of arrays and JSON, without pickle, to a temporary name first."""
        path = Path(path)
        meta = {k: v for k, v in asdict(self).items() if k not in ("values", "groups", "nulls")}
        arrays = {f"{kind}:{name}": array for kind in ("values", "groups", "nulls")
                  for name, array in getattr(self, kind).items()}
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with open(temporary, "wb") as file:
            np.savez_compressed(file, meta=np.array(json.dumps(meta, default=str)), **arrays)
        os.replace(temporary, path)
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Result":
        """Read what `save` wrote; nothing in the file can run code."""
        with np.load(path, allow_pickle=False) as file:
            meta = json.loads(str(file["meta"]))
            kinds: dict[str, dict[str, np.ndarray]] = {"values": {}, "groups": {}, "nulls": {}}
            for key in file.files:
                kind, _, name = key.partition(":")
                if kind in kinds:
                    kinds[kind][name] = file[key]
        meta["layers"] = [Layer(*o[:3], tuple(o[3]), *o[4:]) for o in meta["layers"]]
        return cls(**meta, **kinds)

    def summary(self) -> str:
        """One line: what was compared, on how much, how."""
        i = self.info
        sizes = "/".join(map(str, i["batch_sizes"]))
        return (f"{', '.join(self.values)} of {' x '.join(self.models)}; {i['samples']} samples, "
                f"{i['batches']} batches of {sizes} ({i['mode']}), {i['estimator']} CKA, pooling "
                f"{'/'.join(sorted({str(p) for p in i['pool'].values()}))}, correspondence: "
                f"{i['correspondence']}")

    def __repr__(self) -> str:
        return f"<Result: {self.summary()}>"

    def _repr_html_(self) -> str:
        name = self._measure(None)
        table = self.to_frame().to_html(max_rows=12, max_cols=10, float_format="{:.2f}".format)
        why = "".join(f"<li>{html.escape(k)}: {html.escape(v)}</li>"
                      for k, v in list(self.reasons.items())[:8])
        return (f"<p>{html.escape(self.summary())}</p><p><b>{html.escape(name)}</b> "
                f"({self.info['kinds'][name]}), rows {html.escape(self.models[0])}, columns "
                f"{html.escape(self.models[-1])}</p>{table}" + (f"<ul>{why}</ul>" if why else ""))
