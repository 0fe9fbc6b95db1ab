"""What frozen features know, and whether they collapse: one protocol for every encoder.

- `features`: the features of a frozen encoder.
- `labels`: which images count, draws of labelled images, accuracies.
- `knn`: kNN accuracy.
- `linear`: linear classifiers that fit, predict and score; `probe`: the protocol around them.
- `collapse`: measures of a feature matrix; `diagnosis`: the same in words.
- `readout`: what a linear map can read from each layer.
- `stitching`: one network's first half with another one's second half.
"""

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

__all__ = [
    "COMPLETE_STD_RATIO",
    "WARN_STD_RATIO",
    "Counted",
    "Diagnosis",
    "Features",
    "KnnResult",
    "LinearProbe",
    "Probe",
    "SGDProbe",
    "Stitched",
    "StitchedNetwork",
    "accuracy",
    "alignment",
    "collapse_metrics",
    "counted",
    "diagnose",
    "effective_rank",
    "encode",
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
]
