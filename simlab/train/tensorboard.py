"""Event files for TensorBoard: `simlab pretrain --tensorboard`, then `tensorboard --logdir runs`.

They lie in the run's folder, in tensorboard/: a point an epoch under train/ (loss, lr, what was
measured of collapse) and test/ (knn, test_accuracy), and in tensorboard/steps/ the loss and the
learning rate against the optimizer's steps.
"""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from simlab.runs import Run

from .callbacks import Callback

MEASURED_ON_TEST_IMAGES = ("knn", "test_accuracy", "test_loss")


class TensorBoard(Callback):
    """Write event files.

    Args:
        folder: Where to, a folder a run; empty: tensorboard/ in the run's folder.
        every: Steps between two points of a step's loss. 0: a point an epoch alone.

    Raises:
        ImportError: The package tensorboard is missing.
    """

    def __init__(self, folder: str | Path = "", every: int = 20) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError("--tensorboard needs it: pip install tensorboard") from error
        self.make_writer: Any = SummaryWriter
        self.folder = folder
        self.every = every
        self.place = Path()
        self.epochs: Any = None
        self.steps: Any = None

    def on_start(self, run: Run) -> None:
        """Start over, since all epochs are replayed: TensorBoard would show them twice."""
        self._close()  # of a run that was stopped
        self.place = Path(self.folder, run.name) if self.folder else run.folder / "tensorboard"
        for path in self.place.glob("events.out.tfevents.*"):
            path.unlink()
        self.epochs = self.make_writer(str(self.place))
        self.epochs.add_text("config", f"    {json.dumps(run.config)}")

    def on_epoch(self, run: Run, row: dict[str, Any]) -> None:
        """Write a point of each column."""
        for name, value in row.items():
            split = "test" if name in MEASURED_ON_TEST_IMAGES else "train"
            if name != "epoch":
                self.epochs.add_scalar(f"{split}/{name}", value, int(row["epoch"]))
        self.epochs.flush()

    def on_step(self, run: Run, step: int, loss: Tensor, lr: float) -> None:
        """Write the loss and the learning rate of every n-th step."""
        if not self.every or step % self.every:
            return
        if self.steps is None:
            # after a resumption TensorBoard forgets the steps that are trained again
            self.steps = self.make_writer(str(self.place / "steps"), purge_step=step)
        self.steps.add_scalar("train/loss", float(loss), step)
        self.steps.add_scalar("train/lr", lr, step)

    def on_end(self, run: Run) -> None:
        """Close the files."""
        self._close()

    def _close(self) -> None:
        for writer in (self.epochs, self.steps):
            if writer is not None:
                writer.close()
        self.epochs = None
        self.steps = None
