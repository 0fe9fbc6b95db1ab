"""Whitened features: a last linear layer, fitted without labels, after which all directions count.

    covariance of the features of clean images    C = V diag(l) V^T      [D, D]
    whitened                                      f -> (f - mean) V diag(l)^-1/2

Most of the variance of features lies in few directions, and these decide a cosine. Whitened (by
principal components; Kessy et al., arXiv 1512.00809), all D directions have the variance 1 and are
uncorrelated, so that each has its say in a kNN vote.
"""

import torch
from torch import Tensor, nn

from simlab.data import Images

from .features import features, refuse_diverged

SMALLEST_VARIANCE = (
    1e-6  # of a direction, as a share of the largest; one without any would be noise
)


class Whitened(nn.Module):
    """An encoder with a whitening layer: images [N, C, H, W] -> features [N, D].

        model = Whitened(run.encoder, data.train)
        simlab.knn(model, data)

    Args:
        encoder: From normalised images to features [N, D]. It is put into evaluation mode; its
            weights stay as they are.
        images: Those that mean and covariance are computed of; no label is used. Some thousand do.
        mirrored: Average the features of an image and of its mirror image first.

    Raises:
        ValueError: There are no more images than features.
        FloatingPointError: A feature is NaN or infinite.
    """

    mean: Tensor  # [D]
    matrix: Tensor  # [D, D]

    def __init__(self, encoder: nn.Module, images: Images, mirrored: bool = False) -> None:
        super().__init__()
        self.encoder = encoder.eval()
        self.mirrored = mirrored
        f = self._features_of(images)  # [N, D]
        n, d = f.shape
        if n <= d:
            raise ValueError(f"{n} images: whitening {d} features takes more images than features")
        refuse_diverged(f)
        variances, directions = torch.linalg.eigh(torch.cov(f.T))  # [D], [D, D]
        variances = variances.clamp(min=SMALLEST_VARIANCE * float(variances.max()))
        self.register_buffer("mean", f.mean(0))
        self.register_buffer("matrix", directions / variances.sqrt())

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images [N, C, H, W] to whitened features [N, D]."""
        f = self.encoder(x)
        if self.mirrored:
            f = (f + self.encoder(x.flip(3))) / 2
        whitened: Tensor = (f - self.mean) @ self.matrix
        return whitened

    def _features_of(self, images: Images) -> Tensor:
        """The encoder's features [N, D] of images, before they are whitened."""
        f = features(self.encoder, images)
        if not self.mirrored:
            return f

        def mirror(batch: Tensor) -> Tensor:
            assert images.normalize is not None  # `features` has asked for it
            return images.normalize(batch).flip(3)

        return (f + features(self.encoder, images, normalize=mirror)) / 2
