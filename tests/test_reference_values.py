"""What simlab computes stays what it was: stored values of training, views, evaluation, similarity.

The stored values are in reference_values.json. They were computed by commit 7e7278f on a CPU, in
float32 and on one thread. Two things are compared:

- Everywhere: the numbers. Small arrays are stored whole; of large ones the sum, the norm and three
  inner products with fixed cosine waves. Each case has a tolerance (see TOLERANCE below).
- Where torch, numpy and the processor are those that made the file: the SHA-256 of every bit.

Where a result is meant to change, remake the file and say in the commit what changed and why:

    python tests/test_reference_values.py                  computes every case and rewrites the file
    python tests/test_reference_values.py 'train/*'        only these; the others stay as they are

Both print which cases moved, and how far. Remade since then, on purpose: "probe by sgd", a plain
torch loop now, whose first weights and order come from other random draws; "simsiam with sim", where
SIM draws from generators of its own and the heads' first weights are those of the run without it. The
nine cases of similarity that have RSA, mutual kNN, a null distribution or cka_similarity, by 2e-5 at
most: equal distances are equal now, sums over permuted samples are of another order, and a product
of roots. "compare, intervals": they leave out batches instead of drawing them.
"""

import fnmatch
import functools
import hashlib
import json
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models.resnet import BasicBlock, ResNet

# ---- the adapter: all that this file knows of simlab. Whoever renames something edits it here -----
from simlab import similarity
from simlab.augment import RECIPES, Normalize, parse_augment, two_views, view, views_at_once
from simlab.config import PretrainConfig, SupervisedConfig
from simlab.data import Dataset, load_data
from simlab.evaluate import (
    collapse_metrics,
    encode,
    features,
    knn,
    knn_accuracy,
    knn_predict,
    linear_probe,
    predictions,
    raw_pixels,
    ridge_r2,
)
from simlab.methods import with_method_option
from simlab.models import build_encoder
from simlab.sim import (
    LOSS_TYPES,
    SAMPLING_TYPES,
    attach_sim,
    compute_loss_sim,
    compute_sim_loss,
    forward_with_sim_cache,
    init_proj,
)
from simlab.similarity import CCA, CKA, DeltaCKA, Procrustes, SimilarityModel, compare
from simlab.train import pretrain, train_supervised

Arrays = dict[str, Any]  # {name: tensor, array, number or list of numbers}


@functools.cache
def dataset(count: int = 384) -> Dataset:
    """The bundled scattered images: the first `count` for training, 200 for testing."""
    full = load_data("fashion-scattered")
    train, test = full.train.subset(torch.arange(count)), full.test.subset(torch.arange(200))
    return Dataset(full.name, train, test)


def train(method: str, options: dict | None = None, method_options: dict | None = None) -> Arrays:
    """Eight steps of "simsiam", "simclr" or "supervised": the weights and the history.

    The learning rate is low: with the default one, rounding grows tenfold at every other step.
    """
    common = {"epochs": 2, "batch_size": 64, "lr": 0.02, "precision": "float32", "threads": 1}
    common |= {"device": "cpu"} | (options or {})
    with tempfile.TemporaryDirectory() as folder:
        where = {"folder": folder, "progress": False}
        if method == "supervised":
            run = train_supervised(SupervisedConfig(**common), dataset(256), **where)
        else:
            for option, value in (method_options or {}).items():
                method = with_method_option(method, option, value)
            common |= {"method": method, "monitor_every": 2, "knn_k": 20}
            run = pretrain(PretrainConfig(**common), dataset(256), **where)
        history = run.history
    arrays: Arrays = {"weights": flat(run.encoder.state_dict().values())}
    for column in ("loss", "sim_loss", "std", "rank", "knn", "test_accuracy"):
        if column in history:
            arrays[column] = history[column].dropna().to_list()
    for accuracy in COARSE.keys() & arrays.keys():
        arrays[accuracy] = [round(value, 6) for value in arrays[accuracy]]
    return arrays


def make_views(function: str, recipe: str, images: list[Tensor]) -> Arrays:
    """Augmented views of a few batches [N, C, H, W], by one of the three functions."""
    channels = images[0].shape[1]
    normalize = Normalize([0.3] * channels, [0.35] * channels)
    augment, generator = parse_augment(recipe), torch.Generator().manual_seed(5)
    if function == "view":
        return {"view": view(images[0], augment, normalize, generator=generator)}
    if function == "two_views":
        one, two = two_views(images[0], augment, normalize, 24, generator)
        return {"first": one, "second": two}
    batches = views_at_once(2, images, augment, normalize, 20, generator)
    return {f"batch {i}": torch.cat(batch) for i, batch in enumerate(batches)}


