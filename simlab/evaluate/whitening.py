"""Whitened features: a last linear layer, fitted without labels, after which all directions count.

    covariance of the features of clean images    C = V diag(l) V^T      [D, D]
    whitened                                      f -> (f - mean) V diag(l)^-1/2

Most of the variance of features lies in few directions, and these decide a cosine. Whitened (by
principal components; Kessy et al., arXiv 1512.00809), all D directions are uncorrelated and have
(but those that have next to none) variance 1, so that each has its say in a kNN vote.
"""

import torch
from torch import Tensor, nn

from simlab.data import Images

from .features import features, refuse_diverged

# to divide by, as a share of the largest: a direction with less is rounding
SMALLEST_VARIANCE = 1e-6


def whitening_of(f: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a whitening to features.

        mean, matrix = whitening_of(bank)
        bank, queries = (bank - mean) @ matrix, (queries - mean) @ matrix

    Args:
        f: Features [N, D].

    Returns:
        Their mean [D], and the matrix [D, D] that whitens what is left.

    Raises:
        ValueError: There are no more images than features.
        FloatingPointError: A feature is NaN or infinite.
    """
    n, d = f.shape
    if n <= d:
        raise ValueError(f"{n} images: whitening {d} features takes more images than features")
    refuse_diverged(f)
    variances, directions = torch.linalg.eigh(torch.cov(f.T))  # [D], [D, D]
    variances = variances.clamp(min=SMALLEST_VARIANCE * float(variances.max()))
    return f.mean(0), directions / variances.sqrt()


class Whitened(nn.Module):
    """An encoder with a whitening layer: images [N, C, H, W] -> features [N, D].

        model = Whitened(run.encoder, data.train)
        simlab.knn(model, data)

    Args:
        encoder: From normalised images to features [N, D]. It is put into evaluation mode; its
            weights stay as they are.
        images: Those that mean and covariance are computed of; no label is used. Some thousand do.

    Raises:
        ValueError: There are no more images than features.
        FloatingPointError: A feature is NaN or infinite.
    """

    mean: Tensor  # [D]
    matrix: Tensor  # [D, D]

    def __init__(self, encoder: nn.Module, images: Images) -> None:
        super().__init__()
        self.encoder = encoder.eval()
        mean, matrix = whitening_of(features(encoder, images))
        self.register_buffer("mean", mean)
        self.register_buffer("matrix", matrix)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images [N, C, H, W] to whitened features [N, D]."""
        f = self.encoder(x)
        whitened: Tensor = (f - self.mean) @ self.matrix
        return whitened


class MirrorAveraged(nn.Module):
    """The average of an encoder's features of an image and of its mirror image.

    For images in which left and right do not matter; it takes twice the time.

        model = Whitened(MirrorAveraged(run.encoder), data.train)

    Args:
        encoder: From images [N, C, H, W] to features [N, D].
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        """Map images [N, C, H, W] to features [N, D]."""
        average: Tensor = (self.encoder(x) + self.encoder(x.flip(3))) / 2
        return average
