"""A run's folder: found again by what the run is made of, safe against being stopped at any moment.

    runs/pretrain-3f9a01c2b7de/
        config.json     the configuration, and the digests of data and code that identify the run
        metrics.csv     a row an epoch
        metrics.json    how it ended: final and best, environment, seconds, digest of encoder.pt
        train.log       a line an epoch, what went wrong, when it was started and gone on with
        knn.csv         now,name,epoch,knn_acc: the kNN accuracy in percent
        encoder.pt      the encoder's final weights
        checkpoints/    the newest few and the best, to go on from; epochs 1, 2, 4, ... to look back

Every file is written under a temporary name and renamed. A digest of every weights file's bytes is
kept, so that a damaged one is found; they are read without executing pickles.
"""

import contextlib
import copy
import csv
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
import pandas as pd
import torch
import torch.nn as nn

from simlab.compute import distributed
from simlab.config import TrainConfig

from .identity import code_digest, digest, fields_that_count


class Run:
    """One run's folder. `run.finished`, `run.history`, `run.result`; see the module's head."""

    def __init__(self, folder: Path, identity: dict):
        self.folder, self.identity = folder, identity
        self.checkpoints = folder / "checkpoints"
        self.encoder: nn.Module | None = None  # set by what opened the run

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, {'finished' if self.finished else 'unfinished'})"

    @property
    def finished(self) -> bool:
        return (self.folder / "metrics.json").exists() and (self.folder / "encoder.pt").exists()

    @property
    def config(self) -> dict:
        return self.identity["config"]

    @property
    def result(self) -> dict:
        """metrics.json: {"final": {...}, "best": {...}, "environment": {...}, "seconds": ...}.

        `final` is the last epoch's row, the honest one. `best` is the epoch with the highest kNN
        accuracy on the test images: it was chosen by them, so it is an optimistic number.
        """
        return read_json(self.folder / "metrics.json")

    @property
    def history(self) -> pd.DataFrame:
        """metrics.csv: a row an epoch."""
        with open(self.folder / "metrics.csv", encoding="utf-8", newline="") as file:
            # json reads a number exactly as it was written; pandas' own parser may round it
            rows = [{k: json.loads(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
        return pd.DataFrame(rows)

    def prepare(self):
        """Make the folder and write config.json; refuse one that was changed by hand."""
        with naming(self.checkpoints):
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        for part in self.folder.rglob(".*.part"):  # of a process that died while it wrote
            part.unlink()
        path = self.folder / "config.json"
        if not path.exists():
            write_json(path, self.identity)
        elif read_json(path) != json.loads(json.dumps(self.identity)):
            raise ValueError(
                f"{path} is not what this run was started with: it was changed by hand, or belongs "
                "to another run. Start anew with fresh=True, or move the folder away"
            )
        if self.finished:  # where it is damaged, the last checkpoint holds the same weights
            path, expected = self.folder / "encoder.pt", self.result.get("encoder_digest")
            self._unless_damaged(_whole_bytes, path, expected)

    def log(self, line: str):
        path = self.folder / "train.log"
        with naming(path), open(path, "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n")

    def log_knn(self, epoch: int, accuracy: float):
        path, earlier = self.folder / "knn.csv", set(map(str, range(epoch)))
        old = path.read_text(encoding="utf-8").splitlines()[1:] if path.exists() else []
        # without those of a stopped attempt that went further
        rows = ["now,name,epoch,knn_acc", *(row for row in old if row.split(",")[2] in earlier)]
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        rows.append(f"{now},{self.folder.name},{epoch},{100 * accuracy:.2f}\n")
        write_bytes(path, "\n".join(rows).encode())

    def save_history(self, rows: list[dict]):
        write_bytes(self.folder / "metrics.csv", pd.DataFrame(rows).to_csv(index=False).encode())

    def finish(self, encoder_state: dict, result: dict):
        """The last step of a run; metrics.json is what makes it finished, so it comes last."""
        data = _tensor_bytes(encoder_state)
        write_bytes(self.folder / "encoder.pt", data)
        write_json(self.folder / "metrics.json", {**result, "encoder_digest": digest(data)})

    def load_encoder_state(self) -> dict:
        """The encoder's final weights; ValueError where the file is damaged."""
        path = self.folder / "encoder.pt"
        return _read_tensors(_whole_bytes(path, self.result.get("encoder_digest")), path)

    # ------------------------------------------------------------------------------ checkpoints

    def save_checkpoint(self, epoch: int, state: dict, keep: int):
        """Write one; drop all but the newest `keep`, the best, and those of epochs 1, 2, 4, 8, ..."""
        data = _tensor_bytes({"run": self.folder.name, **state})
        write_bytes(self.checkpoints / f"epoch-{epoch:06d}-{digest(data)}.pt", data)
        best = self.best_checkpoint()
        for number, other in list(self._kept().items())[keep:]:
            if other != best and number & (number - 1):  # powers of two show how a network learned
                other.unlink()

    def encoder_at(self, epoch: int) -> nn.Module:
        """A copy of `encoder` as it was after an epoch; ValueError where that was not kept."""
        kept = self._kept()
        if epoch not in kept:
            raise ValueError(f"epoch={epoch}: expected one that was kept, of {sorted(kept)}")
        state = self.read_checkpoint(kept[epoch])["network"]
        encoder = copy.deepcopy(self.encoder)
        encoder.load_state_dict({name: state[f"encoder.{name}"] for name in encoder.state_dict()})
        return encoder

    def best_checkpoint(self) -> Path | None:
        """That of the highest kNN accuracy in metrics.csv; None where there is none (yet)."""
        history = self.history
        if "knn" not in history:
            return None
        return self._kept().get(int(history["epoch"][history["knn"].idxmax()]))

    def load_checkpoint(self) -> dict | None:
        """The newest one that is whole. A damaged one is named, put aside and passed over."""
        found = (self._unless_damaged(self.read_checkpoint, p) for p in self._kept().values())
        return next(filter(None, found), None)

    def read_checkpoint(self, path: Path) -> dict:
        """One checkpoint; ValueError where it is damaged, or another run's."""
        state = _read_tensors(_whole_bytes(path, path.stem.rsplit("-", 1)[-1]), path)
        if state.get("run") != self.folder.name:
            raise ValueError(f"{path} belongs to another run, {state.get('run')}")
        return state

    def _kept(self) -> dict[int, Path]:
        """The checkpoints by their epoch, newest first."""
        paths = sorted(self.checkpoints.glob("epoch-*.pt"), reverse=True)
        return {int(path.stem.split("-")[1]): path for path in paths}

    def _unless_damaged(self, read: Callable, path: Path, *expected: str | None) -> object:
        """What `read` makes of a file; say what is wrong with a damaged one, and put it aside."""
        try:
            return read(path, *expected)
        except ValueError as error:
            path.replace(path.with_suffix(".damaged"))
            for tell in (self.log, print):
                tell(f"passed over, and renamed to *.damaged: {error}")


class Follower(Run):
    """The run as the processes beside the first see it: they write nothing."""

    def log(self, *_):
        pass

    log_knn = save_history = save_checkpoint = finish = log


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
    Of the processes that torchrun started the first has the lock and writes, for all of them; it
    heeds `fresh` when they start, and not when they start again because one had died.
    """
    identity = {"kind": kind, "config": fields_that_count(config), "code": code_digest(), **extra}
    name = f"{kind}-{digest(json.dumps(identity, sort_keys=True).encode())[:12]}"
    home = Path(folder or runs_folder())
    if distributed.rank() > 0:
        yield Follower(home / name, identity)
        return
    lock = filelock.FileLock(home / f".{name}.lock")
    with naming(home):
        home.mkdir(parents=True, exist_ok=True)
        try:
            held = lock.acquire(timeout=0)
        except filelock.Timeout:
            print(f"another process is at {home / name}; waiting for it", flush=True)
            held = lock.acquire()
    with held:
        run = Run(home / name, identity)
        if fresh and not distributed.restarted() and run.folder.exists():
            shutil.rmtree(run.folder)
        run.prepare()
        yield run


def runs_folder() -> Path:
    """Where runs are kept: $SIMLAB_RUNS, or runs/ beside the notebooks, or runs/ right here."""
    checkout = Path(__file__).parents[2]
    here = checkout if (checkout / "pyproject.toml").exists() else Path.cwd()
    return Path(os.environ.get("SIMLAB_RUNS") or here / "runs")


def save_metrics(name: str, metrics: dict) -> Path:
    """A notebook's numbers as metrics.json, in the folder of its output.

    That folder is $SIMLAB_OUT where a sweep or `make run` has set it, else runs/book/<name>.
    """
    path = Path(os.environ.get("SIMLAB_OUT") or runs_folder() / "book" / name, "metrics.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, metrics)
    return path


# --------------------------------------------------------------------------------- reading, writing


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """An error of the file system says which path it is about."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{path} could not be written: {error.strerror}") from error


def write_bytes(path: Path, data: bytes):
    """Written whole or not at all: to a temporary file that is renamed once it is on the disk."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with naming(path):
        try:
            with open(part, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except OSError:
            part.unlink(missing_ok=True)
            raise


def write_json(path: Path, content: dict):
    write_bytes(path, json.dumps(content, indent=1).encode())


def read_json(path: Path) -> dict:
    """Raises ValueError that names a file which is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no text
        raise ValueError(f"{path} is no valid JSON: {error}") from error


def _tensor_bytes(state: dict) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _whole_bytes(path: Path, expected: str | None) -> bytes:
    data = path.read_bytes()
    if digest(data) != expected:
        raise ValueError(f"{path} is damaged: its bytes do not match the digest kept of them")
    return data


def _read_tensors(data: bytes, path: Path) -> dict:
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds; torch's text advises to execute the pickle
        raise ValueError(f"{path} is refused: it holds more than tensors and values") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}: expected a dict of tensors")
    return state