def probe(encoder: Callable[[Tensor], Tensor], **options: Any) -> Arrays:
    """Accuracy and test predictions of a linear probe on the encoder's features."""
    encoded = encode(encoder, dataset())
    result = linear_probe(encoded, **options)
    return {"accuracy": result.accuracy, "predictions": predictions(encoded, **options)}


def compute_features(encoder: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Features [N, D] of the training and of the test images."""
    data = dataset()
    return features(encoder, data.train), features(encoder, data.test)


def similarity_values(result: Any) -> Arrays:
    """Every measure of a comparison, first model by last model."""
    return {name: result.block(measure=name) for name in result.values}


# ---- end of the adapter --------------------------------------------------------------------------

STORE = Path(__file__).with_name("reference_values.json")
WHOLE = 256  # arrays of up to so many numbers are stored whole

# How far a case may move on another processor or with another torch. Measured on one processor, with
# torch's and oneDNN's AVX2 code switched off (ATEN_CPU_CAPABILITY=default, ONEDNN_MAX_CPU_ISA=AVX):
# training moved by up to 1.5e-3, views 4.4e-6, evaluation 2.9e-6, similarity 1.3e-4, SIM 3e-4.
TOLERANCE = {"train": 5e-3, "views": 5e-5, "evaluate": 5e-5, "similarity": 1e-3, "sim": 1e-3}
COARSE = {"knn": 0.1, "test_accuracy": 0.1}  # after training: one of 200 test images is 1 to 3 %


@dataclass(frozen=True)
class Case:
    """One stored result: how it is computed, and how closely it must be met."""

    compute: Callable[[], Arrays]
    tolerance: float
    exact: bool = True  # every bit, on the processor that made the file


CASES: dict[str, Case] = {}


def add(name: str, compute: Callable[[], Arrays], **options: Any) -> None:
    CASES[name] = Case(compute, **({"tolerance": TOLERANCE[name.split("/")[0]]} | options))


# ---- inputs --------------------------------------------------------------------------------------


def uniform(*shape: int, seed: int = 0) -> Tensor:
    """Numbers in 0 .. 1, the same on every processor: torch.randn's last bits are not."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def flat(tensors: Any) -> Tensor:
    """All tensors as one vector."""
    return torch.cat([t.detach().contiguous().flatten().float() for t in tensors])


@functools.cache
def image_batches(channels: int) -> list[Tensor]:
    """Two batches of 10 bundled images, uint8 [10, C, 28, 28]; colour is three images in one."""
    grey = load_data("fashion").train.images[: 20 * channels]
    return list(grey.reshape(20, channels, 28, 28).split(10))


def fixed_encoder() -> nn.Module:
    """A small encoder with random weights that nothing has trained: [N, 1, 32, 32] -> [N, 24]."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 12, 5, stride=2),  # [N, 12, 14, 14]
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 24, 3, stride=2),  # [N, 24, 6, 6]
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def small_resnet(seed: int = 1) -> nn.Module:
    """torchvision's ResNet with one block a stage: [N, 3, 32, 32] -> [N, 10]."""
    torch.manual_seed(seed)
    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10).eval()


