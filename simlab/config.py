"""What a training run is made of: two flat, frozen dataclasses.

A field's name is the notebook's parameter, the command line's flag and the key in the saved run.
"auto" and 0 stand for a choice that is left open; `simlab.train.resolve` makes it, from the data
and the device. The options of a method are its own (`simlab.methods`) and stand behind its name,
as changes of an augmentation do: method="simsiam pred_lr=1".

Bounds are declared beside the field, its description stands below it. Nothing here imports torch.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated, Any, Literal, TypeVar

from simlab._checks import AtLeast, LessThan, MoreThan, check_fields, documented, near, near_names

# fields that say where and how a run is computed and shown, not what it computes
NOT_IDENTITY = frozenset(
    {"device", "threads", "decoding_threads", "data_folder", "download", "log_every"}
    | {"keep_checkpoints", "init"}
    | {"channels", "on_error"}  # what becomes of the images counts, by their digest
)  # of init the weights count, wherever they lie


@documented
@near_names
@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What pretraining and supervised training share."""

    data: str = "fashion-scattered"
    """A dataset's name, or the path of an image folder."""

    data_folder: str = ""
    """Where the dataset's files are. Empty: the bundled ones, or data/downloads."""

    download: bool = False
    """Download missing files."""

    image_size: Annotated[int, AtLeast(0)] = 0
    """Side in pixels to which a folder's images are resized. 0: the median of their sides."""

    channels: Literal[0, 1, 3] = 0
    """1: grey images, 3: in colour. 0: as they are."""

    fit: Literal["cut", "squeeze"] = "cut"
    """How a folder's images are made square: cut to the middle, or all of each squeezed into it."""

    on_error: Literal["raise", "skip"] = "raise"
    """A folder's images that can't be decoded: name them all and stop, or leave them out."""

    encoder: str = "auto"
    """tiny, small, medium, vit_tiny, resnet18, resnet34, resnet50. auto: by the image's size."""

    stem: Literal["auto", "small", "large"] = "auto"
    """A ResNet's first layer. auto: small up to 64 pixels."""

    init: str = ""
    """Fine-tuning: a finished run, by its folder or name, whose encoder's weights are the initial
    ones; in Python a Run as well. Empty: random weights."""

    augment: str = "auto"
    """A recipe's name, then changes: "simclr blur=0 crop_min=0.2"."""

    view_size: Annotated[int, AtLeast(0)] = 0
    """Side of the augmented views in pixels. 0: three quarters of the image's."""

    epochs: Annotated[int, AtLeast(1)] = 20
    """Passes over the images."""

    batch_size: Annotated[int, AtLeast(2)] = 64
    """Images of one optimizer step, of all processes together; BatchNorm needs at least two."""

    accumulate: Annotated[int, AtLeast(1)] = 1
    """Parts of a batch that are computed one after the other, to save memory. What a loss
    compares within the batch (negatives, covariances) it then compares within a part, and
    BatchNorm normalises by a part."""

    lr: Annotated[float, AtLeast(0)] = 0.5
    """Learning rate for 256 images; the one used is lr * batch_size / 256."""

    lr_encoder: float = -1.0
    """Learning rate of the encoder, for 256 images as lr. 0: frozen. -1: lr."""

    optimizer: Literal["sgd", "adam", "adamw", "rmsprop", "lars", "muon"] = "sgd"
    """The optimizer."""

    momentum: Annotated[float, AtLeast(0), LessThan(1)] = 0.9
    """Momentum of sgd, lars, muon and rmsprop; the first beta of adam and adamw."""

    weight_decay: Annotated[float, AtLeast(0)] = 5e-4
    """Weight decay of every parameter; with lars and muon not of biases and BatchNorm."""

    schedule: Literal["constant", "step", "multistep", "cosine"] = "cosine"
    """How the learning rate decays."""

    warmup_epochs: Annotated[float, AtLeast(0)] = 0.0
    """Epochs over which the learning rate rises linearly, with every schedule."""

    decay_every: Annotated[int, AtLeast(1)] = 30
    """step: epochs between two decays."""

    milestones: str = "0.6,0.8"
    """multistep: fractions of the run after which the learning rate decays."""

    decay: Annotated[float, AtLeast(0)] = 0.1
    """step, multistep: factor of each decay."""

    sim_layers: str = ""
    """Blocks of the encoder that get the SIM regulariser: names, globs such as "blocks.*"."""

    sim_beta: Annotated[float, AtLeast(0)] = 5e-3
    """Weight of SIM's loss."""

    sim_tokens: Annotated[float, AtLeast(0)] = 0.2
    """Fraction of a feature map's positions that SIM compares; above 1: their number."""

    sim_sampling: Literal["v0", "v1", "v2"] = "v0"
    """How SIM samples the positions."""

    sim_loss: Literal["cos", "kl", "smooth_l1", "mse", "norm_mse"] = "norm_mse"
    """Distance that SIM's loss takes."""

    sim_hidden: Annotated[int, AtLeast(1)] = 256
    """Width of the hidden layer of SIM's projection."""

    sim_dim: Annotated[int, AtLeast(1)] = 128
    """Width of SIM's projection."""

    sim_small: Literal["skip", "pool", "two"] = "skip"
    """Blocks on which SIM's published code fails, those with a stride or with too few positions.
    skip: they get no SIM; pool: those with a stride get it, their input averaged onto the
    output's positions; two: all get it, two positions at least."""

    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the forward pass. auto: what the device is fast at."""

    seed: Annotated[int, AtLeast(0), LessThan(2**32)] = 0
    """Seed of the initial weights, the order of the images and the views."""

    device: str = "auto"
    """cpu, cuda, cuda:1, mps. auto: a GPU where there is one."""

    threads: Annotated[int, AtLeast(0)] = 0
    """Threads of the CPU. 0: leave torch's number."""

    decoding_threads: Annotated[int, AtLeast(0)] = 0
    """Threads of each process that decode the images of a folder which does not fit into memory.
    0: as many as cores are there for the process, 4 at least."""

    log_every: Annotated[int, AtLeast(0)] = 100
    """Steps between two lines in train.log. 0: one line an epoch alone."""

    keep_checkpoints: Annotated[int, AtLeast(1)] = 3
    """The newest ones kept, beside the best and those of epochs 1, 2, 4, 8, ..."""

    def __post_init__(self) -> None:
        init = getattr(self.init, "folder", self.init)  # a Run stands for its folder
        if isinstance(init, PurePath):
            object.__setattr__(self, "init", str(init))
        check_fields(self)
        milestones(self)
        if self.lr_encoder < 0 and self.lr_encoder != -1:
            raise ValueError(f"lr_encoder={self.lr_encoder}: expected at least 0, or -1 for lr")
        if self.lr_encoder > 0 and self.lr == 0:
            raise ValueError(f"lr_encoder={self.lr_encoder} with lr=0: expected lr above 0")


