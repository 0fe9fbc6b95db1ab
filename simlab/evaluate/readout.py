"""What a linear map can read from the layers of an encoder."""

from collections import defaultdict
from collections.abc import Sequence

import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from simlab.data.images import Dataset
from simlab.evaluate.collapse import effective_rank
from simlab.evaluate.features import ridge_r2
from simlab.layers import select, tapped


def what_is_kept(
    encoder: nn.Module, data: Dataset, layers: Sequence[str], images: int = 1000
) -> pd.DataFrame:
    """What a linear map can read from each layer's output, a row a layer.

    rebuild: R² of the image itself (16 x 16 pixels), read from the layer's map, averaged to at
    most 4 x 4 positions. One column a known factor of the data: R² read from the average over all
    positions (angles by cosine and sine). rank: effective rank of that average. Ridge regression on
    that many training images, its strength by leave-one-out; R² on as many test images. ValueError
    for a layer that is not there.
    """
    names, maps, sides = select(encoder, layers), defaultdict(list), []
    with tapped(encoder, names, lambda name, _, y: maps[name].append(y.float())) as forward:
        for part in (data.train, data.test):
            part = part.subset(torch.arange(min(images, len(part))))
            x = data.normalize(part.images)
            forward(x)
            small = F.adaptive_avg_pool2d(x, min(16, data.train.size)).flatten(1)
            sides.append({"rebuild": small} | part.factor_targets())
    rows = []
    for name in names:
        side = min(4, maps[name][0].shape[-1])
        grids = [F.adaptive_avg_pool2d(y, side).flatten(1) for y in maps[name]]  # [N, C * side**2]
        means = [y.mean((2, 3)) for y in maps[name]]  # [N, C]
        row = {"layer": name, "rank": effective_rank(means[1])}
        for what, y in sides[0].items():
            row[what] = ridge_r2(*(grids if what == "rebuild" else means), y, sides[1][what])
        rows.append(row)
    return pd.DataFrame(rows)
