"""Figures to play with: controls over one image, which a pure function draws from their values.

    explorer = cka_playground()
    explorer                           # the last line of a cell: live where a kernel runs, and the
                                       # figure of its first state on GitHub, in HTML and in print
    figure, alt = explorer.draw(**explorer.state)    # the same as plain Python, without a kernel

Nothing slow is computed here: tables, maps and features come from outside. There is no Output area
(batch runs hang in it, and it swallows errors): a control that moves sets an <img> with its text
alternative. The drawing is by plots.py, with its colours.
"""

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import product
from textwrap import fill
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from simlab.augment import Augment, Normalize, view
from simlab.data.images import Dataset
from simlab.evaluate.collapse import COMPLETE_STD_RATIO
from simlab.evaluate.probe import Features
from simlab.similarity import Result, cka_similarity
from simlab.stats import need_columns, need_seeds_alone
from simlab_course import figures

# least, most and step of a strength's slider; 0 to 1 by 0.1 where nothing is said
STRENGTHS = {
    "crop": (0.05, 1.0, 0.05),
    "ratio": (1.0, 4.0, 0.1),
    "rotate": (0.0, 180.0, 15.0),
    "hue": (0.0, 0.5, 0.05),
    "blur_sigma": (0.1, 5.0, 0.1),
}
CURVES = ["loss", "std_ratio", "knn"]
RANGES = ("crop", "blur_sigma")  # least and most on one slider
MOUSE_CELLS = 900  # cells of a heat map that can be clicked; each is a button
LOOK = {"style": {"description_width": "9em"}, "layout": {"width": "26em"}}


class Explorer(ipywidgets.VBox):
    """Controls above one image.

    draw: a pure function of the controls' values by name, to (Figure, text alternative).
    `controls` are the widgets by name, `state` their values, `image` the HTML with the image.
    """

    def __init__(self, draw: Callable[..., tuple[Figure, str]], **controls: ipywidgets.Widget):
        self.draw, self.controls, self.image = draw, controls, ipywidgets.HTML()
        self.alt = self.png = ""
        row = ipywidgets.Box([*controls.values()], layout={"flex_flow": "row wrap"})
        super().__init__([row, self.image])
        for control in controls.values():
            control.observe(self.redraw, "value")
        if controls:
            self.redraw()

    @property
    def state(self) -> dict[str, Any]:
        return {name: control.value for name, control in self.controls.items()}

    def redraw(self, change: Any = None, **more: Any):
        try:
            self.figure, self.alt = self.draw(**self.state, **more)
            self.png = figures.png(self.figure)
        except Exception as error:  # a kernel hides what an observer raises
            self.image.value = f'<p role="alert">{html.escape(f"{error!r}")}</p>'
            raise
        alt, source = html.escape(self.alt), f"data:image/png;base64,{self.png}"
        style = "display: block; max-width: 100%"
        self.image.value = f'<img alt="{alt}" src="{source}" style="{style}">'

    def _ipython_display_(self):
        """One output for both: whatever shows no widget shows the image and its alternative."""
        from IPython.display import display

        live = "application/vnd.jupyter.widget-view+json"
        data = {live: self._repr_mimebundle_()[live]}
        if self.png:
            data |= {"text/plain": self.alt, "image/png": self.png}
        display(data, raw=True, metadata={"image/png": {"alt": self.alt}})


def two_view_explorer(images: Tensor, normalize: Normalize, recipe: Augment) -> Explorer:
    """Images and two random views of each, with a slider for every strength of the recipe.

    images: uint8 [N, C, H, W], of which eight are shown; recipe: where the sliders start. Least and most (crop, blur sigma) share a slider. What needs colour is off on grey ones.
    """
    shown, own = images[:8], vars(recipe)

    def draw(draw_number, **strengths) -> tuple[Figure, str]:
        for name in RANGES:
            strengths[f"{name}_min"], strengths[f"{name}_max"] = strengths.pop(name)
        rows = {"image": shown}
        for which in (1, 2):  # a generator each: a step switched on moves nothing else
            generator = torch.Generator().manual_seed(2 * draw_number + which)
            x = view(shown, Augment(**strengths), normalize, generator=generator)
            rows[f"view {which}"] = normalize.undo(x)
        apart = float((rows["view 1"] - rows["view 2"]).abs().mean())
        said = ", ".join(f"{name} {value:.3g}" for name, value in strengths.items())
        return figures.image_rows(rows), (
            f"{len(shown)} images, and below each two views of it, draw {draw_number}. A pixel "
            f"of the two differs by {apart:.3f} on average, of 1 from black to white. {said}."
        )

    controls = {"draw_number": _slider("draw", 0, 0, 100, 1)}
    for name in dict.fromkeys(name.removesuffix("_min").removesuffix("_max") for name in own):
        value = (own[f"{name}_min"], own[f"{name}_max"]) if name in RANGES else own[name]
        controls[name] = _slider(name, value, *STRENGTHS.get(name, ()))
        controls[name].disabled = name in ("saturation", "hue", "grey") and images.shape[1] == 1
    return Explorer(draw, **controls)