@documented
@near_names
@dataclass(frozen=True, kw_only=True)
class PretrainConfig(TrainConfig):
    """Self-supervised pretraining. The defaults suit the scattered images and two CPU cores."""

    method: str = "simsiam"
    """A method's name, then its options: "simclr temperature=0.2"; `simlab methods` lists them."""

    views_from: str = ""
    """Every view but the first is of another image with the same value of this factor, or with
    the same "label". Empty: all views are of one image."""

    weight_decay: Annotated[float, AtLeast(0)] = 1e-3
    """Weight decay of every parameter; 3e-3 costs the default run some points."""

    monitor_every: Annotated[int, AtLeast(1)] = 5
    """Epochs between two kNN evaluations; the last epoch has one as well."""

    knn_k: Annotated[int, AtLeast(1)] = 200
    """Neighbours that vote."""

    knn_temperature: Annotated[float, MoreThan(0)] = 0.1
    """Temperature of their votes."""


@documented
@near_names
@dataclass(frozen=True, kw_only=True)
class SupervisedConfig(TrainConfig):
    """Supervised training of the same encoder with the same augmentation: a reference."""

    labels: Annotated[float, AtLeast(0)] = 0.0
    """Number of labelled training images, the same number per class; below 1: that fraction of
    each class. 0: all."""

    lr: Annotated[float, AtLeast(0)] = 0.2
    """Learning rate for 256 images; the one used is lr * batch_size / 256."""


