"""Figures of what a method has learned inside: attention, reconstructions, terms, spectra."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from .figures import image_rows
from .style import FONT, label, looks_of, new_figure


def attention_rows(images: Tensor, maps: Tensor) -> Figure:
    """Draw where each head of a vision transformer looks, below the images.

    Args:
        images: [N, C, S, S], uint8 or float in 0 .. 1.
        maps: [N, heads, rows, columns], as `TinyViT.attention_maps` gives them; each is drawn on a
            scale of its own, from 0 to its largest value.
    """
    rows = {"image": images}
    side = images.shape[-1]
    for head in range(maps.shape[1]):
        one_head = maps[:, head : head + 1]  # [N, 1, rows, columns]
        brightness = one_head / one_head.amax((2, 3), keepdim=True)
        rows[f"head {head + 1}"] = F.interpolate(brightness, size=(side, side))
    return image_rows(rows)


def reconstruction_rows(
    images: Tensor, visible: Tensor, rebuilt: Tensor, is_normalised: bool
) -> Figure:
    """Draw images, what of them was visible, and what a masked autoencoder made of that.

    Args:
        images: [N, C, S, S], uint8 or float in 0 .. 1.
        visible: The same with hidden patches greyed out.
        rebuilt: As `MAEModule.rebuild` gives them.
        is_normalised: Whether the network predicts patches without their mean and std, which the
            figure then says were taken from the true ones.
    """
    figure = image_rows({"image": images, "visible": visible, "rebuilt": rebuilt})
    if is_normalised:
        figure.supxlabel(
            "mean and contrast of each rebuilt patch are the true ones; the rest is predicted",
            fontsize=FONT - 2,
        )
    return figure


def loss_terms(table: pd.DataFrame) -> Figure:
    """Draw each term of a loss and its gradient's length over the epochs.

    Args:
        table: As `simlab.train.loss_terms` gives it: epoch, term, value, gradient.
    """
    figure, (values, gradients) = new_figure(2, height=3.2)
    terms = {str(name): rows for name, rows in table.groupby("term", sort=False)}
    looks = looks_of(terms)
    for name, rows in terms.items():
        values.plot(rows["epoch"], rows["value"], label=name, **looks[name])
        gradients.plot(rows["epoch"], rows["gradient"], **looks[name])
    gradients.set_yscale("log")
    label(values, "terms of the loss", "epoch")
    label(gradients, "length of each term's gradient", "epoch")
    values.legend(fontsize=FONT - 2, frameon=False)
    return figure


def spectra(values: Mapping[str, Tensor]) -> Figure:
    """Draw the singular values of embeddings, each as a share of its largest, largest first.

    Args:
        values: As `simlab.evaluate.spectrum` gives them, by name. A method's class name, such as
            "SimCLR", has the method's look.
    """
    figure, ax = new_figure(width=7.5, height=3.6)
    looks = looks_of(values)
    for name, singular in values.items():
        shares = (singular / singular[0]).cpu().numpy()
        places = np.arange(1, len(shares) + 1)
        ax.plot(
            places,
            shares,
            label=name,
            **looks[name],
            markevery=max(1, len(shares) // 8),
        )
    ax.set(yscale="log", ylim=(1e-4, 1.5))
    label(ax, "spectrum of z", "direction, largest first", "singular value, of the largest")
    figure.legend(loc="outside right center", fontsize=FONT - 1, frameon=False)
    return figure
