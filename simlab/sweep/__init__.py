"""sweep."""

from .grid import (
    COLUMNS,
    MAX_POINTS,
    RANGE,
    TYPES,
    grid_points,
    hash_of,
    papermill_path,
    parse_grid,
    read_parameters,
)
from .runner import POINT, collect, main, run_point, sweep
