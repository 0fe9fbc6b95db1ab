"""A run's folder: found again by what the run is made of, safe against being stopped at any moment.

    runs/pretrain-3f9a01c2b7de/
        config.json     the configuration, and the digests of data and code that identify the run
        metrics.csv     a row an epoch
        metrics.json    how it ended: final and best, environment, seconds
        train.log
        encoder.pt      the encoder's final weights
        checkpoints/    the newest few and the best, to go on from

Every file is written under a temporary name and renamed. Checkpoints carry a digest of their bytes
in their name, so that a damaged one is found, and are read without executing pickles.
"""

import ast
import contextlib
import dataclasses
import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import filelock
import pandas as pd
import torch

from .config import NOT_IDENTITY, TrainConfig

# the modules whose code decides what a training run computes
TRAINING_SOURCES = (
    "augment", "collapse", "config", "data", "devices", "evaluate", "folders", "models",
    "optim", "scatter", "simclr", "simsiam", "sim", "train",
)  # fmt: skip


class Run:
    """One run's folder. `run.finished`, `run.history`, `run.result`; see the module's head."""

    def __init__(self, folder: Path, identity: dict):
        self.folder, self.identity = folder, identity
        self.checkpoints = folder / "checkpoints"
        self.encoder: torch.nn.Module | None = None  # set by what opened the run

    def __repr__(self) -> str:
        state = "finished" if self.finished else "unfinished"
        return f"Run({str(self.folder)!r}, {state})"

    @property
    def finished(self) -> bool:
        return (self.folder / "metrics.json").exists() and (self.folder / "encoder.pt").exists()

    @property
    def config(self) -> dict:
        return self.identity["config"]

    @property
    def result(self) -> dict:
        """metrics.json: {"final": {...}, "best": {...}, "environment": {...}, "seconds": ...}."""
        return read_json(self.folder / "metrics.json")

    @property
    def history(self) -> pd.DataFrame:
        """metrics.csv: a row an epoch."""
        return pd.read_csv(self.folder / "metrics.csv")

    def prepare(self):
        """Make the folder and write config.json; refuse one that was changed by hand."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        path = self.folder / "config.json"
        if not path.exists():
            write_json(path, self.identity)
        elif read_json(path) != json.loads(json.dumps(self.identity)):
            raise ValueError(
                f"{path} is not what this run was started with: it was changed by hand, or belongs "
                "to another run. Start anew with fresh=True, or move the folder away"
            )

    def log(self, line: str):
        with open(self.folder / "train.log", "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n")

    def save_history(self, rows: list[dict]):
        write_bytes(self.folder / "metrics.csv", pd.DataFrame(rows).to_csv(index=False).encode())

    def finish(self, encoder_state: dict, result: dict):
        """The last step of a run; metrics.json is what makes it finished, so it comes last."""
        write_bytes(self.folder / "encoder.pt", _tensor_bytes(encoder_state))
        write_json(self.folder / "metrics.json", result)

    def load_encoder_state(self) -> dict:
        return torch.load(self.folder / "encoder.pt", map_location="cpu", weights_only=True)

    # ------------------------------------------------------------------------------ checkpoints

    def save_checkpoint(self, step: int, state: dict, best: bool, keep: int):
        """Write one, then drop what is neither among the newest `keep` nor the best."""
        state = {"run": self.folder.name, "step": step, **state}
        data = _tensor_bytes(state)
        digest = hashlib.sha256(data).hexdigest()[:16]
        path = self.checkpoints / f"step-{step:09d}-{digest}.pt"
        write_bytes(path, data)
        if best:
            write_bytes(self.checkpoints / "best", path.name.encode())
        newest = set(self._newest_first()[:keep])
        kept_as_best = self.best_checkpoint()
        for other in self._newest_first():
            if other not in newest and other != kept_as_best:
                other.unlink()

    def best_checkpoint(self) -> Path | None:
        """The checkpoint with the highest kNN accuracy, or None before there is one."""
        note = self.checkpoints / "best"
        return self.checkpoints / note.read_text() if note.exists() else None

    def load_checkpoint(self) -> dict | None:
        """The newest one that is whole. A damaged one is named in the log and passed over."""
        for path in self._newest_first():
            try:
                return self.read_checkpoint(path)
            except ValueError as error:
                self.log(f"passed over: {error}")
                print(f"passed over: {error}")
        return None

    def read_checkpoint(self, path: Path) -> dict:
        """One checkpoint; ValueError where it is damaged, or another run's."""
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()[:16]
        if digest != path.stem.rsplit("-", 1)[-1]:
            raise ValueError(f"checkpoint {path} is damaged: its bytes do not match its name")
        try:
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for what is no checkpoint of tensors
            raise ValueError(f"checkpoint {path} can't be read: {error}") from error
        if state.get("run") != self.folder.name:
            raise ValueError(f"checkpoint {path} belongs to another run, {state.get('run')}")
        return state

    def _newest_first(self) -> list[Path]:
        return sorted(self.checkpoints.glob("step-*.pt"), reverse=True)