def live_curves(epochs: int, baselines: Mapping[str, float] | None = None) -> Explorer:
    """Loss, std of z and kNN accuracy, growing while a run trains.

        live = live_curves(config.epochs)
        display(live)
        run = pretrain(config, on_epoch=live.on_epoch)
        live.on_epoch(run.history)  # complete, also where the run was stored and nothing trained

    epochs: how many there will be. baselines: kNN accuracies of what was not trained.
    """

    def draw(history) -> tuple[Figure, str]:
        history = pd.DataFrame(history).reindex(columns=["epoch", *CURVES])
        figure = figures.training_curves({"": history}, baselines or {})
        for ax in figure.axes:
            ax.set_xlim(0.5, epochs + 0.5)
        last, knn = history.iloc[-1], history["knn"].dropna()
        accuracy = f"{knn.iloc[-1]:.1%}" if len(knn) else "not measured yet"
        return figure, (
            f"Three curves up to epoch {last['epoch']:.0f} of {epochs}: loss {last['loss']:.2f}, "
            f"std of z {last['std_ratio']:.2f} (1 is healthy), kNN accuracy {accuracy}."
        )

    explorer = Explorer(draw)  # no controls: it waits for its first history
    explorer.on_epoch = lambda history: explorer.redraw(history=history)
    return explorer


def epoch_scrubber(
    maps: Mapping[int, np.ndarray], labels: Tensor, classes: Sequence[str]
) -> Explorer:
    """A two-dimensional map of the features that moves through the epochs of a run.

    maps: {epoch: [N, 2]}, the same images in each and laid out alike (start each t-SNE from the
    map before); labels: [N]. The axes stand still.
    """
    shapes = {epoch: np.shape(xy) for epoch, xy in maps.items()}
    if set(shapes.values()) != {(len(labels), 2)}:
        raise ValueError(f"maps: expected [{len(labels)}, 2], one row a label, not {shapes}")
    stacked, same = np.concatenate([*maps.values()]), {}
    for epoch, xy in maps.items():
        nearest = NearestNeighbors(n_neighbors=1).fit(xy).kneighbors(return_distance=False)[:, 0]
        same[epoch] = float((labels[nearest] == labels).double().mean())

    def draw(epoch) -> tuple[Figure, str]:
        title = f"epoch {epoch}: {same[epoch]:.0%} lie next to their own class"
        figure = figures.feature_map({title: maps[epoch]}, labels, classes)
        # nothing to see: it makes room for every epoch
        figure.axes[0].plot(*stacked.T, linestyle="none")
        return figure, (
            f"Map of {len(labels)} images, coloured by class, after epoch {epoch}. The nearest "
            f"neighbour on the map is of the same class for {same[epoch]:.1%}; at epoch "
            f"{[*maps][0]} it was {[*same.values()][0]:.1%}."
        )

    return Explorer(draw, epoch=_steps("epoch", sorted(maps)))


