"""Runs: cached by their configuration, resumed if interrupted, safe against a kill at any moment.

- `files`: files that are written completely or not at all, and checked when they are read.
- `identity`: what a run is identified by.
- `canonical`, `code`, `modules`: a digest of any object, function and network; below them `sources`
  (whose code it is) and `tokens`.
- `run`: the folder of one run.
- `neighbours`, `reuse`: stored runs that are nearly the one asked for, and going on from one.
- `store`: where runs are kept, and how one is claimed by its configuration.
- `config_file`: a configuration from a file, such as that of a stored run.
- `load`: open a finished run with its encoder and its dataset; `description`: how it is built.
- `preprocessing`, `export`: what an encoder expects of images; what uses it without simlab.
- `comparing`: how similar the layers of finished runs are.
- `doctor`: what this machine has, and what is missing.
"""

from .code import object_digest
from .comparing import compare_runs
from .config_file import read_config
from .description import describe_encoder
from .files import digest, read_json, write_bytes, write_json
from .identity import SOURCES_AT_IMPORT, code_digest, training_sources
from .load import config_of, find_run, load_data_of, load_run
from .modules import module_digest, structure_digest
from .neighbours import describe_run, stored_runs
from .preprocessing import Preprocessing, files_of
from .run import Run
from .store import claim, find_folder, runs_folder, save_metrics

__all__ = [
    "SOURCES_AT_IMPORT",
    "Preprocessing",
    "Run",
    "claim",
    "code_digest",
    "compare_runs",
    "config_of",
    "describe_encoder",
    "describe_run",
    "digest",
    "files_of",
    "find_folder",
    "find_run",
    "load_data_of",
    "load_run",
    "module_digest",
    "object_digest",
    "read_config",
    "read_json",
    "runs_folder",
    "save_metrics",
    "stored_runs",
    "structure_digest",
    "training_sources",
    "write_bytes",
    "write_json",
]
