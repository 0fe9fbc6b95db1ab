"""What `compare` is asked to compute."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from torch import Tensor

from ..layers import one_of
from .registry import Measure

Confounder = Tensor | Callable[[Tensor], Tensor]
ESTIMATORS = ("debiased", "biased", "published")


@dataclass(frozen=True)
class Plan:
    """The arguments of `compare` that say what is computed, checked.

    Attributes:
        measures: {name: measure}.
        options: {name of a measure: its keywords}.
        estimator: of the CKA family, see `compare`.
        confounder: of deconfounded_cka; None for the images.
        samples: take that many as one set; None for a stream of batches.
        null: number of permutations of the samples.
        resamples: number of groups of the samples that are left out in turn, for intervals.
    """

    measures: Mapping[str, Measure]
    options: Mapping[str, Mapping[str, Any]]
    estimator: str
    confounder: Confounder | None
    samples: int | None
    null: int
    resamples: int = 0

    def __post_init__(self) -> None:
        one_of(self.estimator, ESTIMATORS, "estimator")
        need_set = [name for name, measure in self.measures.items() if measure.kernel is None]
        if self.null:
            need_set.append("null")
        if self.resamples:
            need_set.append("resamples")
        if self.samples is None and need_set:
            raise ValueError(
                f"{', '.join(need_set)}: needs all samples at once; pass samples=1024 to take "
                "the first 1024 as one set"
            )

    def of_subset(self, index: Tensor) -> Self:
        """The same of some of the samples, at `index`, and of them alone."""
        confounder = self.confounder
        if isinstance(confounder, Tensor):
            confounder = confounder[index]
        return replace(self, confounder=confounder, null=0, resamples=0)

    def only(self, measures: Mapping[str, Measure]) -> Self:
        """The same of some of the measures."""
        return replace(self, measures=measures)

    def option(self, measure: str, name: str, default: Any) -> Any:
        """A measure's option, or its default."""
        return self.options.get(measure, {}).get(name, default)

    @property
    def debiased(self) -> bool:
        """Whether Grams are U-centred."""
        return self.estimator == "debiased"

    @property
    def regresses_confounder(self) -> bool:
        """Whether a confounder is taken out."""
        return "deconfounded_cka" in self.measures

    @property
    def residual_by_batch(self) -> bool:
        """Whether the confounder is regressed out of each batch's Grams.

        Otherwise deconfounded CKA of the summed batches follows from CKA and the confounder's row.
        """
        clamp = self.option("deconfounded_cka", "clamp", False)
        return clamp or self.estimator == "published"

    @property
    def kernels(self) -> dict[str, str]:
        """{measure: kernel whose inner products are summed}, for the CKA family."""
        kernels: dict[str, str] = {}
        for name, measure in self.measures.items():
            if measure.kernel == "residual" and not self.residual_by_batch:
                kernels[name] = "linear"
            elif measure.kernel is not None:
                kernels[name] = measure.kernel
        return kernels

    @property
    def confounder_name(self) -> str | None:
        """What is regressed out, in words."""
        if not self.regresses_confounder:
            return None
        if self.confounder is None:
            return "images"
        return getattr(self.confounder, "__name__", "given")