class SmallTransformer(nn.Module):
    """A vision transformer of two layers: [N, 3, 32, 32] -> [N, 7]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.patches = nn.Conv2d(3, 24, 8, stride=8)
        self.class_token = nn.Parameter(uniform(1, 1, 24))
        layer = nn.TransformerEncoderLayer(24, 2, 48, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(24, 7)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)  # [N, 16, 24]
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), tokens], dim=1)
        return self.head(self.encoder(tokens)[:, 0])


# ---- training ------------------------------------------------------------------------------------

add("train/simsiam", lambda: train("simsiam"))
add("train/simclr", lambda: train("simclr"))
add(
    "train/simsiam with sim",
    lambda: train("simsiam", {"sim_layers": "blocks.*", "sim_tokens": 0.7, "sim_small": "two"}),
    tolerance=1e-2,
)
add("train/fixed predictor", lambda: train("simsiam", None, {"predictor": "fixed"}))
add("train/no stop-gradient", lambda: train("simsiam", None, {"stop_gradient": False}))
add("train/supervised", lambda: train("supervised"), tolerance=1e-2)

# ---- views ---------------------------------------------------------------------------------------


def views_of(recipe: str, channels: int) -> Arrays:
    arrays: Arrays = {}
    for function in ("view", "two_views", "views_at_once"):
        for name, value in make_views(function, recipe, image_batches(channels)).items():
            arrays[f"{function} {name}"] = value
    return arrays


for recipe_name in RECIPES:
    for channel_count in (1, 3):
        add(
            f"views/{recipe_name} {channel_count}",
            functools.partial(views_of, recipe_name, channel_count),
        )

# ---- evaluation ----------------------------------------------------------------------------------


def scattered_images() -> Arrays:
    data = dataset()
    return {"train": data.train.images, "test": data.test.images, "factors": data.train.factors}


def features_of_encoder() -> Arrays:
    train_features, test_features = compute_features(fixed_encoder())
    return {"train": train_features, "test": test_features}


def untrained_encoder() -> Arrays:
    """The first weights of the default encoder, and its features."""
    torch.manual_seed(0)
    encoder, _ = build_encoder("tiny", 1, 32)
    return {"weights": flat(encoder.state_dict().values()), "test": compute_features(encoder)[1]}


def knn_of(encoder: Callable[[Tensor], Tensor], k: int) -> Arrays:
    data = dataset()
    bank, queries = compute_features(encoder)
    arguments = bank, data.train.labels, queries
    return {
        "predictions": knn_predict(*arguments, k=k),
        "accuracy": round(knn_accuracy(*arguments, data.test.labels, k=k), 6),
        "of the encoder": round(knn(encoder, data, k=k), 6),
    }


def collapsed_features() -> Tensor:
    """Features [120, 16] on twelve tight points in four dimensions."""
    centres = (uniform(12, 4, seed=4) - 0.5) @ (uniform(4, 16, seed=5) - 0.5)
    return centres.repeat(10, 1) + 1e-3 * (uniform(120, 16, seed=6) - 0.5)


def ridge_of_encoder() -> Arrays:
    data = dataset()
    train_features, test_features = compute_features(fixed_encoder())
    targets = data.train.factors, data.test.factors
    return {"r2": ridge_r2(train_features, test_features, *targets)}


def spread_features() -> Tensor:
    return uniform(150, 24, seed=7) - 0.4


add("evaluate/scattered images", scattered_images)
add("evaluate/features", features_of_encoder)
add("evaluate/untrained encoder", untrained_encoder)
# 3 of 384 are few enough for a search in lower precision, where there is one
for neighbours in (3, 200):
    add(
        f"evaluate/knn {neighbours}",
        functools.partial(lambda k: knn_of(fixed_encoder(), k), neighbours),
    )
add("evaluate/knn of raw pixels", lambda: knn_of(raw_pixels, 20))
# Any solver that has converged meets these: no bits are compared, and a few predictions may differ.
add("evaluate/probe", lambda: probe(fixed_encoder()), tolerance=0.02, exact=False)
add(
    "evaluate/probe of 100 labels",
    lambda: probe(fixed_encoder(), labels=100, seed=1),
    tolerance=0.02,
    exact=False,
)
add(
    "evaluate/probe of raw pixels",
    lambda: probe(raw_pixels, labels=200),
    tolerance=0.02,
    exact=False,
)
add(
    "evaluate/probe by sgd",
    lambda: probe(fixed_encoder(), solver="sgd", epochs=20),
    tolerance=0.02,
    exact=False,
)
add("evaluate/collapse metrics", lambda: collapse_metrics(spread_features()))
add("evaluate/collapse metrics of tight points", lambda: collapse_metrics(collapsed_features()))
add("evaluate/ridge", ridge_of_encoder, exact=False)

# ---- similarity: plain functions of two matrices -------------------------------------------------


@functools.cache
def matrices() -> tuple[Tensor, Tensor, Tensor]:
    """X [60, 12], Y [60, 20] that shares five directions with it, and a confounder Z [60, 3]."""
    x = uniform(60, 12, seed=11)
    y = x[:, :5] @ uniform(5, 20, seed=12) + uniform(60, 20, seed=13)
    return x, y, x[:, :3] + uniform(60, 3, seed=14)


def plain(function: str, *variants: dict) -> Arrays:
    """A function of X and Y, of Y and X, with each variant's options."""
    x, y, _ = matrices()
    measure = getattr(similarity, function)
    values = []
    for options in variants or ({},):
        values += [measure(x, y, **options), measure(y, x, **options)]
    return {"values": values}


