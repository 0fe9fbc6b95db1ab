"""A run while it trains, the epochs of a run, and the collapse lab's switches."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from simlab.evaluate import COMPLETE_STD_RATIO
from simlab_course import figures

from .explorer import Drawing, Explorer, as_words, buttons, require_table, steps

CURVES = ["loss", "std_ratio", "knn"]


class LiveCurves(Explorer):
    """Loss, std of z and kNN accuracy of a run, redrawn by `on_epoch`."""

    def on_epoch(self, history: Any) -> None:
        """Draw a history: the argument `on_epoch` of `pretrain`."""
        self.redraw(history=history)


def live_curves(
    epochs: int,
    baselines: Mapping[str, float] | None = None,
    loss_axis: str = "loss",
) -> LiveCurves:
    """Show loss, std of z and kNN accuracy, growing while a run trains.

        live = live_curves(config.epochs)
        display(live)
        run = pretrain(config, on_epoch=live.on_epoch)
        live.on_epoch(run.history)  # complete, also where the run was stored and nothing trained

    Args:
        epochs: How many there will be.
        baselines: kNN accuracies of encoders that were not trained.
        loss_axis: The loss in words, as `Method.loss_axis` has it.
    """

    def draw(history: Any) -> Drawing:
        table = pd.DataFrame(history).reindex(columns=["epoch", *CURVES])
        figure = figures.training_curves({"": table}, baselines or {}, loss_axis)
        for ax in figure.axes:
            ax.set_xlim(0.5, epochs + 0.5)
        last = table.iloc[-1]
        knn = table["knn"].dropna()
        accuracy = f"{knn.iloc[-1]:.1%}" if len(knn) else "not measured yet"
        alt = (
            f"Three curves up to epoch {last['epoch']:.0f} of {epochs}: loss {last['loss']:.2f}, "
            f"std of z {last['std_ratio']:.2f} (1 is healthy), kNN accuracy {accuracy}."
        )
        return figure, alt

    return LiveCurves(draw)  # no controls: it waits for its first history


def epoch_scrubber(
    maps: Mapping[int, np.ndarray], labels: Tensor, classes: Sequence[str]
) -> Explorer:
    """Show a two-dimensional map of the features that moves through the epochs of a run.

    Args:
        maps: [N, 2] by epoch, the same images in each and laid out alike (start each t-SNE from the
            map before). The axes stand still.
        labels: [N].
        classes: Their names.
    """
    shapes = {epoch: np.shape(xy) for epoch, xy in maps.items()}
    if set(shapes.values()) != {(len(labels), 2)}:
        raise ValueError(f"maps: expected [{len(labels)}, 2], one row a label, not {shapes}")
    has_classes = bool((labels >= 0).any())
    all_points = np.concatenate(list(maps.values()))
    same_class = {epoch: _same_class_next_to_it(xy, labels) for epoch, xy in maps.items()}
    first_epoch = next(iter(maps))

    def draw(epoch: int) -> Drawing:
        title = f"epoch {epoch}"
        if has_classes:
            title += f": {same_class[epoch]:.0%} lie next to their own class"
        figure = figures.feature_map({title: maps[epoch]}, labels, classes)
        # nothing to see: it makes room for every epoch
        figure.axes[0].plot(all_points[:, 0], all_points[:, 1], linestyle="none")
        if not has_classes:
            return figure, f"Map of {len(labels)} images without labels after epoch {epoch}."
        alt = (
            f"Map of {len(labels)} images, coloured by class, after epoch {epoch}. The nearest "
            f"neighbour on the map is of the same class for {same_class[epoch]:.1%}; at epoch "
            f"{first_epoch} it was {same_class[first_epoch]:.1%}."
        )
        return figure, alt

    # at first the last epoch: what a page without controls shows
    return Explorer(draw, epoch=steps("epoch", sorted(maps), index=len(maps) - 1))


def _same_class_next_to_it(xy: np.ndarray, labels: Tensor) -> float:
    """Return the fraction of points whose nearest neighbour on the map has their class."""
    from sklearn.neighbors import NearestNeighbors  # loading it takes two seconds

    neighbours = NearestNeighbors(n_neighbors=1).fit(xy).kneighbors(return_distance=False)
    is_same = (labels[neighbours[:, 0]] == labels)[labels >= 0]
    return float(is_same.double().mean())


# The names under which these runs have their looks in the lessons' other figures.
LOOKS_OF_SWITCHES = {
    "stop-gradient on, predictor mlp": "SimSiam",
    "stop-gradient on, predictor none": "no predictor",
    "stop-gradient off, predictor mlp": "no stop-gradient",
}


def collapse_switches(table: pd.DataFrame) -> Explorer:
    """Show the collapse lab's curves, with switches for stop-gradient and predictor.

    All runs stay in the background, so that the axes stand still.

    Args:
        table: A row a run and epoch with the columns stop_gradient (bool), predictor (names or
            bool), epoch, loss, std_ratio, knn (NaN where it was not measured), and seed where there
            are several: the curves are then means.
    """
    keys = ["stop_gradient", "predictor"]
    require_table(table, [*keys, "epoch", *CURVES], [*keys, "epoch"])
    mean = table.groupby([*keys, "epoch"], as_index=False)[CURVES].mean()
    runs = dict(iter(mean.groupby(keys)))
    nothing = mean[:0]

    def draw(stop_gradient: Any, predictor: Any) -> Drawing:
        name = f"stop-gradient {as_words(stop_gradient)}, predictor {as_words(predictor)}"
        history = runs.get((stop_gradient, predictor), nothing)
        look = LOOKS_OF_SWITCHES.get(name, name)
        figure = figures.training_curves({look: history}, {}, "loss (lower limit -1)")
        for ax, column in zip(figure.axes, CURVES, strict=True):
            for run in runs.values():
                measured = run.dropna(subset=[column])
                ax.plot(
                    measured["epoch"], measured[column], "-", color="0.8", linewidth=3, zorder=0
                )
        verdict, alt = _describe(name, history)
        figure.suptitle(f"{name}: {verdict}", fontsize=figures.FONT + 1)
        return figure, alt

    controls = {name: buttons(name, table[name].unique().tolist()) for name in keys}
    return Explorer(draw, **controls)


def _describe(name: str, history: pd.DataFrame) -> tuple[str, str]:
    """Return the verdict of a run and its text alternative."""
    if not len(history):
        return "not among the runs", f"There is no run with {name}; those there are run in grey."
    last = history.iloc[-1]
    knn = history["knn"].dropna()
    collapsed = last["std_ratio"] < COMPLETE_STD_RATIO
    verdict = "collapsed" if collapsed else "no complete collapse"
    accuracy = f", the kNN accuracy {knn.iloc[-1]:.1%}" if len(knn) else ""
    alt = (
        f"Three curves with {name}, the other runs in grey. In the end the loss is "
        f"{last['loss']:.2f}, the std of z {last['std_ratio']:.2f} (1 is healthy){accuracy}: "
        f"{verdict}."
    )
    return verdict, alt
