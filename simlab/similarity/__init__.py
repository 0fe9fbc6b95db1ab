"""Compare representations: which layers of two (or many) networks see the same samples alike.

`compare(models, data)` is the whole of it; the measures are also plain functions of two matrices;
`SimilarityModel`, `CKA` and their kin are the API of simtorch. Imports nothing else of simlab.
"""
# ruff: noqa: F401, I001

from .compare import compare
from .compat import CCA, CKA, BaseSimilarity, DeltaCKA, Procrustes, SimilarityModel
from ..layers import contains, select_layers
from .measures import (
    MEASURES,
    Representation,
    cca_similarity,
    cka_similarity,
    deconfounded_cka_similarity,
    hsic,
    mutual_knn_similarity,
    procrustes_distance,
    pwcca_similarity,
    rbf_cka_similarity,
    regression_similarity,
    rsa_similarity,
    svcca_similarity,
)
from .preview import preview
from .result import Layer, Result