def plain_deconfounded() -> Arrays:
    measure = similarity.deconfounded_cka_similarity
    variants: list[dict] = [{}, {"clamp": True}, {"debiased": False}]
    return {"values": [measure(*matrices(), **options) for options in variants]}


def from_gram() -> Arrays:
    x, y, _ = matrices()
    grams = [similarity.Representation.from_gram(m @ m.T) for m in (x, y)]
    measures = similarity.cka_similarity, similarity.procrustes_distance, similarity.cca_similarity
    return {"values": [measure(*grams) for measure in measures]}


BIASES = {"debiased": True}, {"debiased": False}
PLAIN: dict[str, tuple[dict, ...]] = {
    "hsic": BIASES,
    "cka_similarity": BIASES,
    "rbf_cka_similarity": (*BIASES, {"scale": 0.5}),
    "procrustes_distance": ({"form": "squared"}, {"form": "angle"}, {"form": "complement"}),
    "cca_similarity": ({}, {"squared": True}, {"variance": 0.8}),
    "svcca_similarity": ({}, {"variance": 0.7}),
    "pwcca_similarity": (),
    "regression_similarity": (),
    "rsa_similarity": ({}, {"metric": "cosine"}, {"metric": "correlation"}),
    "mutual_knn_similarity": ({}, {"k": 5}, {"metric": "cosine"}),
}
for function_name, option_sets in PLAIN.items():
    add(f"similarity/{function_name}", functools.partial(plain, function_name, *option_sets))
add("similarity/deconfounded_cka_similarity", plain_deconfounded)
add("similarity/from a Gram matrix", from_gram)

# ---- similarity: layers of models ----------------------------------------------------------------

LAYERS = {
    "resnet": ["conv1", "layer1", "layer2", "layer4", "avgpool", "fc"],
    "transformer": ["patches", "encoder.layers.0", "encoder.layers.1", "head"],
}
NARROW = {"resnet": ["fc"], "transformer": ["head"]}  # PWCCA is unique for few features alone
CKA_FAMILY = ["cka", "rbf_cka", "deconfounded_cka"]
ALL_MEASURES = [
    *("cka", "rbf_cka", "deconfounded_cka"),
    *("procrustes_distance", "procrustes_angle", "procrustes_complement"),
    *("cca", "svcca", "pwcca", "regression"),
    *("rsa", "rsa_correlation", "mutual_knn", "mutual_knn_cosine"),
]
WIDE_MEASURES = [name for name in ALL_MEASURES if name != "pwcca"]


@functools.cache
def inputs() -> Tensor:
    """96 inputs [96, 3, 32, 32]: three scattered images make one in colour."""
    images = dataset().train.images[:288].reshape(96, 3, 32, 32)
    return images.float() / 128 - 1


@functools.cache
def models() -> dict[str, nn.Module]:
    return {"resnet": small_resnet(), "transformer": SmallTransformer()}


def compared(measures: Any = "cka", data: Any = None, **options: Any) -> Arrays:
    """All values of compare() for the ResNet and the transformer."""
    options = {"layers": LAYERS, "batch_size": 32} | options
    data = inputs() if data is None else data
    return similarity_values(compare(models(), data, measures=measures, **options))


def compared_with_null(measures: list[str], **options: Any) -> Arrays:
    result = compare(
        models(), inputs(), LAYERS, measures, samples=64, null=20, seed=3, batch_size=32, **options
    )
    arrays = similarity_values(result)
    for name in measures:
        arrays[f"null of {name}"] = np.nan_to_num(result.nulls[name])
        arrays[f"p of {name}"] = result.p_values(measure=name)
    return arrays


def intervals() -> Arrays:
    result = compare(models(), inputs(), LAYERS, CKA_FAMILY, batch_size=8)
    return {name: np.stack(result.interval(measure=name)) for name in CKA_FAMILY}


def streams() -> tuple[DataLoader, DataLoader]:
    """The same labelled samples, which the second model sees darker."""
    labels = dataset().train.labels[:96]
    return tuple(
        DataLoader(TensorDataset(x, labels), batch_size=24) for x in (inputs(), inputs() * 0.5)
    )


def one_model() -> Arrays:
    result = compare(models()["resnet"], inputs(), LAYERS["resnet"], WIDE_MEASURES, samples=48)
    return similarity_values(result)