def neighbour_browser(encoded: Mapping[str, Features], data: Dataset) -> Explorer:
    """A test image and its nearest training images, a row for every encoder.

    encoded: {name: what `probe.encode` gives}; nearness is the cosine. Frames and words tell what
    is of the query's class.
    """
    bank = {name: F.normalize(f.train[: len(data.train)], dim=1) for name, f in encoded.items()}
    for name, feats in encoded.items():
        if (len(bank[name]), len(feats.test)) != (len(data.train), len(data.test)):
            raise ValueError(
                f"{name}: features of {len(feats.train)} and {len(feats.test)} "
                f"images, not {len(data.train)} and {len(data.test)}"
            )
    places = {
        data.classes[c]: (data.test.labels == c).nonzero()[:, 0]
        for c in data.test.labels.unique().tolist()
    }

    def draw(kind, number, neighbours) -> tuple[Figure, str]:
        at = int(places[kind][number % len(places[kind])])
        rows, right, titles, said = {}, {}, {}, []
        for name, feats in encoded.items():
            found = (bank[name] @ F.normalize(feats.test[at], dim=0)).topk(neighbours).indices
            labels = data.train.labels[found]
            rows[name] = torch.cat([data.test.images[at : at + 1], data.train.images[found]])
            right[name] = [None, *(labels == data.test.labels[at]).tolist()]
            titles[name] = ["query", *[data.classes[c] for c in labels.tolist()]]
            said.append(f"{name} {sum(right[name][1:])} of {neighbours}")
        return figures.image_rows(rows, titles, right), (
            f"Test image {at}, of the class {kind}, and its {neighbours} nearest training "
            f"images. Of the same class, in a green frame: {'; '.join(said)}."
        )

    number, neighbours = _slider("which of them", 0, 0, 49, 1), _slider("neighbours", 7, 1, 9, 1)
    kind = _buttons("class of the query", places)
    return Explorer(draw, kind=kind, number=number, neighbours=neighbours)


def budget_slider(table: pd.DataFrame) -> Explorer:
    """How many labels do other encoders need for what one of them does with few?

    table: of `probe.probe_table`, with the columns encoder, labels, accuracy and seed.
    """
    _need(table, ["encoder", "labels", "accuracy"], ["encoder", "labels"])
    means = table.pivot_table("accuracy", "labels", "encoder", sort=False).sort_index()

    def draw(encoder, labels) -> tuple[Figure, str]:
        target, needs = means.loc[labels, encoder], []
        for name, mean in means.drop(columns=encoder).items():
            enough = mean.index[mean >= target]
            most = f"more than {mean.last_valid_index():,}"
            needs.append(f"{name} {enough[0]:,}" if len(enough) else f"{name} {most}")
        said = "; ".join(needs)
        figure = figures.budget_curves(table)
        ax = figure.axes[0]
        ax.axvline(labels, color="0.5", linestyle=":", zorder=0)
        ax.axhline(target, color="0.5", linestyle=":", zorder=0)
        title = f"{encoder}, {labels:,} labels: {target:.1%}. As good with how many labels?"
        figures.label(ax, f"{title}\n{fill(said, 70)}", "labelled images", "test accuracy")
        return figure, (
            f"Accuracy of {means.shape[1]} encoders over the number of labels. {encoder} with "
            f"{labels:,} labels: {target:.1%}. To be as good need, of the budgets here: {said}."
        )

    options = [(f"{n:,}", n) for n in means.index.tolist()]
    return Explorer(draw, encoder=_buttons("encoder", means), labels=_steps("labels", options))


def collapse_switches(table: pd.DataFrame) -> Explorer:
    """The collapse lab's curves, with switches for stop-gradient and predictor.

    table: a row a run and epoch with the columns stop_gradient (bool), predictor (names or bool),
    epoch, loss, std_ratio, knn (NaN where it was not measured), and seed where there are several:
    the curves are then means. All runs stay in the background, so that the axes stand still.
    """
    keys = ["stop_gradient", "predictor"]
    _need(table, [*keys, "epoch", *CURVES], [*keys, "epoch"])
    mean = table.groupby([*keys, "epoch"], as_index=False)[CURVES].mean()
    runs = {key: own for key, own in mean.groupby(keys)}

    def draw(stop_gradient, predictor) -> tuple[Figure, str]:
        name = f"stop-gradient {_word(stop_gradient)}, predictor {_word(predictor)}"
        own = runs.get((stop_gradient, predictor), mean[:0])
        figure = figures.training_curves({name: own}, {})
        for ax, column in zip(figure.axes, CURVES, strict=True):
            for other in runs.values():
                seen = other.dropna(subset=[column])
                ax.plot(seen["epoch"], seen[column], "-", color="0.8", linewidth=3, zorder=0)
        verdict = "not among the runs"
        said = f"There is no run with {name}; those there are run in grey."
        if len(own):
            last, knn = own.iloc[-1], own["knn"].dropna()
            collapsed = last["std_ratio"] < COMPLETE_STD_RATIO
            verdict = "collapsed" if collapsed else "no complete collapse"
            accuracy = f", the kNN accuracy {knn.iloc[-1]:.1%}" if len(knn) else ""
            said = (
                f"Three curves with {name}, the other runs in grey. In the end the loss is "
                f"{last['loss']:.2f}, the std of z {last['std_ratio']:.2f} (1 is healthy)"
                f"{accuracy}: {verdict}."
            )
        figure.suptitle(f"{name}: {verdict}", fontsize=figures.FONT + 1)
        return figure, said

    return Explorer(draw, **{name: _buttons(name, table[name].unique().tolist()) for name in keys})


