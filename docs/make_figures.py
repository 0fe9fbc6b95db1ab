"""The README's figure, from the default run: python docs/make_figures.py (runs are found again)."""

from pathlib import Path

from simlab import plots
from simlab.config import PretrainConfig
from simlab.data import load_data
from simlab.evaluate import nearest, raw_pixels
from simlab.train import pretrain

HERE = Path(__file__).parent
SHOWN = 6  # neighbours
QUERIES = {1: 3, 3: 3, 5: 3, 8: 3}  # class: which of its test pictures


def main():
    data = load_data("fashion-scattered")
    run = pretrain(PretrainConfig(), data)
    labels = data.test.labels
    chosen = [int((labels == c).nonzero()[i]) for c, i in QUERIES.items()]
    queries = data.test.subset(labels.new_tensor(chosen))
    columns = 2 * SHOWN + 3
    figure, axes = plots.new_figure(columns, len(QUERIES), width=11.5, height=3.6)
    for ax in axes.flat:
        ax.set_axis_off()
    found = [nearest(encoder, data, queries, SHOWN) for encoder in (raw_pixels, run.encoder)]
    for row, own in enumerate(axes):
        own[0].set_axis_on()
        plots.draw_picture(own[0], queries.images[row])
        own[0].set_ylabel(data.classes[int(queries.labels[row])], rotation=0, ha="right", va="center")
        for side, hits in enumerate(found):
            for i, hit in enumerate(hits[row].tolist()):
                ax = own[2 + side * (SHOWN + 1) + i]
                ax.set_axis_on()
                right = data.train.labels[hit] == queries.labels[row]
                plots.draw_picture(
                    ax, data.train.images[hit], frame=plots.PALETTE[3] if right else plots.PALETTE[2]
                )
    axes[0][2].set_title("nearest by raw pixels", loc="left", fontsize=plots.FONT)
    axes[0][3 + SHOWN].set_title("nearest by SimSiam's features", loc="left", fontsize=plots.FONT)
    figure.savefig(HERE / "neighbours.png", dpi=110)


if __name__ == "__main__":
    main()
