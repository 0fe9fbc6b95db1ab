"""What frozen features know, and whether they collapse: one protocol for every encoder.

- `features`: the features of a frozen encoder.
- `labels`: which images count, draws of labelled images, accuracies.
- `knn`: kNN accuracy.
- `linear`: linear classifiers that fit, predict and score; `probe`: the protocol around them.
- `collapse`: measures of a feature matrix; `diagnosis`: the same in words.
- `readout`: what a linear map can read from each layer.
- `whitening`: a last layer after which all directions of the features count alike; the average over
  an image and its mirror image.
- `stitching`: one network's first half with another one's second half.
- `bench`: `evaluate` judges any encoder by all of this, and by fine-tuning. It stands above
  `simlab.train`, so it is imported when its names are first used.
"""

import importlib
from typing import TYPE_CHECKING

from .collapse import alignment, collapse_metrics, effective_rank, raw_std, spectrum
from .diagnosis import (
    COMPLETE_STD_RATIO,
    WARN_STD_RATIO,
    Diagnosis,
    diagnose,
    is_loss_of_collapse,
)
from .features import features, raw_pixels
from .knn import KnnResult, knn, knn_accuracy, knn_predict, knn_result, nearest
from .labels import (
    Counted,
    accuracy,
    counted,
    has_labels,
    largest_balanced,
    per_class_accuracy,
    stratified,
)
from .linear import LinearProbe, SGDProbe
from .probe import Features, Probe, encode, linear_probe, predictions, probe_table
from .readout import factor_scores, ridge_r2, what_is_kept
from .stitching import Stitched, StitchedNetwork, stitch
from .whitening import MirrorAveraged, Whitened, whitening_of

if TYPE_CHECKING:
    from .bench import Evaluation, Input, Settings, evaluate

__all__ = [
    "COMPLETE_STD_RATIO",
    "WARN_STD_RATIO",
    "Counted",
    "Diagnosis",
    "Evaluation",
    "Features",
    "Input",
    "KnnResult",
    "LinearProbe",
    "MirrorAveraged",
    "Probe",
    "SGDProbe",
    "Settings",
    "Stitched",
    "StitchedNetwork",
    "Whitened",
    "accuracy",
    "alignment",
    "collapse_metrics",
    "counted",
    "diagnose",
    "effective_rank",
    "encode",
    "evaluate",
    "factor_scores",
    "features",
    "has_labels",
    "is_loss_of_collapse",
    "knn",
    "knn_accuracy",
    "knn_predict",
    "knn_result",
    "largest_balanced",
    "linear_probe",
    "nearest",
    "per_class_accuracy",
    "predictions",
    "probe_table",
    "raw_pixels",
    "raw_std",
    "ridge_r2",
    "spectrum",
    "stitch",
    "stratified",
    "what_is_kept",
    "whitening_of",
]

_OF_BENCH = ("Evaluation", "Input", "Settings", "evaluate")


def __getattr__(name: str) -> object:
    """Import a name of `bench` when it is first used (PEP 562)."""
    if name not in _OF_BENCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.bench"), name)
    globals()[name] = value
    return value
