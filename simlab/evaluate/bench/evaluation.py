"""Judge an encoder: by name or as a module, on several datasets, by several protocols.

    evaluate("torchvision:resnet50:pretrained", ["cifar10", "stl10"], ["knn", "finetune-1%"])

Beside the encoder stand its untrained twin (the same architecture with fresh weights, others for
each seed) and raw pixels: what is above them was learned. Whatever is tuned is chosen on a
validation split of the training images; the test split is evaluated once.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from simlab.compute import environment, resolve_device
from simlab.data import DATASETS, Dataset, load_data
from simlab.runs import Run, read_json, runs_folder

from .cost import duration
from .description import describe, folder_name
from .inputs import Input
from .measuring import measure
from .plan import Plan
from .protocols import parse_protocol
from .result import Evaluation
from .settings import Settings
from .sources import open_encoder


def evaluate(
    encoder: str | Path | Run | nn.Module | Callable[[torch.Tensor], torch.Tensor],
    data: str | Path | Dataset | Sequence[str | Path | Dataset],
    protocols: Sequence[str] = ("knn", "probe"),
    *,
    layers: Sequence[str] = (),
    seeds: int | Sequence[int] = 3,
    input: Input | None = None,
    untrained: Callable[[], nn.Module] | None = None,
    baselines: bool = True,
    settings: Settings | None = None,
    name: str = "",
    data_folder: str | Path = "",
    image_size: int = 0,
    folder: str | Path = "",
    device: str = "auto",
    progress: bool = True,
) -> Evaluation:
    """Judge an encoder on datasets by protocols, and keep the result in a folder.

    Args:
        encoder: "torchvision:resnet50" (random weights), "torchvision:resnet50:pretrained",
            "timm:NAME:pretrained", a run by its folder or name, a file or folder of weights with
            its JSON; a `Run`; a module or a function of normalised images [N, C, S, S] that returns
            features [N, D].
        data: A dataset's name, a folder's path, a `Dataset`, or several of these.
        protocols: See `PROTOCOLS`; with a number of labels probe-1%, probe-100, finetune-10%.
        layers: Names or globs of layers; knn and probe judge their outputs too, averaged over
            positions.
        seeds: Number of seeds, or the seeds: of fresh weights, labelled images and classifiers.
        input: What the encoder expects of images, where its source does not say it, or wrongly. An
            encoder of which nothing is known gets the images of each dataset as they are.
        untrained: Builds the architecture with fresh weights, where simlab can't.
        baselines: Measure the untrained twin and raw pixels as well.
        settings: What the protocols leave open.
        name: What the table calls the encoder.
        data_folder: Where the files of named datasets are.
        image_size: Side in pixels at which folders of images are loaded; 0: the median.
        folder: Where the result is kept; empty: a folder of its own in the runs folder.
        device: cpu, cuda, cuda:1, mps or auto.
        progress: Say what it will cost, and show a bar.

    Returns:
        The result: a table, a summary, a figure.

    Raises:
        ValueError: A name, a number of labels or a layer is wrong, or the encoder gives no
            features; all of it before anything is measured.
        ImportError: A library is not installed.
        ConnectionError: Weights can't be fetched.
    """
    where = resolve_device(device)
    plan = Plan(
        source=open_encoder(encoder, input, name, untrained),
        datasets=_load(data, data_folder, image_size, where),
        protocols=[parse_protocol(protocol) for protocol in protocols],
        layers=tuple(layers),
        seeds=list(range(seeds)) if isinstance(seeds, int) else list(seeds),
        settings=settings or Settings(),
        baselines=baselines,
        device=where,
    )
    plan.check()
    description = describe(plan)
    home = Path(folder or runs_folder() / "evaluations" / folder_name(description)).expanduser()
    _refuse_another(home, description)
    estimate = plan.seconds()
    if progress:
        _announce(plan, description, estimate)
    start = time.monotonic()
    table = measure(plan, home, progress)
    description["seconds"] = round(time.monotonic() - start, 1)
    description["seconds_estimated"] = round(estimate, 1)
    description["environment"] = environment(where)
    result = Evaluation(table, description, home)
    result.save(home)
    return result


def _load(data: Any, folder: str | Path, size: int, device: torch.device) -> list[Dataset]:
    """Load the datasets that are given by name or path; those of one name are refused."""
    given = list(data) if isinstance(data, list | tuple) else [data]
    datasets = []
    for item in given:
        if not isinstance(item, Dataset):
            is_folder = str(item) not in DATASETS
            item = load_data(item, "" if is_folder else folder, image_size=size if is_folder else 0)
        datasets.append(item.to(device))
    names = [item.name for item in datasets]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"data={names}: expected one dataset or several, of different names")
    return datasets


def _announce(plan: Plan, description: dict[str, Any], seconds: float) -> None:
    """Say what is measured, what it expects, and about how long it takes."""
    for name, expects in description["input"].items():
        print(f"{plan.source.name} on {name}: {Input.from_dict(expects)}")
    for note in description["notes"]:
        print(note)
    print(f"about {duration(seconds)} on {plan.device}", flush=True)


def _refuse_another(home: Path, description: dict[str, Any]) -> None:
    """Refuse a folder that holds the result of something else."""
    path = home / "evaluation.json"
    if path.exists() and folder_name(read_json(path)) != folder_name(description):
        raise ValueError(f"{home} holds another evaluation: give another folder")
