"""Compare representations: which layers of two (or many) networks see the same samples alike.

`compare(models, data)` is all that most users need. The measures are also plain functions of two
matrices, and `SimilarityModel`, `CKA` and the other classes are the API of simtorch. Needs torch,
numpy and `layers`, which is copied along when this folder is used without simlab; scipy for the
measures of ranks, pandas for tables, matplotlib for figures.

Reading order:

- measures/: each measure as a function of two matrices, by idea; representation: what these become
- gram: Grams, their centring (here CKA is debiased) and sums; distances between samples
- registry: the measures by name
- comparison: `compare` as a few steps, of
  plan (what is computed), batches (the samples), passes (the models), sums (one pass over batches),
  sample_set (all samples at once), nulls (permutations), reasons (why something is NaN)
- pooling: flattened, averaged, cut into positions; positions: the same of maps that are at hand
- intervals: how sure a value is
- result and info: what comes back; figures: how it is drawn
- preview: a look at the layers before anything runs; compat: simtorch's API
"""

from ..layers import contains, select_layers
from .comparison import compare
from .compat import CCA, CKA, BaseSimilarity, DeltaCKA, Procrustes, SimilarityModel
from .info import Info, Layer
from .measures import (
    cca_similarity,
    cka_loss,
    cka_similarity,
    cknna_similarity,
    deconfounded_cka_similarity,
    disagreement,
    error_consistency,
    error_overlap,
    hsic,
    jensen_shannon_divergence,
    mutual_knn_similarity,
    predictivity,
    procrustes_distance,
    pwcca_similarity,
    rbf_cka_similarity,
    regression_similarity,
    rsa_similarity,
    svcca_similarity,
)
from .positions import positions_as_samples
from .preview import preview
from .registry import MEASURES, Measure
from .representation import Representation
from .result import Result

__all__ = [
    "CCA",
    "CKA",
    "MEASURES",
    "BaseSimilarity",
    "DeltaCKA",
    "Info",
    "Layer",
    "Measure",
    "Procrustes",
    "Representation",
    "Result",
    "SimilarityModel",
    "cca_similarity",
    "cka_loss",
    "cka_similarity",
    "cknna_similarity",
    "compare",
    "contains",
    "deconfounded_cka_similarity",
    "disagreement",
    "error_consistency",
    "error_overlap",
    "hsic",
    "jensen_shannon_divergence",
    "mutual_knn_similarity",
    "positions_as_samples",
    "predictivity",
    "preview",
    "procrustes_distance",
    "pwcca_similarity",
    "rbf_cka_similarity",
    "regression_similarity",
    "rsa_similarity",
    "select_layers",
    "svcca_similarity",
]