def sim_beta(table: pd.DataFrame) -> Explorer:
    """What SIM's weight beta does: a metric over the betas of a sweep, one of them marked.

    table: a row a run with the columns beta, seed and numbers to look at, of which those that
    differ are offered; a run without a number (NaN) is left out.
    """
    _need(table, ["beta", "seed"], ["beta"])
    numbers = table.select_dtypes("number").columns.difference(["beta", "seed"], sort=False)
    metrics = [name for name in numbers if table[name].nunique() > 1]
    if not metrics:
        raise ValueError(f"no column of numbers beside beta and seed: {', '.join(table.columns)}")
    betas, word = sorted(table["beta"].unique()), "{:g}".format

    def draw(beta, metric) -> tuple[Figure, str]:
        good = table.dropna(subset=[metric])
        mean, half = figures.mean_and_interval(good.groupby("beta")[metric])
        figure, ((ax,),) = figures.new_figure(width=8, height=4.2)
        ax.xaxis.update_units([*map(word, betas)])  # words: 0 has no place on a log axis
        ax.plot(good["beta"].map(word), good[metric], "o", color="0.6", label="single runs")
        ax.errorbar(
            mean.index.map(word),
            mean,
            yerr=half.fillna(0),
            marker="s",
            capsize=4,
            linestyle="-",
            color=figures.PALETTE[1],
            label="mean, 95 % interval",
        )
        ax.axvline(word(beta), color=figures.PALETTE[2], linestyle="--", zorder=0)
        said, n = f"{metric} was not measured at beta {beta:g}", int((good["beta"] == beta).sum())
        if n:
            said = f"{metric} at beta {beta:g}: {mean[beta]:.4g}"
            said += f" ± {half[beta]:.2g}, {n} seeds" if n > 1 else ", 1 seed"
            if beta != mean.index[0]:
                said += f"; {mean[beta] - mean.iloc[0]:+.3g} against beta {mean.index[0]:g}"
        figures.label(ax, said, r"SIM's weight $\beta$", metric)
        ax.legend(fontsize=figures.FONT - 2, frameon=False)
        return figure, f"{metric} over {len(betas)} betas, mean and interval over seeds. {said}."

    beta = _steps("beta", [(word(b), b) for b in betas])
    return Explorer(draw, beta=beta, metric=_buttons("metric", metrics))


