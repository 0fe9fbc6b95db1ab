"""What is recorded beside the values: the layers, and how the comparison was made."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Layer:
    """One layer of one model.

    Attributes:
        model: the model's name.
        name: the layer's name in the model; its second call in a forward pass is `name#2`.
        type: the module's class.
        shape: of its output, per sample.
        size: number of features per sample after pooling.
        row: in the arrays; a model that is given twice has its rows once.
    """

    model: str
    name: str
    type: str
    shape: tuple[int, ...]
    size: int
    row: int

    @property
    def label(self) -> str:
        """The layer's name with its model's, "model/layer"."""
        return f"{self.model}/{self.name}"


@dataclass(frozen=True)
class Info:
    """How a comparison was made.

    Attributes:
        samples: number of samples compared on.
        batches: number of batches.
        batch_sizes: the different sizes of the batches.
        mode: "stream" (one pass over all batches) or "one set" (`samples=` was given).
        estimator: of the CKA family.
        pool: {model: how its outputs were pooled}.
        correspondence: how it was checked that all models saw the same samples.
        kinds: {measure: "similarity" or "distance"}; "measure" where nobody has said which.
        limits: {measure: ends of its colour scale}; None where they are those of the values.
        options: {measure: its keywords}.
        across: measures that were computed across models only, since they are costly.
        sigma: {"model/layer": width of the rbf kernel}.
        confounder: what was regressed out; None without deconfounded_cka.
        residual_by_batch: whether that was done to each batch's Grams, or to the sums.
        inputs: how the models were called, and what of a batch they did not see.
        correlations: measures whose intervals are made on Fisher's scale.
    """

    samples: int
    batches: int
    batch_sizes: list[int]
    mode: str
    estimator: str
    pool: dict[str, str]
    correspondence: str
    kinds: dict[str, str]
    limits: dict[str, tuple[float, float] | None]
    options: dict[str, dict[str, Any]]
    across: list[str]
    sigma: dict[str, float]
    confounder: str | None
    residual_by_batch: bool
    inputs: str = ""  # unknown: of a file of an older version
    correlations: list[str] = field(default_factory=list)