def three_models() -> Arrays:
    three = {"a": small_resnet(1), "b": small_resnet(5), "c": models()["transformer"]}
    names = {"a": ["layer1", "fc"], "b": ["layer1", "fc"], "c": ["encoder.layers.1", "head"]}
    result = compare(three, inputs(), names, CKA_FAMILY, batch_size=32)
    return {name: result.overview(measure=name) for name in CKA_FAMILY}


def shared_energy(x: Tensor, y: Tensor) -> float:
    """A measure of the user's: the norm of X'Y by the norms of X and Y."""
    return float((x.T @ y).norm() / x.norm() / y.norm())


def every_other(x: Tensor) -> Tensor:
    """A pooling of the user's: every other number."""
    return x.flatten(1)[:, ::2]


def mean_colour(x: Tensor) -> Tensor:
    """A confounder: [n, 3, H, W] -> [n, 3]."""
    return x.mean((2, 3))


POOLS = {"resnet": "mean", "transformer": "cls"}
TOKENS = LAYERS | {"transformer": LAYERS["transformer"][1:]}  # "cls" takes no maps
COMPARISONS: dict[str, dict[str, Any]] = {
    "stream debiased": {"measures": CKA_FAMILY},
    "stream biased": {"measures": CKA_FAMILY, "estimator": "biased"},
    "stream published": {"measures": CKA_FAMILY, "estimator": "published"},
    "stream with a short last batch": {"measures": CKA_FAMILY, "batch_size": 31},
    "probe set of every measure": {"measures": WIDE_MEASURES, "samples": 96},
    "probe set biased": {"measures": CKA_FAMILY, "samples": 80, "estimator": "biased"},
    "narrow layers": {"measures": ALL_MEASURES, "samples": 96, "layers": NARROW},
    "pool mean": {"measures": CKA_FAMILY, "pool": "mean"},
    "pool of each model": {"measures": CKA_FAMILY, "pool": POOLS, "layers": TOKENS},
    "pool function": {"pool": every_other},
    "confounder function": {"measures": "deconfounded_cka", "confounder": mean_colour},
    "confounder clamped": {
        "measures": "deconfounded_cka",
        "options": {"deconfounded_cka": {"clamp": True}},
    },
    "options": {
        "measures": ["rbf_cka", "mutual_knn"],
        "options": {"rbf_cka": {"scale": 0.5}, "mutual_knn": {"k": 4}},
        "samples": 60,
    },
    "a measure of the user's": {"measures": [shared_energy, "cka"], "samples": 50, "pool": "mean"},
}
for comparison, keywords in COMPARISONS.items():
    add(f"similarity/compare, {comparison}", functools.partial(compared, **keywords))
add(
    "similarity/compare, confounder tensor",
    lambda: compared("deconfounded_cka", confounder=uniform(96, 5, seed=15)),
)
add("similarity/compare, two streams", lambda: compared(CKA_FAMILY, streams()))
add(
    "similarity/compare, two streams as probe",
    lambda: compared(WIDE_MEASURES, streams(), samples=40),
)
add(
    "similarity/compare, null",
    lambda: compared_with_null(["cka", "rbf_cka", "procrustes_distance", "rsa"]),
)
add("similarity/compare, null deconfounded", lambda: compared_with_null(["deconfounded_cka"]))
add("similarity/compare, intervals", intervals)
# the arc cosine of the Procrustes angle is steep where a layer meets itself
add("similarity/compare, one model", one_model, tolerance=5e-3)
add("similarity/compare, three models", three_models)

# ---- similarity: the interface of simtorch -------------------------------------------------------


def wrapped_models() -> tuple[SimilarityModel, SimilarityModel]:
    return (
        SimilarityModel(models()["resnet"], "resnet", ["layer3", "fc"]),
        SimilarityModel(models()["transformer"], "transformer", ["layers.1", "head"]),
    )


def simtorch_style(measure: type, **options: Any) -> Arrays:
    loader = DataLoader(TensorDataset(inputs(), torch.arange(96)), batch_size=32)
    return {"matrix": measure(*wrapped_models(), **options).compute(loader)}


def activations() -> Arrays:
    arrays: Arrays = {}
    for model in wrapped_models():
        arrays |= model(inputs()[:8])
    return arrays


