"""What a comparison gives back: values with the names, shapes and settings they belong to."""

import html
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..layers import one_of
from . import gram as g


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
        model = self.models[default] if model is None else one_of(model, self.models, "model")
        return [layer for layer in self.layers if layer.model == model]

    def measure(self, name: str | None = None) -> str:
        """The name of a measure that was computed; None is the first."""
        return next(iter(self.values)) if name is None else one_of(name, self.values, "measure")

    def _cut(self, array: np.ndarray, a: str | None, b: str | None) -> np.ndarray:
        rows, cols = ([layer.row for layer in self.of(*m)] for m in ((a, 0), (b, -1)))
        return array[..., np.array(rows)[:, None], np.array(cols)]

    def block(
        self, a: str | None = None, b: str | None = None, measure: str | None = None
    ) -> np.ndarray:
        """[layers of a, layers of b] of one measure; by default first model, last model, first."""
        measure, ends = self.measure(measure), (a or self.models[0], b or self.models[-1])
        if measure in self.info["across"] and ends[0] == ends[1]:
            raise ValueError(
                f"{measure} was computed across models only: compare {ends[0]!r} alone"
            )
        return self._cut(self.values[measure], a, b)

    @property
    def matrix(self) -> np.ndarray:
        """The first measure, [layers of the first model, layers of the last model]."""
        return self.block()

    def from_sums(self, measure: str, sums: np.ndarray) -> np.ndarray:
        """Sums over batches, the confounder's row last if there is one -> values [T, T]."""
        cka = g.cosine(sums)
        if measure == "deconfounded_cka" and not self.info["by_batch"]:
            return g.partial(cka)
        return cka[:-1, :-1] if self.info["confounder"] else cka

    def interval(
        self,
        a: str | None = None,
        b: str | None = None,
        measure: str | None = None,
        *,
        level: float = 0.95,
        resamples: int = 1000,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Percentile interval (low, high) of `block` by resampling batches with replacement.

        ValueError with fewer than 10 batches, and for measures that are not sums over batches.
        """
        measure = self.measure(measure)
        if self.info["batches"] < 10 or measure not in self.groups:
            raise ValueError(
                f"an interval of {measure} by resampling needs at least 10 batches "
                f"and a measure of the CKA family; there are {self.info['batches']} "
                f"({self.info['mode']}): use a smaller batch_size"
            )
        groups = self.groups[measure]
        weights = np.random.default_rng(0).multinomial(
            len(groups), np.full(len(groups), 1 / len(groups)), resamples
        )
        drawn = [
            self._cut(self.from_sums(measure, np.tensordot(w, groups, 1)), a, b) for w in weights
        ]
        return tuple(np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0))

    def p_values(
        self, a: str | None = None, b: str | None = None, measure: str | None = None
    ) -> np.ndarray:
        """Share of permutations at least as alike as the samples in their order, (1+k)/(1+P)."""
        measure = self.measure(measure)
        if measure not in self.nulls:
            raise ValueError(f"no null distribution of {measure}: compare(..., probe=N, null=100)")
        null, seen = self._cut(self.nulls[measure], a, b), self.block(a, b, measure)
        beats = null <= seen if self.info["kinds"][measure] == "distance" else null >= seen
        return np.where(np.isnan(seen), np.nan, (1 + beats.sum(0)) / (1 + len(null)))

    def overview(self, layer: str | int = -1, measure: str | None = None) -> np.ndarray:
        """[models, models] at one layer, by name or by place from the start or the end."""
        picks = []
        for model in self.models:
            rows = {own.name: own.row for own in self.of(model)}
            names = list(rows)
            picks.append(
                rows[
                    names[layer]
                    if isinstance(layer, int)
                    else one_of(layer, names, f"layer of {model}")
                ]
            )
        return self.values[self.measure(measure)][np.ix_(picks, picks)]

    def to_frame(self, measure: str | None = None, *, tidy: bool = False) -> Any:
        """pandas: the matrix with layer names, or (tidy) a line per cell of all pairs of models."""
        import pandas as pd

        if not tidy:
            return pd.DataFrame(
                self.block(measure=measure),
                index=[o.name for o in self.of(None)],
                columns=[o.name for o in self.of(None, -1)],
            )
        return pd.DataFrame(
            [
                {
                    "measure": name,
                    "model_1": a.model,
                    "layer_1": a.name,
                    "model_2": b.model,
                    "layer_2": b.name,
                    "value": value[a.row, b.row],
                }
                for name, value in self.values.items()
                for a in self.layers
                for b in self.layers
            ]
        )

    def plot(self, kind: str = "matrix", *, ax: Any = None, **options: Any) -> Any:
        """Draw "matrix" (layers x layers), "depth" (a curve) or "overview" (models x models).

        Options go to the functions of the same names in `figures`. Returns the Axes.
        """
        from . import figures

        kind = one_of(kind, ("matrix", "depth", "overview"), "kind")
        return getattr(figures, kind)(self, ax=ax, **options)

    def save(self, path: str | Path) -> Path:
        """Write one .npz of arrays and JSON, without pickle, to a temporary name first."""
        path = Path(path)
        meta = asdict(self)
        arrays = {
            f"{kind}:{name}": array
            for kind in ("values", "groups", "nulls")
            for name, array in meta.pop(kind).items()
        }
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with open(temporary, "wb") as file:
            np.savez_compressed(file, meta=np.array(json.dumps(meta, default=str)), **arrays)
        return temporary.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> "Result":
        """Read what `save` wrote; nothing in the file can run code."""
        with np.load(path, allow_pickle=False) as file:
            meta = json.loads(str(file["meta"])) | {"values": {}, "groups": {}, "nulls": {}}
            for kind, name in (key.split(":") for key in file.files if ":" in key):
                meta[kind][name] = file[f"{kind}:{name}"]
        meta["layers"] = [Layer(*o[:3], tuple(o[3]), *o[4:]) for o in meta["layers"]]
        return cls(**meta)

    def __repr__(self) -> str:
        i = self.info
        return (
            f"<Result: {', '.join(self.values)} of {' x '.join(self.models)}; {i['samples']} "
            f"samples, {i['batches']} batches of {'/'.join(map(str, i['batch_sizes']))} "
            f"({i['mode']}), {i['estimator']} CKA, pooling "
            f"{'/'.join(sorted({str(p) for p in i['pool'].values()}))}, correspondence: "
            f"{i['correspondence']}>"
        )

    def _repr_html_(self) -> str:
        name = self.measure()
        said = html.escape(
            f"{self!r} {name} ({self.info['kinds'][name]}), rows {self.models[0]}, "
            f"columns {self.models[-1]}"
        )
        table = self.to_frame().to_html(max_rows=12, max_cols=10, float_format="{:.2f}".format)
        why = "".join(
            f"<li>{html.escape(k)}: {html.escape(v)}</li>"
            for k, v in list(self.reasons.items())[:8]
        )
        return f"<p>{said}</p>{table}<ul>{why}</ul>"
