"""What a training run is made of: two flat, frozen dataclasses.

A field's name is the notebook's parameter, the command line's flag and the key in the saved run.
"auto" and 0 stand for a choice that is left open; `resolve` makes it, from the data and the device.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import TypeVar

from simlab._names import near
from simlab.sim import LOSS_TYPES, SAMPLING_TYPES

# fields that say where and how a run is computed and shown, not what it computes
NOT_IDENTITY = frozenset(
    {"device", "threads", "data_folder", "download", "log_every", "keep_checkpoints"}
)
AT_LEAST = {
    1: (
        "epochs",
        "accumulate",
        "decay_every",
        "keep_checkpoints",
        "proj_dim",
        "pred_dim",
        "monitor_every",
        "knn_k",
    ),
    0: (
        "lr",
        "weight_decay",
        "warmup_epochs",
        "decay",
        "seed",
        "sim_beta",
        "sim_tokens",
        "image_size",
        "view_size",
        "threads",
        "log_every",
        "proj_layers",
        "pred_lr",
        "labels",
    ),
}
ONE_OF = {
    "optimizer": ("sgd", "adam", "adamw", "rmsprop", "lars"),
    "schedule": ("constant", "step", "multistep", "cosine"),
    "sim_sampling": SAMPLING_TYPES,
    "sim_loss": LOSS_TYPES,
    "method": ("simsiam", "simclr"),
    "stem": ("auto", "small", "large"),
    "predictor": ("mlp", "none", "fixed"),
    "head_bn": ("all", "hidden", "none"),
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What pretraining and supervised training share."""

    data: str = "fashion-scattered"  # a dataset's name, or the path of a folder of images
    data_folder: str = ""  # where its files are; empty: what comes along, or data/downloads
    download: bool = False  # fetch missing files
    image_size: int = 0  # side in pixels to which a folder's images are resized; 0: the first's
    encoder: str = "auto"  # tiny, small, resnet18, resnet34, resnet50; auto: by the image's size
    stem: str = "auto"  # a ResNet's first layer: small, large; auto: small up to 64 pixels
    augment: str = "auto"  # a recipe's name, then changes: "simclr blur=0 crop_min=0.2"
    view_size: int = 0  # side of the augmented views in pixels; 0: three quarters of the image's
    epochs: int = 20  # passes over the images
    batch_size: int = 64  # of all processes together, for one step of the optimizer
    accumulate: int = 1  # parts of a batch that are computed one after the other, to save memory
    lr: float = 0.5  # for 256 images; what is used is lr * batch_size / 256
    optimizer: str = "sgd"  # sgd, adam, adamw, rmsprop, lars
    momentum: float = 0.9  # of sgd, lars and rmsprop; the first beta of adam and adamw
    weight_decay: float = 5e-4  # of every weight; with lars not of biases and BatchNorm
    schedule: str = "cosine"  # constant, step, multistep, cosine
    warmup_epochs: float = 0.0  # epochs over which the rate rises in a line, with every schedule
    decay_every: int = 30  # step: epochs between two decays
    milestones: str = "0.6,0.8"  # multistep: shares of the run after which the rate decays
    decay: float = 0.1  # step, multistep: factor of each decay
    sim_layers: str = ""  # blocks of the encoder that get SIM: names, globs such as "blocks.*"
    sim_beta: float = 5e-3  # weight of SIM's loss
    sim_tokens: float = 0.2  # share of a map's positions that SIM compares; above 1: their number
    sim_sampling: str = "v0"  # v0, v1, v2: how SIM chooses them
    sim_loss: str = "norm_mse"  # cos, kl, smooth_l1, mse, norm_mse
    precision: str = "auto"  # float32, bfloat16, float16; auto: what the device is fast at
    seed: int = 0  # of the first weights, the order, the views
    device: str = "auto"  # cpu, cuda, cuda:1, mps
    threads: int = 0  # 0: leave torch's number
    log_every: int = 100  # steps between two lines in train.log; 0: a line an epoch alone
    keep_checkpoints: int = 3  # newest ones, beside the best and those of epochs 1, 2, 4, 8, ...

    def __post_init__(self):
        _check_types(self)
        own = vars(self)
        for least, names in AT_LEAST.items():
            for name in names:
                if own.get(name, least) < least:
                    raise ValueError(f"{name}={own[name]}: expected at least {least}")
        for name, known in ONE_OF.items():
            if name in own and own[name] not in known:
                raise ValueError(f"{name}={own[name]!r} is unknown{near(own[name], known)}")
        for name in ("temperature", "knn_temperature"):
            if own.get(name, 1) <= 0:
                raise ValueError(f"{name}={own[name]}: expected more than 0")
        if self.seed >= 2**32:
            raise ValueError(f"seed={self.seed}: expected less than 2**32")
        if self.batch_size < 2:
            raise ValueError(f"batch_size={self.batch_size}: BatchNorm needs at least two images")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum={self.momentum}: expected a number from 0 to below 1")
        milestones(self)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(TrainConfig):
    """Self-supervised pretraining. The defaults suit the scattered images and two CPU cores."""

    method: str = "simsiam"  # simsiam, simclr
    weight_decay: float = 1e-3  # of every weight; 3e-3 costs the default run some points
    temperature: float = 0.5  # of SimCLR's loss
    proj_layers: int = 0  # of the projector; 0: 2 up to 64 pixels, else 3
    proj_dim: int = 512  # width of the projector; 2048 in the paper
    pred_dim: int = 256  # width within the predictor; 512 in the paper
    predictor: str = "mlp"  # mlp; none and fixed are for the collapse lab
    head_bn: str = "all"  # which layers of the heads have BatchNorm: all; hidden, none for the lab
    stop_gradient: bool = True  # off for the collapse lab
    fix_pred_lr: bool = True  # the predictor's learning rate does not decay (paper, 4.2)
    pred_lr: float = 10.0  # the predictor's rate as a multiple of the others'; 1 in the paper
    monitor_every: int = 5  # epochs between two kNN measurements; the last epoch has one as well
    knn_k: int = 200  # neighbours that vote
    knn_temperature: float = 0.1  # of their votes


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig(TrainConfig):
    """Supervised training of the same encoder with the same augmentation: the yardstick."""

    labels: int = 0  # number of labelled training images, as many of each class; 0: all
    lr: float = 0.2  # for 256 images; what is used is lr * batch_size / 256