SIMTORCH: dict[str, tuple[type, dict]] = {
    "CKA": (CKA, {}),
    "CKA unbiased": (CKA, {"unbiased": True}),
    "CKA published": (CKA, {"published": True}),
    "DeltaCKA": (DeltaCKA, {}),
    "DeltaCKA clamped": (DeltaCKA, {"remove_negative_eig": True}),
    "Procrustes": (Procrustes, {}),
    "CCA": (CCA, {}),
}
for measure_name, (measure_class, class_options) in SIMTORCH.items():
    add(
        f"similarity/simtorch, {measure_name}",
        functools.partial(simtorch_style, measure_class, **class_options),
    )
add("similarity/simtorch, activations", activations)

# ---- SIM -----------------------------------------------------------------------------------------


class DecoratedBlock(nn.Module):
    """A block that gets SIM by the decorators: [N, 6, H, W] -> [N, 10, H, W]."""

    @init_proj("width_in", "width_out", proj_hidden=16, proj_dim=8, channel_sampling_ratio=0.5)
    def __init__(self) -> None:
        super().__init__()
        self.width_in, self.width_out = 6, 10
        self.conv = nn.Conv2d(6, 10, 3, padding=1)

    @forward_with_sim_cache()
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def loss_and_gradients(model: nn.Module, x: Tensor) -> Arrays:
    """SIM's loss of two passes, as of two views, and the gradient of every parameter."""
    torch.manual_seed(9)
    model.train()
    output = model(x) + model(x.flip(0))
    sim_loss = compute_loss_sim(model)
    (sim_loss + 1e-3 * output.square().mean()).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return {"loss": sim_loss, "gradients": flat(gradients)}


def attached(x: Tensor, model: nn.Sequential, **options: Any) -> Arrays:
    """SIM on the first two layers of a model."""
    attach_sim(model, ["0", "1"], x, beta=0.1, proj_hidden=32, proj_dim=16, **options)
    return loss_and_gradients(model, x)


def sim_on_maps(**options: Any) -> Arrays:
    torch.manual_seed(8)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3, stride=2), nn.Flatten())
    return attached(4 * uniform(10, 3, 12, 12, seed=21) - 2, model, **options)


def sim_on_tokens(**options: Any) -> Arrays:
    torch.manual_seed(8)
    model = nn.Sequential(nn.Linear(12, 12), nn.Linear(12, 20), nn.GELU())
    return attached(4 * uniform(6, 30, 12, seed=22) - 2, model, **options)


def sim_decorated() -> Arrays:
    torch.manual_seed(8)
    return loss_and_gradients(DecoratedBlock(), 4 * uniform(6, 6, 9, 9, seed=23) - 2)


def losses_of_tokens(count: int) -> Arrays:
    """Every loss type between two sets of tokens [5, count, 8], and its gradient."""
    arrays: Arrays = {}
    for loss_type in LOSS_TYPES:
        x, y = (uniform(5, count, 8, seed=seed).requires_grad_() for seed in (24, 25))
        loss = compute_sim_loss(x, y, loss_type)
        loss.backward()
        arrays |= {f"{loss_type} loss": loss, f"{loss_type} gradients": flat([x.grad, y.grad])}
    return arrays


for loss_name in LOSS_TYPES:
    for sampling in SAMPLING_TYPES:
        keywords = {"loss_type": loss_name, "token_sampling_type": sampling}
        add(
            f"sim/{loss_name} {sampling}",
            functools.partial(sim_on_maps, token_sampling_ratio=0.7, **keywords),
        )
add("sim/few tokens", lambda: sim_on_maps(token_sampling_ratio=8))
add("sim/sequences", lambda: sim_on_tokens(token_sampling_ratio=20))
add("sim/some channels", lambda: sim_on_maps(channel_sampling_ratio=0.5, token_sampling_ratio=0.7))
add("sim/decorators", sim_decorated)
add("sim/losses of 8 tokens", lambda: losses_of_tokens(8))
add("sim/losses of 24 tokens", lambda: losses_of_tokens(24))

# ---- records: what is stored of an array, and how two are compared -------------------------------


