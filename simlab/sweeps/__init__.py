"""Sweeps: a notebook at every point of a grid, and one table.

- `parameters`: what a notebook's parameters are.
- `grid`: the points that words or values make of them.
- `point`, `point_process`: one point, in a process that ends with its parent.
- `runner`: the sweep, here or on a cluster.
- `table`: what came out, a row a point.
- `domains`: many trainings without a notebook: leave one domain out.
"""

from .domains import classify, leave_each_out, mean_and_worst
from .grid import grid_points, parse_grid
from .parameters import read_parameters
from .point import run_point
from .runner import sweep
from .table import collect

__all__ = [
    "classify",
    "collect",
    "grid_points",
    "leave_each_out",
    "mean_and_worst",
    "parse_grid",
    "read_parameters",
    "run_point",
    "sweep",
]
