"""What a comparison gives back: values with the names, shapes and settings they belong to."""

import html
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..layers import one_of
from . import gram, storage, tables
from .info import Info, Layer
from .intervals import MIN_GROUPS, interval_of, sums_without_each

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

NULL_ROUNDING = 1e-6  # null values are sums in float32: closer ones are as alike
MAX_REASONS = 8  # in the table of a notebook


@dataclass
class Result:
    """Values of all measures for all layers.

    Arrays have one row for each layer, `Layer.row`; T is the number of rows.

    Attributes:
        models: their names.
        layers: of all models, in order of execution.
        values: {measure: [T, T]}.
        info: how it was made.
        group_sums: {measure of the CKA family: [G, T, T]}, sums over groups of batches.
        nulls: {measure: [P, T, T]}, with the samples permuted.
        without: {measure that is `jackknifed`: [G, T, T]}, without one of G groups of samples each.
        halves: {measure: [R, 2, T, T]}, of both halves of R random cuts of the samples.
        reasons: {"model/layer": why its values are NaN, or why it has no row}.
        left_out: {"model/layer": why `layers=None` did not choose it}.
    """

    models: list[str]
    layers: list[Layer]
    values: dict[str, np.ndarray]
    info: Info
    group_sums: dict[str, np.ndarray] = field(default_factory=dict)
    nulls: dict[str, np.ndarray] = field(default_factory=dict)
    without: dict[str, np.ndarray] = field(default_factory=dict)
    halves: dict[str, np.ndarray] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def layers_of(self, model: str) -> list[Layer]:
        """The layers of one model, in order of execution."""
        one_of(model, self.models, "model")
        return [layer for layer in self.layers if layer.model == model]

    def measure_name(self, measure: str | None = None) -> str:
        """The name of a measure that was computed; None is the first."""
        if measure is None:
            return next(iter(self.values))
        return one_of(measure, self.values, "measure")

    @property
    def matrix(self) -> np.ndarray:
        """The first measure, [layers of the first model, layers of the last model]."""
        return self.block()

    def block(
        self, a: str | None = None, b: str | None = None, measure: str | None = None
    ) -> np.ndarray:
        """Look up one measure of two models' layers.

        Args:
            a: a model; by default the first.
            b: a model; by default the last.
            measure: by default the first.

        Returns:
            [layers of a, layers of b].

        Raises:
            ValueError: an unknown name, or a pair that was left out.
        """
        measure = self.measure_name(measure)
        a = self.models[0] if a is None else a
        b = self.models[-1] if b is None else b
        if measure in self.info.across and a == b:
            raise ValueError(f"{measure} was computed across models only: compare {a!r} alone")
        return self._block_of(self.values[measure], a, b)

    def _block_of(self, array: np.ndarray, a: str, b: str) -> np.ndarray:
        """[..., T, T] -> [..., layers of a, layers of b]."""
        rows = np.array([layer.row for layer in self.layers_of(a)])
        columns = np.array([layer.row for layer in self.layers_of(b)])
        return array[..., rows[:, None], columns]

    def values_from_sums(self, measure: str, sums: np.ndarray) -> np.ndarray:
        """Turn sums over batches into values of the CKA family.

        Args:
            measure: its name.
            sums: [T, T]; with a confounder [T+1, T+1], where it is the last row.

        Returns:
            [T, T].
        """
        cka = gram.cosine(sums)
        if measure == "deconfounded_cka" and not self.info.residual_by_batch:
            return gram.deconfounded(cka)
        return cka if self.info.confounder is None else cka[:-1, :-1]

    def has_interval(self, measure: str) -> bool:
        """Whether `interval` can be had: with resamples=, or CKA and its like of ten batches."""
        return measure in self.halves or (
            measure in self.group_sums and self.info.batches >= MIN_GROUPS
        )

    def interval(
        self,
        a: str | None = None,
        b: str | None = None,
        measure: str | None = None,
        *,
        level: float = 0.95,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Compute an interval of `block` from parts of the samples; see `intervals`.

        Args:
            a: as b and measure, see `block`.
            b: see there.
            measure: see there.
            level: how often such intervals hold the true value.

        Returns:
            The lower and the upper ends, [layers of a, layers of b] each.

        Raises:
            ValueError: one set without `resamples`, or fewer than ten batches.
        """
        measure = self.measure_name(measure)
        if not self.has_interval(measure):
            raise ValueError(
                f"no interval of {measure}: compare(..., samples=N, resamples=20), or for the CKA "
                f"family a pass over at least {MIN_GROUPS} batches (there are {self.info.batches}, "
                f"{self.info.mode})"
            )
        value = self.values[measure]
        without = self.without.get(measure)
        if measure not in self.halves:
            sums = sums_without_each(self.group_sums[measure])
            without = np.stack([self.values_from_sums(measure, rest) for rest in sums])
        is_correlation = measure in self.info.correlations
        low, high = interval_of(value, without, self.halves.get(measure), level, is_correlation)
        ends = self.info.limits[measure]
        if ends is not None and self.info.kinds[measure] != "measure":
            high = np.minimum(high, ends[1])
            low = np.maximum(low, ends[0]) if self.is_distance(measure) else low
        a = self.models[0] if a is None else a
        b = self.models[-1] if b is None else b
        return self._block_of(low, a, b), self._block_of(high, a, b)

    def p_values(
        self, a: str | None = None, b: str | None = None, measure: str | None = None
    ) -> np.ndarray:
        """Compute p-values from the null distribution: (1 + k) / (1 + P).

        k of the P permutations are at least as alike as the samples in their order.

        Args:
            a: see `block`.
            b: see `block`.
            measure: see `block`.

        Returns:
            [layers of a, layers of b].

        Raises:
            ValueError: the comparison was made without a null distribution.
        """
        measure = self.measure_name(measure)
        if measure not in self.nulls:
            raise ValueError(
                f"no null distribution of {measure}: compare(..., samples=N, null=100)"
            )
        value = self.block(a, b, measure)
        null = self._block_of(
            self.nulls[measure],
            self.models[0] if a is None else a,
            self.models[-1] if b is None else b,
        )
        if self.is_distance(measure):
            at_least_as_alike = null <= value + NULL_ROUNDING
        else:
            at_least_as_alike = null >= value - NULL_ROUNDING
        p = (1 + at_least_as_alike.sum(0)) / (1 + len(null))
        return np.where(np.isnan(value), np.nan, p)

    def is_distance(self, measure: str) -> bool:
        """Whether smaller values mean more alike.

        Raises:
            ValueError: nobody has said so of a user's function.
        """
        if self.info.kinds[measure] == "measure":
            raise ValueError(
                f"is {measure!r} a similarity or a distance? Say so where it is computed: "
                'Measure(function, kind="distance")'
            )
        return self.info.kinds[measure] == "distance"

    def limits_of(self, measure: str) -> tuple[float, float]:
        """Ends of a measure's colour scale: its own, or else those of all values."""
        limits = self.info.limits[measure]
        if limits is not None:
            return limits
        values = self.values[measure]
        finite = values[np.isfinite(values)]
        if not len(finite):
            return 0, 1
        return float(finite.min()), float(finite.max())

    def overview(self, layer: str | int = -1, measure: str | None = None) -> np.ndarray:
        """Look up one measure of all models at one layer.

        Args:
            layer: its name, or its index from the first (0) or the last (-1) of each model.
            measure: by default the first.

        Returns:
            [models, models].

        Raises:
            ValueError: a model has no such layer.
        """
        rows = []
        for model in self.models:
            layers = self.layers_of(model)
            if isinstance(layer, int):
                index = layer
            else:
                names = [candidate.name for candidate in layers]
                index = names.index(one_of(layer, names, f"layer of {model}"))
            if not -len(layers) <= index < len(layers):
                raise ValueError(f"layer={layer}: {model} has {len(layers)} layers")
            rows.append(layers[index].row)
        return self.values[self.measure_name(measure)][np.ix_(rows, rows)]

    def to_frame(self, measure: str | None = None, *, tidy: bool = False) -> "pd.DataFrame":
        """Make a table.

        Args:
            measure: by default the first; all of them where `tidy`.
            tidy: one line for each measure and pair of layers of all models, see `tables.tidy`.

        Returns:
            The matrix with the layers' names, or the tidy table.
        """
        import pandas as pd

        if not tidy:
            return pd.DataFrame(
                self.block(measure=measure),
                index=[layer.name for layer in self.layers_of(self.models[0])],
                columns=[layer.name for layer in self.layers_of(self.models[-1])],
            )
        return tables.tidy(self)

    def plot(
        self,
        kind: str = "matrix",
        *,
        ax: "Axes | None" = None,
        title: str | None = None,
        save: str | Path | None = None,
        **options: Any,
    ) -> "Axes":
        """Draw the values.

        Args:
            kind: "matrix" (layers by layers), "depth" (a curve) or "overview" (models by models).
            ax: where to draw; None makes a new figure.
            title: in the place of the figure's own.
            save: a file for the whole figure, of a kind that matplotlib knows.
            **options: of the function of that name in `figures`.

        Returns:
            The axes drawn on.
        """
        from . import figures

        draw: dict[str, Callable[..., Axes]]
        draw = {"matrix": figures.matrix, "depth": figures.depth, "overview": figures.overview}
        ax = draw[one_of(kind, draw, "kind")](self, ax=ax, **options)
        if title is not None:
            ax.set_title(title)
        if save is not None:
            figures.save(ax, save)
        return ax

    def save(self, path: str | Path) -> Path:
        """Write one .npz of arrays and JSON, without pickle, to a temporary name first."""
        meta = asdict(self)
        arrays = {kind: meta.pop(kind) for kind in storage.ARRAYS}
        return storage.save(Path(path), meta, arrays)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote; nothing in the file can run code.

        Raises:
            ValueError: it is no saved Result.
        """
        return cls(**storage.load(Path(path)))

    def __repr__(self) -> str:
        info = self.info
        sizes = "/".join(map(str, info.batch_sizes))
        pools = "/".join(sorted(set(info.pool.values())))
        return (
            f"<Result: {', '.join(self.values)} of {' x '.join(self.models)}; "
            f"{info.samples} samples, {info.batches} batches of {sizes} ({info.mode}), "
            f"{info.estimator} CKA, pooling {pools}, correspondence: {info.correspondence}, "
            f"inputs: {info.inputs or 'unknown'}{self._words_of_missing()}>"
        )

    def _words_of_missing(self) -> str:
        """How many layers have no values, and how many modules were not chosen."""
        words = ""
        if self.reasons:
            words += f"; {len(self.reasons)} without values (result.reasons)"
        if self.left_out:
            words += f"; {len(self.left_out)} modules left out (result.left_out)"
        return words

    def _repr_html_(self) -> str:
        measure = self.measure_name()
        caption = html.escape(
            f"{self!r} {measure} ({self.info.kinds[measure]}), rows {self.models[0]}, "
            f"columns {self.models[-1]}"
        )
        table = self.to_frame().to_html(max_rows=12, max_cols=10, float_format="{:.2f}".format)
        reasons = ""
        for label, reason in list(self.reasons.items())[:MAX_REASONS]:
            reasons += f"<li>{html.escape(label)}: {html.escape(reason)}</li>"
        more = len(self.reasons) - MAX_REASONS
        if more > 0:
            reasons += f"<li>and {more} more in reasons</li>"
        return f"<p>{caption}</p>{table}<ul>{reasons}</ul>"