# complete configurations, for `simlab pretrain --recipe NAME` and `make_config`; all but the last
# are published ones
_CIFAR = {
    "data": "cifar10",
    "encoder": "resnet18",
    "augment": "simsiam-cifar",
    "view_size": 32,
    "epochs": 800,
    "batch_size": 512,
    "lr": 0.03,
    "weight_decay": 5e-4,
    "monitor_every": 10,
}
# lightly's benchmark of CIFAR-10 (docs/source/getting_started/benchmarks/cifar10_benchmark.py)
_LIGHTLY = _CIFAR | {
    "augment": "simclr blur=0",
    "epochs": 200,
    "batch_size": 128,
    "lr": 0.12,  # 0.06 for 128 images
}
RECIPES: dict[str, dict[str, Any]] = {
    # SimSiam, appendix D
    "cifar-paper": _CIFAR
    | {"method": "simsiam proj_layers=2 proj_dim=2048 pred_dim=512 pred_lr=1"},
    # the same with SimCLR's loss and a smaller head
    "cifar-simclr": _CIFAR | {"method": "simclr proj_layers=2 proj_dim=512"},
    # its loss is half of this one, so that half the rate and twice the decay make the same steps;
    # there m stays .99, here it rises to 1 as in the paper
    "cifar-byol": _LIGHTLY
    | {
        "lr": 0.06,
        "weight_decay": 1e-3,
        "method": "byol momentum=0.99 hidden_dim=1024 proj_dim=256",
    },
    "cifar-moco": _LIGHTLY
    | {
        "method": "moco temperature=0.1 queue=4096 momentum=0.99 hidden_dim=512 proj_dim=128 "
        "symmetric=true"
    },
    "cifar-swav": _LIGHTLY
    | {
        "augment": "simclr blur=0 crop_min=0.14",
        "optimizer": "adam",
        "lr": 0.002,  # 0.001 for 128 images
        "weight_decay": 1e-6,
        "method": "swav prototypes=512 hidden_dim=512 proj_dim=128",
    },
    # there the projector has two layers; here three, as in the paper
    "cifar-barlow-twins": _LIGHTLY | {"method": "barlow_twins hidden_dim=2048 proj_dim=2048"},
    # solo-learn, scripts/pretrain/cifar/wmse.yaml
    "cifar-w-mse": _CIFAR
    | {
        "augment": "simclr blur=0 crop_min=0.2",
        "epochs": 1000,
        "batch_size": 256,
        "optimizer": "adam",
        "lr": 0.002,
        "weight_decay": 1e-6,
        "warmup_epochs": 10.0,
        "method": "w_mse hidden_dim=1024 proj_dim=64",
    },
    # SimSiam, section 3: a folder of ImageNet's images is `--data PATH`
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
        "method": "simsiam proj_layers=3 proj_dim=2048 pred_dim=512 pred_lr=1",
    },
    # for minutes on two cores: benchmarks/speedrun.py, which counts minutes in place of epochs
    "fast": {
        "data": "cifar10",
        "encoder": "small",
        "augment": "simsiam-cifar",
        "method": "simclr temperature=0.1 proj_dim=256 views=4",
        "epochs": 6,
        "batch_size": 128,
        "optimizer": "muon",
        "lr": 0.04,  # for 256 images: 0.02 for the 128 of a step
        "momentum": 0.95,
        "monitor_every": 6,
    },
}

Config = TypeVar("Config", bound=TrainConfig)


def make_config(cls: type[Config], **values: Any) -> Config:
    """Make a configuration from names and values.

    Raises:
        ValueError: A name is unknown; the message has the nearest right one. Or see the class.
        TypeError: A value has another type than its field.
    """
    names = [field.name for field in dataclasses.fields(cls)]
    for name in values:
        if name not in names:
            raise ValueError(f"{cls.__name__} has no field {name!r}{near(name, names)}")
    return cls(**values)


def images_of(config: TrainConfig) -> dict[str, Any]:
    """Return which images a configuration asks for, as the arguments of `simlab.data.load_data`."""
    return {
        "name": config.data,
        "folder": config.data_folder,
        "download": config.download,
        "image_size": config.image_size,
        "channels": config.channels,
        "fit": config.fit,
        "on_error": config.on_error,
        "threads": config.decoding_threads,
    }


def milestones(config: TrainConfig) -> list[float]:
    """Read the fractions of the run after which a multistep schedule decays.

    Raises:
        ValueError: They are not numbers between 0 and 1.
    """
    try:
        fractions = [float(word) for word in config.milestones.split(",")]
    except ValueError:
        fractions = []
    if not fractions or not all(0 < fraction < 1 for fraction in fractions):
        raise ValueError(
            f"milestones={config.milestones!r}: expected fractions of the run between 0 and 1, "
            "such as '0.6,0.8'"
        )
    return fractions
