"""The commands that evaluate a stored run."""

from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional


def knn(
    run: Positional[str],
    k: int = 200,
    temperature: float = 0.1,
    data_folder: str = "",
    device: str = "auto",
) -> None:
    """Measure the kNN accuracy of a run's encoder: the full clean bank, every test image.

    Args:
        run: The run's folder, or its name in the runs folder.
        k: Number of neighbours that vote.
        temperature: Temperature of their votes.
        data_folder: Where the dataset's files are.
        device: cpu, cuda, cuda:1, mps or auto.
    """
    from simlab import evaluate, runs

    _require_positive(k=k, temperature=temperature)
    opened = runs.load_run(run, device)
    data = runs.load_data_of(opened, data_folder, device)
    accuracy = evaluate.knn(opened.encoder, data, k, temperature)
    print(f"kNN accuracy     {accuracy:.4f}")
    print(f"k, temperature   {min(k, len(data.train))}, {temperature}")


def probe(
    run: Positional[str],
    labels: float = 0,
    seed: int = 0,
    solver: Literal["lbfgs", "sgd"] = "lbfgs",
    epochs: int = 90,
    views: int = 1,
    data_folder: str = "",
    device: str = "auto",
) -> None:
    """Fit a linear probe on a run's frozen encoder.

    Args:
        run: The run's folder, or its name in the runs folder.
        labels: Labelled images, as many of each class; below 1: that fraction of each; 0: all.
        seed: Seed by which the labelled images are drawn.
        solver: lbfgs; or sgd, as in the papers: lr 30, batch 256, cosine.
        epochs: Epochs of sgd.
        views: Above 1: with so many views of each image less one, augmented as in training.
        data_folder: Where the dataset's files are.
        device: cpu, cuda, cuda:1, mps or auto.
    """
    from simlab import evaluate, runs
    from simlab.augment import parse_augment

    _require_positive(epochs=epochs, views=views)
    opened = runs.load_run(run, device)
    data = runs.load_data_of(opened, data_folder, device)
    augment = parse_augment(runs.config_of(opened).augment)
    encoded = evaluate.encode(opened.encoder, data, views, augment, seed)
    result = evaluate.linear_probe(encoded, labels, seed, solver, epochs)
    for name, value in result.numbers().items():
        print(f"{name:<16} {value}")


def compare(
    runs: Positional[tuple[str, ...]],
    measure: str = "cka",
    layers: str = "",
    images: int = 1000,
    out: str = "",
    data_folder: str = "",
    device: str = "auto",
) -> None:
    """Compare the layers of two runs on the test images; one run alone is compared with itself.

    Args:
        runs: Their folders, or their names in the runs folder.
        measure: One of simlab.similarity.MEASURES.
        layers: Names or globs, with commas; empty: the package's choice.
        images: Number of test images, of the first run's dataset.
        out: A file for the result: *.json or *.csv is the tidy table, *.png the figure.
        data_folder: Where the dataset's files are.
        device: cpu, cuda, cuda:1, mps or auto.
    """
    import torch

    from simlab import similarity
    from simlab.runs import load_data_of, load_run

    _require_positive(images=images)
    if not runs:
        raise ValueError("expected one run or two, by their folders or names")
    if out and Path(out).suffix not in (".json", ".csv", ".png"):
        raise ValueError(f"out={out!r}: expected a file that ends in .json, .csv or .png")
    opened = [load_run(name, device) for name in runs]
    data = load_data_of(opened[0], data_folder, device)
    number = min(images, len(data.test))
    x = data.normalize(data.test.subset(torch.arange(number)).images)
    models = {f"{i} {run.folder.name}": run.encoder for i, run in enumerate(opened, start=1)}
    chosen = layers.split(",") if layers else None
    result = similarity.compare(models, x, chosen, measure, samples=number)
    print(result.to_frame(tidy=True).to_string(index=False, float_format="{:.3f}".format))
    if out:
        _save_comparison(result, Path(out))


def _save_comparison(result: Any, path: Path) -> None:
    from simlab.runs import write_bytes

    if path.suffix == ".png":
        result.plot().figure.savefig(path)
    elif path.suffix == ".csv":
        write_bytes(path, result.to_frame(tidy=True).to_csv(index=False).encode())
    else:
        write_bytes(path, result.to_frame(tidy=True).to_json(orient="records").encode())


def _require_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name}={value}: expected more than 0")
