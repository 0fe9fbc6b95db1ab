"""Encoders in files: finished runs, what `run.export` writes, and weights of other programs.

A file of weights needs a JSON of the same name beside it, or encoder.json:

    {"encoder": {"name": "torchvision:resnet50"},
     "preprocessing": {"size": 224, "resize": 256, "mean": [...], "std": [...], "channels": 3},
     "key": "state_dict", "prefix": "module.encoder_q."}

The last two are for checkpoints that hold more than the encoder: where in the file its weights
are, and how their names begin.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from simlab.models import build_encoder
from simlab.runs import Run, load_run, read_json
from simlab.runs.files import unpack_tensors

DESCRIPTION = "encoder.json"
WEIGHTS = "encoder.pt"


def encoder_of_run(run: Run | str) -> tuple[Run, nn.Module]:
    """Open a run with its encoder; one that is open already stays as it is.

    Raises:
        FileNotFoundError: There is no such run.
        ValueError: It is not finished, or its encoder is a module that only its author can build.
    """
    opened = run if isinstance(run, Run) else load_run(run, "cpu")
    return opened, opened.encoder


def is_description(path: Path) -> bool:
    """Whether a folder holds an exported encoder, and not a run."""
    return (path / DESCRIPTION).exists() and not (path / "config.json").exists()


def rebuilt(described: dict[str, Any]) -> nn.Module:
    """Build one of simlab's encoders as a JSON describes it, with fresh weights.

    Raises:
        ValueError: It is a module of somebody's.
    """
    if described.get("module"):
        raise ValueError(
            f"the encoder is a module, {described['module']}: build it in Python, load the "
            "weights, and give the module"
        )
    name, channels, size = (described[key] for key in ("name", "channels", "image_size"))
    encoder, _ = build_encoder(name, channels, size, described.get("stem", "auto"))
    return encoder


@dataclass
class DescribedEncoder:
    """A file of weights, and what the JSON beside it says.

    Attributes:
        weights: The file.
        described: What the encoder is.
        preprocessing: What it expects of images.
        key: Where in the file the weights are; empty: they are all that it holds.
        prefix: How their names begin.
        trained_on: What they were trained on, where the JSON says so.
    """

    weights: Path
    described: dict[str, Any]
    preprocessing: dict[str, Any]
    key: str = ""
    prefix: str = ""
    trained_on: str = ""

    @property
    def architecture(self) -> str:
        """The encoder's name, such as tiny or torchvision:resnet50."""
        return str(self.described["name"])

    def load_into(self, encoder: nn.Module, head: str = "") -> None:
        """Fill an encoder with the weights.

        Args:
            encoder: The architecture.
            head: The classifier that it lacks and the file may hold.

        Raises:
            ValueError: They are not all there, or there are others.
        """
        state = self._state(head)
        expected = encoder.state_dict()
        problems = []
        for name in {**expected, **state}:
            shapes = [tuple(w[name].shape) if name in w else "missing" for w in (expected, state)]
            if shapes[0] != shapes[1]:
                problems.append(f"{name} is {shapes[1]} in the file and {shapes[0]} in the encoder")
        if problems:
            more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
            raise ValueError(
                f"{self.weights} does not fit {self.architecture}: {'; '.join(problems[:3])}{more}."
                ' "key" and "prefix" in the JSON say which part of the file is meant'
            )
        encoder.load_state_dict(state)
        encoder.eval()

    def _state(self, head: str) -> dict[str, Tensor]:
        """Read the weights, by their names in the encoder."""
        state: Any = unpack_tensors(self.weights.read_bytes(), self.weights)
        if self.key:
            if self.key not in state:
                names = ", ".join(map(str, list(state)[:5]))
                raise ValueError(f"{self.weights} has no {self.key!r}: it holds {names}")
            state = state[self.key]
        chosen = {}
        for name, value in state.items():
            short = name.removeprefix(self.prefix)
            is_head = bool(head) and short.startswith(f"{head}.")
            if name.startswith(self.prefix) and not is_head:
                chosen[short] = value
        return chosen


def described_encoder(path: Path) -> DescribedEncoder:
    """Read what is said of a file of weights, or of a folder that `run.export` wrote.

    Raises:
        FileNotFoundError: The weights, or what is said of them, are not there.
        ValueError: The JSON lacks something.
    """
    weights = path / WEIGHTS if path.is_dir() else path
    if not weights.exists():
        raise FileNotFoundError(f"there is no file {weights}")
    candidates = [weights.with_suffix(".json"), weights.with_name(DESCRIPTION)]
    existing = [candidate for candidate in candidates if candidate.exists()]
    if not existing:
        raise FileNotFoundError(
            f"{weights} needs {candidates[0].name} beside it, which says what it is: "
            '{"encoder": {"name": "torchvision:resnet50"}, "preprocessing": {"size": 224, '
            '"mean": [...], "std": [...], "channels": 3}}'
        )
    content = read_json(existing[0])
    for name in ("encoder", "preprocessing"):
        if not isinstance(content, dict) or not isinstance(content.get(name), dict):
            raise ValueError(f'{existing[0]} has no "{name}": {{...}}')
    if "name" not in content["encoder"]:
        raise ValueError(f'{existing[0]}: "encoder" has no "name"')
    described = content["encoder"]
    preprocessing = content["preprocessing"]
    defaults = {
        "channels": preprocessing.get("channels", 3),
        "image_size": preprocessing.get("size", 0),
    }
    return DescribedEncoder(
        weights,
        defaults | described,
        preprocessing,
        str(content.get("key", "")),
        str(content.get("prefix", "")),
        str(content.get("trained_on", "")),
    )
