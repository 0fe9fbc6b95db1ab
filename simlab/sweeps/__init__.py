"""Sweeps: a training command or a notebook at every point of a grid, and one table.

- `programs`: what runs at a point; `parameters`: what a notebook's parameters are.
- `grid`: the points that words or values make of them.
- `point`, `point_process`: one point, in a process that ends with its parent.
- `launchers`, `gpus`, `slurm`, `array_task`: where the points run.
- `runner`: the sweep.
- `table`, `report`, `page`: what came out, a row a point; a page with a figure.
- `domains`: many trainings without a sweep's folder: leave one domain out.
"""

from .domains import classify, leave_each_out, mean_and_worst
from .grid import grid_points, parse_grid
from .parameters import read_parameters
from .point import run_point
from .programs import find_program
from .report import report
from .runner import sweep
from .table import collect

__all__ = [
    "classify",
    "collect",
    "find_program",
    "grid_points",
    "leave_each_out",
    "mean_and_worst",
    "parse_grid",
    "read_parameters",
    "report",
    "run_point",
    "sweep",
]