def cka_playground() -> Explorer:
    """What CKA sees and what it does not: a cloud X, a second one Y made of it, and their CKA.

    X are n Gaussian points in d dimensions (the first twice as wide). Y is X turned in the plane of
    its first two axes, scaled, stretched along the first axis, with a share of noise in its
    variance; with a share of 1 the two have nothing in common, and the truth is a CKA of 0.
    """

    def draw(rotate, scale, stretch, noise, n, d, seed) -> tuple[Figure, str]:
        rng, t = np.random.default_rng(seed), np.deg2rad(rotate)
        x = rng.standard_normal((n, d)) * np.where(np.arange(d) == 0, 2, 1)  # [n, d]
        y = x.copy()
        y[:, :2] = x[:, :2] @ np.array([[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]])
        y[:, 0] *= stretch
        # axis by axis as wide as Y, so that a share is the same everywhere
        strange = rng.standard_normal((n, d)) * y.std(0)
        y = scale * ((1 - noise) ** 0.5 * y + noise**0.5 * strange)
        values = [cka_similarity(x, y, debiased=debiased) for debiased in (False, True)]
        figure, (axes,) = figures.new_figure(3, height=3.6)
        for ax, cloud, name in zip(axes, (x, y), "XY", strict=False):
            ax.scatter(cloud[:, 0], cloud[:, 1], c=x[:, 0], cmap="cividis", s=18)
            ax.set(xlim=(-9, 9), ylim=(-9, 9), aspect="equal")
            figures.label(ax, f"{name}: {n} points, 2 of {d} dimensions", "axis 1", "axis 2")
        bars = axes[2].bar(["biased", "debiased"], values, color=figures.PALETTE[5:0:-4])
        axes[2].bar_label(bars, fmt="%.3f", fontsize=figures.FONT + 2, padding=2)
        axes[2].axhline(0, color="0.3", linestyle="-", linewidth=1)
        axes[2].set_ylim(-0.3, 1.15)
        figures.label(axes[2], "linear CKA of X and Y")
        return figure, (
            f"CKA of X and Y: biased {values[0]:.3f}, debiased {values[1]:.3f}. X: {n} points in "
            f"{d} dimensions (draw {seed}). Y: X turned by {rotate} degrees, scaled by {scale:g}, "
            f"stretched {stretch:g} times along an axis, a share of {noise:.2f} of its variance "
            "noise. Two scatter plots show both clouds, two bars the values."
        )

    return Explorer(
        draw,
        rotate=_slider("rotate (degrees)", 0, 0, 180, 15),
        scale=_slider("scale", 1.0, 0.25, 2.0, 0.25),
        stretch=_slider("stretch", 1.0, 1.0, 5.0, 0.5),
        noise=_slider("noise (share)", 0.0, 0.0, 1.0, 0.05),
        n=_steps("n, points", (5, 10, 20, 50, 100, 200, 500), 4),
        d=_steps("d, dimensions", (2, 5, 10, 30, 100, 300, 1000)),
        seed=_slider("draw", 0, 0, 20, 1),
    )


def layer_heatmap(result: Result) -> Explorer:
    """The layers of a comparison's first model by those of its last; a cell is picked and read.

    result: of `simlab.similarity.compare`. The cell is picked by two sliders, or clicked. Beside
    the map stand the values along its row and its column, above it the pair's shapes and its value,
    with the 95 % interval over batches where the result has ten of them.
    """
    rows, columns = result.of(None), result.of(None, -1)
    blocks = {name: result.block(measure=name) for name in result.values}
    intervals = {
        name: result.interval(measure=name)
        for name in blocks
        if result.info["batches"] >= 10 and name in result.groups
    }

    def draw(row, column, measure) -> tuple[Figure, str]:
        a, b, block = rows[row], columns[column], blocks[measure]
        figure, ((heat, line),) = figures.new_figure(2, height=5.0)
        result.plot("matrix", ax=heat, measure=measure)
        heat.tick_params(labelsize=figures.FONT - 2)
        for axis in (heat.xaxis, heat.yaxis):  # long names would leave no room for the map
            axis.set_ticklabels([text.get_text()[-16:] for text in axis.get_ticklabels()])
        figures.label(heat, "", heat.get_xlabel(), heat.get_ylabel())  # keeps its title
        for width, color in ((5, "black"), (2.5, "white")):
            style = {"fill": False, "linewidth": width, "edgecolor": color}
            heat.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **style))
        line.plot(block[row], marker="o", label=f"{a.name} with all of {b.model}")
        line.plot(block[:, column], marker="s", label=f"{b.name} with all of {a.model}")
        marked = [block[row, column]] * 2
        line.plot([column, row], marked, "o", markersize=13, fillstyle="none", color="black")
        line.xaxis.get_major_locator().set_params(integer=True)
        for limit in result.info["limits"][measure]:
            line.axhline(limit, color="0.8", linestyle=":", zorder=0)
        word = measure.replace("_", " ")
        figures.label(line, "along the row and the column", "layer, counted from the input", word)
        figure.legend(loc="outside lower right", fontsize=figures.FONT - 1, frameon=False)
        said = f"{word} {block[row, column]:.3f}"
        if measure in intervals:
            low, high = (bound[row, column] for bound in intervals[measure])
            said += f" (95 % interval {low:.3f} to {high:.3f})"
        shapes = [" x ".join(map(str, layer.shape)) for layer in (a, b)]
        pair = f"{a.label} ({shapes[0]}) and {b.label} ({shapes[1]})"
        figure.suptitle(f"{pair}\n{said}", fontsize=figures.FONT + 1)
        return figure, f"Heat map of {word}, {len(rows)} by {len(columns)} layers. {pair}: {said}."

    places = ([(layer.name, place) for place, layer in enumerate(own)] for own in (rows, columns))
    row, column = map(_steps, ("row", "column"), places)
    explorer = Explorer(draw, row=row, column=column, measure=_buttons("measure", blocks))
    if len(rows) * len(columns) <= MOUSE_CELLS:
        _clickable(explorer, len(rows), len(columns))
    return explorer


