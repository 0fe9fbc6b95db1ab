"""What an evaluation gives: a table, a figure, and a folder with all that decided the numbers.

In the folder:

    table.csv         a row for each measurement: encoder, data, protocol, layer, seed, accuracy,
                      what was chosen by the validation split, how many images counted
    figure.png        means and intervals
    evaluation.json   encoder, preprocessing, datasets, protocols, settings, seeds, environment
    runs/             what was fine-tuned
"""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from simlab.runs import write_bytes, write_json
from simlab.stats import CONFIDENCE, mean_and_interval

from .figure import draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEYS = ["data", "protocol", "layer", "encoder"]
SEEDS = "seeds"
IMAGES = "test images"


@dataclass
class Evaluation:
    """The measurements of an encoder and of what it is compared with.

    Attributes:
        table: A row for each measurement: data, protocol, layer ("" is the encoder's output),
            encoder, seed, accuracy, low and high (the 95 % interval of this number of test images),
            and what decided it: labels, tested, validation, k, temperature, regulariser, rate, ...
        description: All that decided the numbers, as it is written to evaluation.json.
        folder: Where it is kept.
    """

    table: pd.DataFrame
    description: dict[str, Any] = field(repr=False)
    folder: Path

    def summary(self) -> pd.DataFrame:
        """Average over the seeds.

        Returns:
            A row for each dataset, protocol, layer and encoder: accuracy (the mean), low and high,
            n, and interval: what the 95 % are over. "seeds" is Student's interval of n means: what
            another draw of labels, views or fresh weights would give. "test images" is Wilson's of
            one measurement: what as many other test images would give.
        """
        groups = self.table.groupby(KEYS, sort=False)
        mean, half_width = mean_and_interval(groups["accuracy"])
        n = groups["accuracy"].count()
        single = n == 1
        low = (mean - half_width).where(~single, groups["low"].first())
        high = (mean + half_width).where(~single, groups["high"].first())
        interval = pd.Series(SEEDS, index=n.index).where(~single, IMAGES)
        columns = {"accuracy": mean, "low": low, "high": high, "n": n, "interval": interval}
        return pd.DataFrame(columns).reset_index()

    def plot(self) -> "Figure":
        """Draw means and intervals, a panel for each dataset."""
        return draw(self.summary())

    def save(self, folder: str | Path) -> Path:
        """Write table.csv, figure.png and evaluation.json into a folder, which is made."""
        path = Path(folder).expanduser()
        path.mkdir(parents=True, exist_ok=True)
        image = io.BytesIO()
        self.plot().savefig(image, format="png", dpi=150)
        write_bytes(path / "figure.png", image.getvalue())
        write_bytes(path / "table.csv", self.table.to_csv(index=False).encode())
        write_json(path / "evaluation.json", self.description)  # last: what is whole has it
        return path

    def __str__(self) -> str:
        rounded = self.summary()
        for name in ("accuracy", "low", "high"):
            rounded[name] = rounded[name].map("{:.4f}".format)
        if (rounded["layer"] == "").all():
            rounded = rounded.drop(columns="layer")
        return rounded.to_string(index=False)

    def _repr_html_(self) -> str:
        html: str = self.summary().round(4).to_html(index=False)
        return html


def wilson(accuracy: float, number: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a fraction of `number` independent test images.

    (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)
    """
    from scipy.stats import norm

    z = float(norm.ppf((1 + CONFIDENCE) / 2))
    shrink = 1 + z**2 / number
    centre = (accuracy + z**2 / (2 * number)) / shrink
    spread = accuracy * (1 - accuracy) / number + z**2 / (4 * number**2)
    half_width = z * spread**0.5 / shrink
    return centre - half_width, centre + half_width
