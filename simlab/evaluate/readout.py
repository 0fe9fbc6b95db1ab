"""What a linear map can read from an encoder: known factors, and the image, layer by layer."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simlab.data import Dataset, Images
from simlab.layers import Axes, select_layers, tapped

from .collapse import effective_rank
from .features import Encoder, features

IMAGE_SIDE = 16  # pixels of the image that is to be rebuilt
MAP_SIDE = 4  # positions along a side of the feature map from which it is rebuilt


def ridge_r2(x: Tensor, x_test: Tensor, y: Tensor, y_test: Tensor) -> float:
    """Fit a ridge regression, its strength by leave-one-out, and return R^2 on the test rows.

    Args:
        x: Features [N, D].
        x_test: Features [M, D].
        y: Targets [N, T].
        y_test: Targets [M, T].
    """
    from sklearn.linear_model import RidgeCV

    # one scale for all columns: a channel that is almost always zero would blow up by its own
    scale = x.std().clamp_min(1e-6)
    mean = x.mean(0)
    inputs, test_inputs = (_float64((rows - mean) / scale) for rows in (x, x_test))
    targets, test_targets = _float64(y), _float64(y_test)
    model = RidgeCV(np.logspace(-1, 5, 7)).fit(inputs, targets)
    predicted = model.predict(test_inputs).reshape(test_targets.shape)
    residual = ((test_targets - predicted) ** 2).sum()
    total = ((test_targets - targets.mean(0)) ** 2).sum()
    return float(1 - residual / total)


def _float64(rows: Tensor) -> np.ndarray:
    array: np.ndarray = rows.cpu().double().numpy()
    return array


def factor_scores(encoder: Encoder, data: Dataset) -> dict[str, float]:
    """Measure how well a linear map finds each known factor in the features: R^2 on the test split.

    1: exactly; 0: no better than the mean (may be slightly below). Ridge regression from all
    training images; an angle in degrees is predicted as its cosine and sine.

    Raises:
        ValueError: The dataset has no known factors.
    """
    targets = data.train.factor_targets()
    test_targets = data.test.factor_targets()
    if not targets:
        raise ValueError(f"{data.name} has no known factors: fashion-scattered has")
    x = features(encoder, data.train)
    x_test = features(encoder, data.test)
    scores = {}
    for name, values in targets.items():
        scores[name] = ridge_r2(x, x_test, values, test_targets[name])
    return scores


def what_is_kept(
    encoder: nn.Module, data: Dataset, layers: Sequence[str], images: int = 1000
) -> pd.DataFrame:
    """Measure what a linear map can read from each layer's output.

    Args:
        encoder: The network.
        data: Its training split is fitted to, its test split is evaluated.
        layers: Names or globs of layers whose outputs are maps, [N, C, H, W] or [N, H, W, C].
        images: Number of training images, and of test images.

    Returns:
        A row a layer. `rebuild`: R^2 of the image itself (16 x 16 pixels), read from the layer's
        map, averaged to at most 4 x 4 positions. A column for each known factor of the data: R^2
        read from the average over all positions. `rank`: effective rank of that average.

    Raises:
        ValueError: A layer is not there, or gives no map whose channels are known.
    """
    names = list(select_layers(encoder, layers))
    maps: dict[str, list[Tensor]] = defaultdict(list)  # of the training and of the test images

    def collect(name: str, module: nn.Module, output: Tensor | None, axes: Axes) -> None:
        if output is None or output.dim() != 4 or axes.channels is None:
            fault = axes.why if output is None else f"is {list(output.shape)}"
            raise ValueError(f"the output of layer {name!r} {fault}: expected a map [N, C, H, W]")
        maps[name].append(output.movedim(axes.channels, 1).float())

    with tapped(encoder, names, collect) as forward:
        targets = _run_and_describe(forward, data, data.train, images)
        test_targets = _run_and_describe(forward, data, data.test, images)
    rows = []
    for name in names:
        side = min(MAP_SIDE, maps[name][0].shape[-1])
        grids = [F.adaptive_avg_pool2d(y, side).flatten(1) for y in maps[name]]  # [N, C * side^2]
        means = [y.mean((2, 3)) for y in maps[name]]  # [N, C]
        row: dict[str, Any] = {"layer": name, "rank": effective_rank(means[1])}
        for target, values in targets.items():
            x, x_test = grids if target == "rebuild" else means
            row[target] = ridge_r2(x, x_test, values, test_targets[target])
        rows.append(row)
    return pd.DataFrame(rows)


def _run_and_describe(forward: Any, data: Dataset, split: Images, number: int) -> dict[str, Tensor]:
    """Run the first images of a split through the encoder; return what is to be read from it."""
    subset = split.subset(torch.arange(min(number, len(split))))
    x = data.normalize(subset.images)
    forward(x)
    small = F.adaptive_avg_pool2d(x, min(IMAGE_SIDE, data.train.size)).flatten(1)
    return {"rebuild": small} | subset.factor_targets()
