"""What is trained: encoders [N, C, H, W] -> [N, D], and the heads that methods put on them.

Read `encoders` first, then `heads`; `vit` is the transformer, `custom` is about modules of the
user's, `frozen` about parts that are not trained.
"""

from .custom import (
    check_module,
    check_self_reference,
    copy_module,
    hooks_on_gradients,
    repeats_grey,
)
from .encoders import ENCODERS, SMALL_IMAGE, TINY_IMAGE, TinyResNet, build_encoder
from .frozen import keep_frozen
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
    "check_module",
    "check_self_reference",
    "copy_module",
    "hooks_on_gradients",
    "keep_frozen",
    "repeats_grey",
]
