"""Judge any encoder on any images by several protocols: `simlab.evaluate.evaluate`.

This package stands above `simlab.train`, whose loop fine-tunes, and above `simlab.runs`; the rest
of `simlab.evaluate` stands below both. Read in this order:

- `evaluation`: the whole of it, from an encoder and datasets to a table.
- `protocols`: the protocols by name; `settings`: what they leave open.
- `inputs`: what an encoder expects of images; `sources`: an encoder by its name or as a module,
  of `libraries` (torchvision, timm) or `stored` (runs, files of weights); `fresh`: the same
  architecture with fresh weights.
- `layers`: features of clean images, of several layers in one pass; `frozen`: kNN and linear probe
  of them; `views_probe`: the papers' probe; `finetuning` and `learning_rates`: all weights are
  trained.
- `cost`: how long it will take; `result`, `figure`: the table, the figure and the folder.
"""

from .evaluation import evaluate
from .inputs import Input
from .protocols import PROTOCOLS
from .result import Evaluation
from .settings import Settings
from .sources import open_encoder

__all__ = ["PROTOCOLS", "Evaluation", "Input", "Settings", "evaluate", "open_encoder"]
