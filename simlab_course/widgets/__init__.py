"""Figures to explore: controls over one image, which a pure function draws from their values.

    explorer = cka_playground()
    explorer                           # the last line of a cell: live where a kernel runs, and the
                                       # figure of its first state on GitHub, in HTML and in print
    figure, alt = explorer.draw(**explorer.state)    # the same as plain Python, without a kernel

- `explorer`: the controls and the image; what all of them share.
- `augmentation`: two views of some images.
- `training`: a run while it trains, the epochs of a run, the collapse lab's switches.
- `evaluation`: nearest neighbours, label budgets, SIM's weight.
- `similarity`: what CKA sees, and layers compared cell by cell.
"""

from .augmentation import two_view_explorer
from .evaluation import budget_slider, neighbour_browser, sim_beta
from .explorer import Explorer
from .similarity import cka_playground, layer_heatmap
from .training import collapse_switches, epoch_scrubber, live_curves

__all__ = [
    "Explorer",
    "budget_slider",
    "cka_playground",
    "collapse_switches",
    "epoch_scrubber",
    "layer_heatmap",
    "live_curves",
    "neighbour_browser",
    "sim_beta",
    "two_view_explorer",
]