# complete published configurations, for `simlab pretrain --recipe NAME` and `make_config`
_CIFAR = {
    "data": "cifar10",
    "encoder": "resnet18",
    "augment": "simsiam-cifar",
    "view_size": 32,
    "epochs": 800,
    "batch_size": 512,
    "weight_decay": 5e-4,
    "monitor_every": 10,
    "pred_lr": 1.0,
}
RECIPES = {
    # SimSiam, appendix D
    "cifar-paper": _CIFAR | {"lr": 0.03, "proj_layers": 2, "proj_dim": 2048, "pred_dim": 512},
    # the same with SimCLR's loss and smaller head
    "cifar-simclr": _CIFAR | {"lr": 0.03, "method": "simclr", "proj_layers": 2, "proj_dim": 512},
    # SimSiam, section 4: a folder of ImageNet's images is `--data PATH`
    "imagenet-paper": _CIFAR
    | {
        "data": "imagenet",
        "image_size": 256,
        "encoder": "resnet50",
        "augment": "simsiam-imagenet",
        "view_size": 224,
        "epochs": 100,
        "lr": 0.05,
        "weight_decay": 1e-4,
        "proj_layers": 3,
        "proj_dim": 2048,
        "pred_dim": 512,
    },
}

Config = TypeVar("Config", bound=TrainConfig)


def make_config(cls: type[Config], **values) -> Config:
    """A configuration from names and values, refusing unknown names with the nearest right one."""
    known = [f.name for f in dataclasses.fields(cls)]
    for name in values:
        if name not in known:
            raise ValueError(f"{cls.__name__} has no field {name!r}{near(name, known)}")
    return cls(**values)


def milestones(config: TrainConfig) -> list[float]:
    """The shares of the run after which a multistep schedule decays, or ValueError."""
    try:
        shares = [float(word) for word in config.milestones.split(",")]
    except ValueError:
        shares = [math.nan]
    if not all(0 < share < 1 for share in shares):
        raise ValueError(
            f"milestones={config.milestones!r}: expected shares of the run between 0 "
            "and 1, such as '0.6,0.8'"
        )
    return shares


def _check_types(config: object):
    """Every field holds the type it declares. An int may stand for a float, nothing else."""
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if f.type is float and type(value) is int and abs(value) < 2**63:
            value = float(value)
            object.__setattr__(config, f.name, value)
        if type(value) is not f.type:
            raise TypeError(
                f"{f.name}={value!r} is {type(value).__name__}: expected {f.type.__name__}"
            )
        if f.type is float and not math.isfinite(value):
            raise ValueError(f"{f.name}={value}: expected a finite number")
