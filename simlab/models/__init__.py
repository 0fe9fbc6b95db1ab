"""What is trained: encoders [N, C, H, W] -> [N, D], and the heads that methods put on them.

Read `encoders` first, then `heads`; `vit` is the transformer.
"""

from .encoders import ENCODERS, SMALL_IMAGE, TINY_IMAGE, TinyResNet, build_encoder
from .heads import HeadNorm, build_mlp, build_predictor, build_projector
from .vit import TinyViT

__all__ = [
    "ENCODERS",
    "HeadNorm",
    "SMALL_IMAGE",
    "TINY_IMAGE",
    "TinyResNet",
    "TinyViT",
    "build_encoder",
    "build_mlp",
    "build_predictor",
    "build_projector",
]
