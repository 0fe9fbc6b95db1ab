"""What frozen features know, and whether they collapse: one protocol for every encoder.

- `features`: the features of a frozen encoder, and class-balanced subsets.
- `knn`: kNN accuracy.
- `linear`: linear classifiers that fit, predict and score; `probe`: the protocol around them.
- `collapse`: measures of a feature matrix; `diagnosis`: the same in words.
- `readout`: what a linear map can read from each layer.
- `stitching`: one network's first half with another one's second half.
"""

from .collapse import alignment, collapse_metrics, effective_rank, spectrum
from .diagnosis import COMPLETE_STD_RATIO, WARN_STD_RATIO, Diagnosis, diagnose
from .features import accuracy, features, raw_pixels, stratified
from .knn import knn, knn_accuracy, knn_predict, nearest
from .linear import LinearProbe, SGDProbe
from .probe import Features, Probe, encode, linear_probe, predictions, probe_table
from .readout import factor_scores, ridge_r2, what_is_kept
from .stitching import Stitched, StitchedNetwork, stitch

__all__ = [
    "COMPLETE_STD_RATIO",
    "WARN_STD_RATIO",
    "Diagnosis",
    "Features",
    "LinearProbe",
    "Probe",
    "SGDProbe",
    "Stitched",
    "StitchedNetwork",
    "accuracy",
    "alignment",
    "collapse_metrics",
    "diagnose",
    "effective_rank",
    "encode",
    "factor_scores",
    "features",
    "knn",
    "knn_accuracy",
    "knn_predict",
    "linear_probe",
    "nearest",
    "predictions",
    "probe_table",
    "raw_pixels",
    "ridge_r2",
    "spectrum",
    "stitch",
    "stratified",
    "what_is_kept",
]
