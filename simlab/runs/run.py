"""The folder of one run.

    runs/pretrain-3f9a01c2b7de/
        config.json     the configuration, and the digests of dataset and code that identify the run
        encoder.json    what the encoder is, and what it expects of images: `load_run` reads it
        metrics.csv     a row an epoch
        metrics.json    how it ended: final and best, environment, seconds, digest of encoder.pt
        train.log       a line an epoch, what went wrong, when it was started and resumed
        knn.csv         now,name,epoch,knn_acc: the kNN accuracy in percent
        encoder.pt      the encoder's final weights
        checkpoints/    the newest few and the best, to resume from; epochs 1, 2, 4, 8, ... as well

The folder may be renamed: a run is known by the name in its config.json. Every file is written
under a temporary name and renamed. A digest of the bytes of every file with
weights is stored, so that a damaged one is noticed; they are read without executing pickles.
"""

import copy
import csv
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from simlab.evaluate import features

from .export import Weights, export_encoder
from .files import (
    digest,
    name_in_errors,
    pack_tensors,
    read_checked,
    read_json,
    unpack_tensors,
    write_bytes,
    write_json,
)
from .identity import run_name
from .preprocessing import Preprocessing
from .show import html_table


class Run:
    """One run's folder; the module's head says what is in it.

    Attributes:
        folder: Where the run is kept.
        identity: What it is made of: the content of config.json.
        read_only: A process beside the first one, or somebody who only looks, writes nothing.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], read_only: bool = False):
        self.folder = folder
        self.identity = identity
        self.checkpoints = folder / "checkpoints"
        self._encoder: nn.Module | None = None
        self.read_only = read_only

    @property
    def name(self) -> str:
        """The name that the run got by its identity, whatever its folder is called now."""
        return str(self.identity.get("name", self.folder.name))

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, {'finished' if self.finished else 'unfinished'})"

    def _repr_html_(self) -> str:
        """Show in a notebook how the run ended, what it was made of, and where it is."""
        rows = {**self.result["final"], "folder": self.folder} if self.finished else {}
        state = "finished" if self.finished else "not finished"
        return html_table(f"{self.folder.name}: {state}", rows | self.config)

    @property
    def encoder(self) -> nn.Module:
        """The encoder with its final weights, in evaluation mode; training or `load_run` sets it.

        Raises:
            ValueError: Nobody has set it.
        """
        if self._encoder is None:
            raise ValueError(f"{self.folder}: load the run's encoder first, with load_run")
        return self._encoder

    @encoder.setter
    def encoder(self, encoder: nn.Module) -> None:
        self._encoder = encoder

    @property
    def finished(self) -> bool:
        """Whether the run has reached its last epoch and its encoder is stored."""
        return (self.folder / "metrics.json").exists() and (self.folder / "encoder.pt").exists()

    @property
    def config(self) -> dict[str, Any]:
        """The fields of the configuration that decide the result."""
        config: dict[str, Any] = self.identity["config"]
        return config

    @property
    def description(self) -> dict[str, Any]:
        """The content of encoder.json; {} where an older simlab has stored none."""
        path = self.folder / "encoder.json"
        description: dict[str, Any] = read_json(path) if path.exists() else {}
        return description

    @property
    def preprocessing(self) -> Preprocessing:
        """What the encoder expects of images.

        Raises:
            ValueError: An older simlab has not stored it.
        """
        if not self.description:
            raise ValueError(
                f"{self.folder} has no encoder.json, which says what the encoder expects of "
                "images: ask for the run as it was trained once more, which writes it"
            )
        return Preprocessing.from_dict(self.description["preprocessing"])

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes of the images that were trained on."""
        return tuple(self.description.get("classes", ()))

    @property
    def result(self) -> dict[str, Any]:
        """The content of metrics.json: `final`, `best`, `environment` and `seconds`.

        `final` is the last epoch's row, the honest one. `best` is the epoch with the highest kNN
        accuracy on the test images: it was chosen by them, so it is an optimistic number.
        """
        result: dict[str, Any] = read_json(self.folder / "metrics.json")
        return result

    @property
    def history(self) -> pd.DataFrame:
        """The content of metrics.csv: a row an epoch."""
        rows = []
        with open(self.folder / "metrics.csv", encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                # json reads a number exactly as it was written; pandas' own parser may round it
                rows.append({name: json.loads(text) for name, text in row.items() if text})
        return pd.DataFrame(rows)

    # ------------------------------------------------------------------------------------ using

    def encode(self, images: Any, batch_size: int = 256) -> Tensor:
        """Compute the features of any images; neither the dataset nor its labels are needed.

        Args:
            images: uint8 images [N, C, H, W], [N, H, W, C] or [N, H, W]; a PIL image; the path of
                an image or of a folder; a list of these; or a split of a dataset. They are cut,
                resized and normalised as the run's own images were.
            batch_size: Number of images at once.

        Returns:
            float32 [N, D], in the order of the images; of a folder, of the files' names.
        """
        device = next((p.device for p in self.encoder.parameters()), torch.device("cpu"))
        split = self.preprocessing.split(images).to(device)
        return features(self.encoder, split, batch_size)

    def export(self, folder: str | Path, weights: Weights = "pt") -> Path:
        """Write the encoder for programs that have torch and not simlab.

        Args:
            folder: Where to: encoder.pt2, encoder.pt, encoder.json and load_encoder.py.
            weights: "pt", or "safetensors" for encoder.safetensors in the place of encoder.pt.

        Returns:
            The folder.
        """
        _ = self.preprocessing
        return export_encoder(self.encoder, self.description, folder, weights)

    # ---------------------------------------------------------------------------------- writing

    def prepare(self) -> None:
        """Make the folder and write config.json, or check that this is the same run.

        Raises:
            ValueError: config.json belongs to another run, or was changed by hand.
        """
        with name_in_errors(self.checkpoints):
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        for temporary in self.folder.rglob(".*.part"):  # of a process that died while it wrote
            temporary.unlink()
        path = self.folder / "config.json"
        if not path.exists():
            write_json(path, self.identity)
        else:
            self.identity = self._stored_identity(path)
        if self.finished:
            self._set_aside_a_damaged_encoder()

    def _stored_identity(self, path: Path) -> dict[str, Any]:
        stored = read_json(path)
        is_whole = isinstance(stored, dict) and {"kind", "config"} <= stored.keys()
        if not is_whole or run_name(stored) != run_name(self.identity):
            raise ValueError(
                f"{path} is not what this run was started with: it was changed by hand, or belongs "
                "to another run. Start over with fresh=True, or move the folder away"
            )
        return {"name": self.name, **stored}

    def log(self, line: str) -> None:
        """Add a line with the time to train.log."""
        if self.read_only:
            return
        path = self.folder / "train.log"
        with name_in_errors(path), open(path, "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n")

    def warn(self, line: str) -> None:
        """Say something in train.log and to the user."""
        self.log(line)
        print(line)

    def log_knn(self, epoch: int, accuracy: float) -> None:
        """Add a kNN accuracy (0 .. 1) to knn.csv, in place of rows of this epoch and later."""
        if self.read_only:
            return
        path = self.folder / "knn.csv"
        lines = path.read_text(encoding="utf-8").splitlines()[1:] if path.exists() else []
        # a stopped attempt may have gone further than the checkpoint from which this one resumed
        earlier = [line for line in lines if int(line.split(",")[2]) < epoch]
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        newest = f"{now},{self.folder.name},{epoch},{100 * accuracy:.2f}"
        table = ["now,name,epoch,knn_acc", *earlier, newest]
        write_bytes(path, ("\n".join(table) + "\n").encode())

    def save_history(self, rows: list[dict[str, Any]]) -> None:
        """Write metrics.csv."""
        if not self.read_only:
            table = pd.DataFrame(rows).to_csv(index=False)
            write_bytes(self.folder / "metrics.csv", table.encode())

    def describe(self, description: dict[str, Any]) -> None:
        """Write encoder.json, where there is none."""
        path = self.folder / "encoder.json"
        if not self.read_only and not path.exists():
            write_json(path, description)

    def finish(self, encoder_state: dict[str, Any], result: dict[str, Any]) -> None:
        """Store the encoder and how the run ended.

        metrics.json is what makes a run finished, so it is written last.
        """
        if self.read_only:
            return
        data = pack_tensors(encoder_state)
        write_bytes(self.folder / "encoder.pt", data)
        write_json(self.folder / "metrics.json", {**result, "encoder_digest": digest(data)})

    def save_checkpoint(self, epoch: int, state: dict[str, Any], keep: int) -> None:
        """Write one; drop all but the newest `keep`, the best, and epochs 1, 2, 4, 8, ..."""
        if self.read_only:
            return
        data = pack_tensors({"run": self.name, **state})
        write_bytes(self.checkpoints / f"epoch-{epoch:06d}-{digest(data)}.pt", data)
        best = self.best_checkpoint()
        older = list(self.checkpoint_paths().items())[keep:]
        for number, path in older:
            is_power_of_two = number & (number - 1) == 0  # those show how a network learned
            if path != best and not is_power_of_two:
                path.unlink()

    # ---------------------------------------------------------------------------------- reading

    def load_encoder_state(self) -> dict[str, Any]:
        """Read the encoder's final weights.

        Raises:
            ValueError: The file is damaged.
        """
        path = self.folder / "encoder.pt"
        return unpack_tensors(read_checked(path, self.result.get("encoder_digest")), path)

    def encoder_at(self, epoch: int) -> nn.Module:
        """Return a copy of `encoder` as it was after an epoch.

        Raises:
            ValueError: No checkpoint of that epoch is stored, or the run's encoder is not loaded.
        """
        paths = self.checkpoint_paths()
        if epoch not in paths:
            raise ValueError(f"epoch={epoch}: expected one that is stored, of {sorted(paths)}")
        state = self.read_checkpoint(paths[epoch])["network"]
        encoder = copy.deepcopy(self.encoder)
        encoder.load_state_dict({name: state[f"encoder.{name}"] for name in encoder.state_dict()})
        return encoder

    def checkpoint_paths(self) -> dict[int, Path]:
        """List the stored checkpoints by their epoch, newest first."""
        paths = sorted(self.checkpoints.glob("epoch-*.pt"), reverse=True)
        return {int(path.stem.split("-")[1]): path for path in paths}

    def best_checkpoint(self) -> Path | None:
        """Return that of the highest kNN accuracy; None where none is stored (yet)."""
        history = self.history
        if "knn" not in history:
            return None
        best_row = np.nanargmax(history["knn"].to_numpy())  # NaN in epochs without a measurement
        best_epoch = int(history["epoch"].iloc[best_row])
        return self.checkpoint_paths().get(best_epoch)

    def load_checkpoint(self) -> dict[str, Any] | None:
        """Read the newest checkpoint that is intact; None where there is none.

        A damaged one is named, renamed to *.damaged and passed over.
        """
        for path in self.checkpoint_paths().values():
            try:
                return self.read_checkpoint(path)
            except ValueError as error:
                self._set_aside(path, error)
        return None

    def read_checkpoint(self, path: Path) -> dict[str, Any]:
        """Read one checkpoint.

        Raises:
            ValueError: It is damaged, or another run's.
        """
        expected = path.stem.rsplit("-", 1)[-1]
        state = unpack_tensors(read_checked(path, expected), path)
        names = [link["run"] for link in self.identity.get("continues", [])]
        if state.get("run") not in (self.name, *names):
            raise ValueError(f"{path} belongs to another run, {state.get('run')}")
        return state

    def _set_aside_a_damaged_encoder(self) -> None:
        """Make the run unfinished where encoder.pt is damaged: its last checkpoint is as good."""
        path = self.folder / "encoder.pt"
        expected = self.result.get("encoder_digest")  # metrics.json may be damaged, and is not this
        try:
            read_checked(path, expected)
        except ValueError as error:
            self._set_aside(path, error)

    def _set_aside(self, path: Path, error: ValueError) -> None:
        path.replace(path.with_suffix(".damaged"))
        self.warn(f"passed over, and renamed to *.damaged: {error}")