@contextlib.contextmanager
def claim(
    kind: str, config: TrainConfig, extra: dict, folder: str | Path = "", fresh: bool = False
) -> Iterator[Run]:
    """The run of this configuration, with nobody else working on it.

    Args:
        kind: what the run does, the first part of its folder's name.
        config: resolved, so that nothing is left open.
        extra: what else decides the result: the data's digest, a model of the user's.
        folder: where runs are kept; empty: `runs_folder()`.
        fresh: throw away what is stored of this run.
    Another process at the same run is waited for; the lock of a process that died is free at once.
    """
    identity = {"kind": kind, "config": fields_that_count(config), "code": code_digest(), **extra}
    text = json.dumps(identity, sort_keys=True)
    name = f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    home = Path(folder) if folder else runs_folder()
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"the folder for runs, {home}, can't be made: {error}") from error
    lock = filelock.FileLock(home / f".{name}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        print(f"another process is at {home / name}; waiting for it")
        lock.acquire()
    try:
        run = Run(home / name, identity)
        if fresh and run.folder.exists():
            shutil.rmtree(run.folder)
        run.prepare()
        yield run
    finally:
        lock.release()


def runs_folder() -> Path:
    """Where runs are kept: $SIMLAB_RUNS, or runs/ beside the notebooks, or runs/ right here."""
    if os.environ.get("SIMLAB_RUNS"):
        return Path(os.environ["SIMLAB_RUNS"])
    checkout = Path(__file__).parent.parent
    return (checkout if (checkout / "pyproject.toml").exists() else Path.cwd()) / "runs"


def fields_that_count(config: TrainConfig) -> dict:
    """The fields of a configuration that change the result."""
    values = dataclasses.asdict(config)
    return {name: value for name, value in values.items() if name not in NOT_IDENTITY}


def code_digest() -> str:
    """A digest of the code that training runs; comments, docstrings and layout do not count."""
    h = hashlib.sha256()
    for name in TRAINING_SOURCES:
        path = Path(__file__).with_name(f"{name}.py")
        h.update(normalised_source(path.read_text(encoding="utf-8")).encode())
    return h.hexdigest()[:16]


def normalised_source(source: str) -> str:
    """The syntax tree of a module without its docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            node.body = body[1:] or [ast.Pass()]
    return ast.dump(tree)


# --------------------------------------------------------------------------------- reading, writing


def write_bytes(path: Path, data: bytes):
    """Written whole or not at all: to a temporary file that is renamed once it is on the disk."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OSError(error.errno, f"{path} could not be written: {error.strerror}") from error


def write_json(path: Path, content: dict):
    write_bytes(path, json.dumps(content, indent=1).encode())


def read_json(path: Path) -> dict:
    """Raises ValueError that names a file which is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no valid JSON: {error}") from error


def _tensor_bytes(state: dict) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()