def _clickable(explorer: Explorer, rows: int, columns: int):
    """Lay transparent buttons over the cells of the heat map, the figure's first axes."""
    flat = ipywidgets.Layout(width="auto", height="auto", min_width="0", margin="0", padding="0")
    clear = ipywidgets.ButtonStyle(button_color="transparent")

    def pick(row, column, _):
        explorer.controls["row"].value, explorer.controls["column"].value = row, column

    cells = []
    for place in product(reversed(range(rows)), range(columns)):  # the first layer is below
        cells.append(ipywidgets.Button(layout=flat, style=clear, tabbable=False))
        cells[-1].on_click(partial(pick, *place))
    here = "1 / 1 / 2 / 2"  # image and buttons share one cell of a grid
    over = ipywidgets.GridBox(
        cells,
        layout={
            "grid_template_columns": f"repeat({columns}, 1fr)",
            "grid_area": here,
            "grid_gap": "0",
            "grid_template_rows": f"repeat({rows}, 1fr)",
            "overflow": "hidden",
            "width": "auto",
        },
    )

    def lay(change=None):
        width, height = explorer.figure.get_size_inches()
        box = explorer.figure.axes[0].get_position()
        tall = height / width  # margins in CSS are shares of the width, vertical ones too
        margins = tall * (1 - box.y1), 1 - box.x1, tall * box.y0, box.x0
        over.layout.margin = " ".join(f"{100 * margin:.2f}%" for margin in margins)

    lay()
    explorer.image.observe(lay, "value")
    explorer.image.layout = {"grid_area": here, "margin": "0", "width": "auto"}
    both = ipywidgets.GridBox([explorer.image, over], layout={"max_width": "990px"})
    explorer.children = [explorer.children[0], both]


# ---------------------------------------------------------------------------------------- controls


def _slider(
    name: str, value: Any, low: float = 0.0, high: float = 1.0, step: float = 0.1
) -> ipywidgets.Widget:
    """A slider for whole numbers, for others, or for two of them; wide enough for the value."""
    kind = ipywidgets.IntSlider if isinstance(step, int) else ipywidgets.FloatSlider
    kind = ipywidgets.FloatRangeSlider if isinstance(value, tuple) else kind
    low, high = min(low, np.min(value)), max(high, np.max(value))
    name = name.replace("_", " ")
    return kind(value=value, min=low, max=high, step=step, description=name, **LOOK)


def _steps(name: str, options: Sequence, index: int = 0) -> ipywidgets.Widget:
    return ipywidgets.SelectionSlider(options=options, index=index, description=name, **LOOK)


def _buttons(name: str, options: Iterable) -> ipywidgets.Widget:
    """One of several. No drop-down list: JupyterLab takes its arrow keys to change the cell."""
    pairs = [(_word(option), option) for option in options]
    name = name.replace("_", "-")
    return ipywidgets.ToggleButtons(options=pairs, description=name, style=LOOK["style"])


def _word(value: Any) -> str:
    return {True: "on", False: "off"}.get(value, str(value)).replace("_", " ")


def _need(table: pd.DataFrame, columns: Iterable[str], keys: list[str]):
    """The table has these columns, and rows; those of equal keys differ in the seed alone."""
    need_columns(table, *columns)
    if not len(table):
        raise ValueError("the table has no rows")
    need_seeds_alone(table, keys, "filter the table")
