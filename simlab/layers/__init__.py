"""Layers of a model: which, what they give, and where samples and channels lie in it.

`sim` and `similarity` stand on this package, which needs torch alone: whoever copies one of them
into a project of their own copies it along. To read in this order:

- choosing: `select_layers`, by name, glob, type, ...; what is chosen by default
- running: a model in eval mode, with hooks
- channels: follows the axis of channels through a forward pass
- axes: `axes_of`, where samples and channels lie
- watching: `tapped`, which hands over outputs with their samples first
- messages: the nearest names, for errors
"""

from .axes import Axes, CallAxes, Pick, SamplesAsTimeError, axes_of
from .choosing import (
    Layers,
    Predicate,
    contains,
    default_layers,
    left_out_layers,
    named_layers,
    select_layers,
    unwrap,
)
from .messages import nearest, one_of
from .running import like, map_tensors, tensors_in
from .watching import refuse_script, tapped, why_not_called

__all__ = [
    "Axes",
    "CallAxes",
    "Layers",
    "Pick",
    "Predicate",
    "SamplesAsTimeError",
    "axes_of",
    "contains",
    "default_layers",
    "left_out_layers",
    "like",
    "map_tensors",
    "named_layers",
    "nearest",
    "one_of",
    "refuse_script",
    "select_layers",
    "tapped",
    "tensors_in",
    "unwrap",
    "why_not_called",
]
