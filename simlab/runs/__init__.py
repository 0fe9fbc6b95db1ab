"""Runs: cached by their configuration, resumed if interrupted, safe against a kill at any moment.

- `files`: files that are written completely or not at all, and checked when they are read.
- `identity`: what a run is identified by.
- `run`: the folder of one run.
- `store`: where runs are kept, and how one is claimed by its configuration.
- `load`: open a finished run with its encoder and its dataset.
- `comparing`: how similar the layers of finished runs are.
- `doctor`: what this machine has, and what is missing.
"""

from .comparing import compare_runs
from .files import digest, read_json, write_bytes, write_json
from .identity import SOURCES_AT_IMPORT, code_digest, module_digest, training_sources
from .load import config_of, find_run, load_data_of, load_run
from .run import Run
from .store import claim, runs_folder, save_metrics

__all__ = [
    "SOURCES_AT_IMPORT",
    "Run",
    "claim",
    "code_digest",
    "compare_runs",
    "config_of",
    "digest",
    "find_run",
    "load_data_of",
    "load_run",
    "module_digest",
    "read_json",
    "runs_folder",
    "save_metrics",
    "training_sources",
    "write_bytes",
    "write_json",
]
