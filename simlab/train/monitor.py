"""What train.log says within an epoch: how long the steps take, what for, and the loss.

epoch 3 step 200/390  time 0.0841 (0.0853)  data 0.0003 (0.0004)  loss -0.7162 (-0.7034)  left 1:52:07
"""

import time
from collections.abc import Iterator
from datetime import timedelta

from torch import Tensor


class StepLog:
    """An epoch's sums so far: seconds, those of them that images were waited for, the loss.

    A line has their means a step: over the steps since the line before and, in brackets, over all.
    """

    def __init__(self, epoch: int, steps: int, left: int):
        """`epoch` as a person counts it, its `steps`, and the steps `left` from its start on."""
        self.epoch, self.steps, self.left = epoch, steps, left
        self.began, self.waited, self.at = time.monotonic(), 0.0, 0
        self.told = {"time": 0.0, "data": 0.0, "loss": 0.0}

    def waiting(self, batches: Iterator) -> Iterator:
        """The batches, with a clock running while they are waited for."""
        asked = time.monotonic()
        for batch in batches:
            self.waited += time.monotonic() - asked
            yield batch
            asked = time.monotonic()

    def line(self, step: int, loss: Tensor) -> str:
        """After `step` steps, whose losses add up to `loss`; reading it waits for the device."""
        sums = {"loss": float(loss)}
        sums = {"time": time.monotonic() - self.began, "data": self.waited} | sums
        means = [
            f"{name} {(value - self.told[name]) / (step - self.at):.4f} ({value / step:.4f})"
            for name, value in sums.items()
        ]
        self.told, self.at = sums, step
        left = timedelta(seconds=round(sums["time"] / step * (self.left - step)))
        return "  ".join([f"epoch {self.epoch} step {step}/{self.steps}", *means, f"left {left}"])
