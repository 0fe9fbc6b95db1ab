"""A configuration from a file: the config.json of a stored run, or fields and values by name.

{"epochs": 50, "seed": 1}
"""

from pathlib import Path
from typing import Any, TypeVar

from simlab.config import PretrainConfig, TrainConfig, make_config
from simlab.data import DATASETS

from .files import read_json
from .run import Run

Config = TypeVar("Config", bound=TrainConfig)
# what stands in config.json as a digest where a run was given a part in Python
IN_PYTHON = ("encoder", "method", "augment")


def read_config(cls: type[Config], path: str | Path) -> Config:
    """Read a configuration.

    Args:
        cls: PretrainConfig or SupervisedConfig.
        path: The file, or the folder of a run. What it does not say has its default.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no JSON, has an unknown field, or is of a run that no file can describe.
        TypeError: A value has another type than its field.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        file = file / "config.json"
    content = read_json(file)
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}: expected fields and values")
    try:
        if isinstance(content.get("config"), dict):
            content = _fields_of_run(cls, Run(file.parent, content))
        return make_config(cls, **content)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{file}: {error}") from None


def _fields_of_run(cls: type[TrainConfig], run: Run) -> dict[str, Any]:
    """Return the fields of a stored run, with what it keeps beside them: images, initial weights.

    Raises:
        ValueError: It is of the other kind, or was given what only Python can give.
    """
    kind = "pretrain" if issubclass(cls, PretrainConfig) else "supervised"
    stored = run.identity.get("kind", kind)
    if stored != kind:
        raise ValueError(f"this is the configuration of `simlab {stored}`, not of `simlab {kind}`")
    for name in IN_PYTHON:
        if run.identity.get(name):
            raise ValueError(f"the run had its {name} from Python, and can be had again only there")
    return run.config | {"data": _data_of(run), "init": _init_of(run)}


def _data_of(run: Run) -> str:
    """Return the dataset's name, or the path where the folder of images was."""
    name = str(run.config["data"])
    path = str(run.description.get("data_path", ""))
    if name not in DATASETS and not path and not Path(name).is_dir():
        raise ValueError(f"the run learned from {name!r}, arrays in memory, and not from a folder")
    return name if name in DATASETS else path or name


def _init_of(run: Run) -> str:
    """Return the run whose encoder's weights were the initial ones, or nothing."""
    if not run.identity.get("init"):
        return ""
    name = str(run.result.get("init", "")) if run.finished else ""
    if not name:
        raise ValueError("the run began with another run's weights, and does not say which")
    return name