def record(value: Any) -> dict[str, Any]:
    """The digest of an array's bits, and its numbers: all of them, or a fingerprint of many."""
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    numbers = array.astype(np.float64).ravel()
    if not np.isfinite(numbers).all():
        raise ValueError("an array holds NaN or infinite values: it cannot be a reference")
    header = f"{array.dtype} {array.shape}".encode()
    digest = hashlib.sha256(header + np.ascontiguousarray(array).tobytes()).hexdigest()
    result: dict[str, Any] = {"sha256": digest, "shape": list(array.shape)}
    if array.size <= WHOLE:
        result["labels" if array.dtype.kind in "iu" else "numbers"] = array.ravel().tolist()
        return result
    place = np.arange(len(numbers))
    products = [float(np.cos(rate * place + rate) @ numbers) for rate in (0.37, 1.13, 2.71)]
    norm = float(np.linalg.norm(numbers))
    return result | {"fingerprint": [float(numbers.sum()), norm, *products]}


def distance(stored: dict[str, Any], computed: dict[str, Any]) -> float:
    """How far two records of one array are apart, on a scale on which the stored one has size 1.

    For labels it is the share that differs. For numbers it is the largest difference over the
    largest number. For a fingerprint it is the largest difference over the norm: noise of relative
    size r in the array moves its products by about r.
    """
    if stored["shape"] != computed["shape"]:
        return np.inf
    kind = next(key for key in ("labels", "numbers", "fingerprint") if key in stored)
    before, after = np.array(stored[kind]), np.array(computed[kind])
    if kind == "labels":
        return float((before != after).mean())
    scale = before[1] if kind == "fingerprint" else np.abs(before).max()
    return float(np.abs(before - after).max() / (scale or 1))


def compute_records(case: Case) -> dict[str, dict[str, Any]]:
    """Compute a case on one thread, whatever was drawn before it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return {name: record(value) for name, value in case.compute().items()}
    finally:
        torch.set_num_threads(threads)


def machine() -> dict[str, str]:
    """What must be equal for the same bits to come out."""
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "processor": names[0] if names else platform.processor(),
    }


@functools.cache
def load_store() -> dict[str, Any]:
    return json.loads(STORE.read_text(encoding="utf-8"))


# ---- tests ---------------------------------------------------------------------------------------


def test_every_case_is_stored_and_nothing_else() -> None:
    assert list(load_store()["values"]) == list(CASES)


@pytest.mark.parametrize("name", CASES)
def test_the_values_are_the_stored_ones(name: str) -> None:
    case, stored = CASES[name], load_store()["values"][name]
    computed = compute_records(case)
    assert list(computed) == list(stored)
    distances = {key: distance(stored[key], computed[key]) for key in stored}
    for key in stored:
        assert distances[key] <= COARSE.get(key, case.tolerance), (key, distances)
    if case.exact and machine() == load_store()["machine"]:
        changed = [key for key in stored if stored[key]["sha256"] != computed[key]["sha256"]]
        assert not changed, f"{changed}: other bits than stored, {distances} away"


@pytest.mark.parametrize("size", [WHOLE, 20_000])
def test_a_record_notices_noise_scale_order_and_a_single_number(size: int) -> None:
    x = uniform(size).double() - 0.5
    single = x.clone()
    single[size // 2] += 10
    noise = 1e-3 * (uniform(size, seed=1) - 0.5)
    for changed in (x + noise, 1.001 * x, x.flip(0), single):
        assert distance(record(x), record(changed)) > 1e-4
    assert distance(record(x), record(x + 1e-7 * noise)) < 1e-8


# ---- remaking ------------------------------------------------------------------------------------


def chosen_cases(patterns: list[str]) -> Iterator[str]:
    for name in CASES:
        if not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            yield name


def rewrite(patterns: list[str]) -> None:
    """Compute the cases that a pattern names (all, without one) and write them to the file."""
    old = load_store() if STORE.exists() else {"machine": machine(), "values": {}}
    if patterns and old["machine"] != machine():
        sys.exit(f"this is not the machine that made {STORE.name}: remake all of it, or nothing")
    values = {name: old["values"][name] for name in CASES if name in old["values"]}
    for name in chosen_cases(patterns):
        values[name] = compute_records(CASES[name])
        before = old["values"].get(name, {})
        if before != values[name]:
            common = before.keys() & values[name].keys()
            moved = max((distance(before[p], values[name][p]) for p in common), default=np.inf)
            print(f"{name}: moved by {moved:.2g}" if before else f"{name}: new")
    lines = [f"{json.dumps(name)}: {json.dumps(values[name])}" for name in CASES if name in values]
    text = f'{{"machine": {json.dumps(machine())},\n"values": {{\n' + ",\n".join(lines) + "\n}}\n"
    STORE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    rewrite(sys.argv[1:])
