"""What runs at every point of a sweep: a notebook, or one of the commands that train.

    program = find_program("pretrain")      its parameters are the fields of PretrainConfig
    program = find_program("study.ipynb")   its parameters are those of the tagged cell

A point is a process, `python -m MODULE ARGUMENTS`, that writes metrics.json into $SIMLAB_OUT.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simlab._checks import near
from simlab.augment import parse_augment
from simlab.config import RECIPES, PretrainConfig, SupervisedConfig, TrainConfig, make_config
from simlab.methods import parse_method
from simlab.runs import write_bytes
from simlab.train.callbacks import find_callback

from .grid import hash_of
from .parameters import papermill_path, read_parameters

TRAININGS: dict[str, type[TrainConfig]] = {
    "pretrain": PretrainConfig,
    "supervised": SupervisedConfig,
}


@dataclass(frozen=True)
class Program:
    """What runs at every point.

    Attributes:
        name: The notebook's name, or the command's.
        parameters: All of them, with their defaults.
        digest: Of what must not change between two points of one sweep.
        cwd: The folder in which it runs.
        options: What its command line in `sweep.json` has beside the grid.
    """

    name: str
    parameters: dict[str, Any]
    digest: str
    cwd: str
    options: tuple[str, ...] = ()

    module = ""  # of `python -m`

    def check(self, changes: dict[str, Any]) -> None:
        """Refuse a point's changes of the defaults before anything starts."""

    def keep(self, out: Path) -> None:
        """Keep in the sweep's folder what runs."""

    def arguments(self, out: Path, folder: Path, changes: dict[str, Any]) -> list[str]:
        """Return the arguments of `python -m {module}` for one point.

        Args:
            out: The sweep's folder.
            folder: The point's folder.
            changes: The parameters that differ from the defaults.
        """
        raise NotImplementedError


def find_program(
    name: str | Path, recipe: str = "", callbacks: Sequence[str] = ()
) -> "NotebookProgram | TrainingProgram":
    """Find a notebook by its path or a command by its name.

    Args:
        name: pretrain, supervised, or a notebook's file.
        recipe: A published configuration that `pretrain` starts from.
        callbacks: Of the command, by name.

    Raises:
        FileNotFoundError: There is no such notebook.
        ValueError: The recipe or a callback is unknown, or a notebook was given one.
    """
    if str(name) not in TRAININGS:
        if recipe or callbacks:
            raise ValueError(f"{name} is no command that trains: it takes no recipe, no callbacks")
        return _notebook(Path(name).resolve())
    for callback in callbacks:
        find_callback(callback)
    if recipe and (recipe not in RECIPES or name != "pretrain"):
        raise ValueError(f"{name} has no recipe {recipe!r}{near(recipe, RECIPES)}")
    config = TRAININGS[str(name)]
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    options = [f"--recipe={recipe}"] if recipe else []
    options += [f"--callback={','.join(callbacks)}"] if callbacks else []
    return TrainingProgram(
        name=str(name),
        parameters=defaults | RECIPES.get(recipe, {}),
        digest=hash_of([str(name), recipe]),
        cwd=str(Path.cwd()),
        options=tuple(options),
    )


@dataclass(frozen=True)
class TrainingProgram(Program):
    """`simlab pretrain` or `simlab supervised`: runs are kept where they always are."""

    module = "simlab"

    def check(self, changes: dict[str, Any]) -> None:
        """Refuse values that the configuration, the method or the augmentation refuses."""
        config = make_config(TRAININGS[self.name], **(self.parameters | changes))
        if isinstance(config, PretrainConfig):
            parse_method(config.method)
        if config.augment != "auto":
            parse_augment(config.augment)

    def arguments(self, out: Path, folder: Path, changes: dict[str, Any]) -> list[str]:
        """Return the command's words, such as pretrain --lr=0.1 --seed=2."""
        flags = [_flag(name, value) for name, value in changes.items()]
        return [self.name, *self.options, *flags]


def _flag(name: str, value: Any) -> str:
    word = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{word}" if value else f"--no-{word}"
    return f"--{word}={value}"


@dataclass(frozen=True)
class NotebookProgram(Program):
    """A notebook under papermill.

    Attributes:
        path: The notebook's file.
    """

    path: Path = Path()

    module = "papermill"

    def keep(self, out: Path) -> None:
        """Copy the notebook: the copy is what runs."""
        write_bytes(out / "notebook.ipynb", self.path.read_bytes())

    def arguments(self, out: Path, folder: Path, changes: dict[str, Any]) -> list[str]:
        """Return papermill's arguments.

        The parameters are YAML by its own writer: with -p 'true' is a string, and JSON's 1e-05 is
        one to papermill's YAML.
        """
        import yaml

        style: dict[str, Any] = {"default_flow_style": True, "width": math.inf, "sort_keys": False}
        text = yaml.safe_dump(changes, **style).strip()
        if "\n" in text:  # a line break inside of a string
            text = yaml.safe_dump(changes, **style, default_style='"').strip()
        return [
            *("--kernel", "python3", "--language", "python", "--no-progress-bar"),
            *("--cwd", self.cwd),
            *("-y", text),
            papermill_path(out / "notebook.ipynb"),
            papermill_path(folder / "notebook.ipynb"),
        ]


def _notebook(path: Path) -> NotebookProgram:
    if not path.is_file():
        names = [file.name for file in path.parent.glob("*.ipynb")] + list(TRAININGS)
        raise FileNotFoundError(f"no notebook {path}{near(path.name, names)}")
    return NotebookProgram(
        name=path.name,
        parameters=read_parameters(path),
        digest=_code_digest(path),
        cwd=str(path.parent),
        path=path,
    )


def _code_digest(notebook: Path) -> str:
    """Return a digest of the code alone: a corrected sentence must not undo a night's sweep."""
    import nbformat

    cells = nbformat.read(notebook, 4).cells
    return hash_of([cell.source for cell in cells if cell.cell_type == "code"])
