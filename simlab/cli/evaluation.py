"""The commands that evaluate a stored run, or any encoder."""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional


def knn(
    run: Positional[str],
    k: int = 200,
    temperature: float = 0.1,
    per_class: bool = False,
    data: str = "",
    data_folder: str = "",
    device: str = "auto",
) -> None:
    """Measure the kNN accuracy of a run's encoder: the full clean bank, every test image.

    Args:
        run: The run's folder, or its name in the runs folder.
        k: Number of neighbours that vote.
        temperature: Temperature of their votes.
        per_class: Print the accuracy of each class as well.
        data: Other images than the run's own: a dataset's name or a folder's path.
        data_folder: Where the dataset's files are; of a folder of images, where it is now.
        device: cpu, cuda, cuda:1, mps or auto.
    """
    from simlab import runs
    from simlab.evaluate import knn_result

    _require_positive(k=k, temperature=temperature)
    opened = runs.load_run(run, device)
    dataset = runs.load_data_of(opened, data_folder, device, other=data)
    result = knn_result(opened.encoder, dataset, k, temperature)
    _say_other_images(opened.folder.name, data)
    print(f"kNN accuracy     {result.accuracy:.4f}")
    print(f"k, temperature   {result.k}, {temperature}")
    print(f"images           {result.tested} classified by {result.bank}")
    if per_class:
        print(result.per_class.round(4).to_string())


def probe(
    run: Positional[str],
    labels: float = 0,
    seed: int = 0,
    solver: Literal["newton-cg", "sgd"] = "newton-cg",
    epochs: int = 90,
    views: int = 1,
    per_class: bool = False,
    data: str = "",
    data_folder: str = "",
    device: str = "auto",
) -> None:
    """Fit a linear probe on a run's frozen encoder.

    Args:
        run: The run's folder, or its name in the runs folder.
        labels: Labelled images, as many of each class; below 1: that fraction of each; 0: all.
        seed: Seed by which the labelled images are drawn.
        solver: newton-cg; or sgd, as in the papers: lr 30, batch 256, cosine.
        epochs: Epochs of sgd.
        views: Above 1: with so many views of each image less one, augmented as in training.
        per_class: Print the accuracy of each class as well.
        data: Other images than the run's own: a dataset's name or a folder's path.
        data_folder: Where the dataset's files are; of a folder of images, where it is now.
        device: cpu, cuda, cuda:1, mps or auto.
    """
    from simlab import runs
    from simlab.augment import parse_augment
    from simlab.evaluate import encode, linear_probe

    _require_positive(epochs=epochs, views=views)
    opened = runs.load_run(run, device)
    dataset = runs.load_data_of(opened, data_folder, device, other=data)
    augment = parse_augment(runs.config_of(opened).augment)
    encoded = encode(opened.encoder, dataset, views, augment, seed)
    result = linear_probe(encoded, labels, seed, solver, epochs)
    _say_other_images(opened.folder.name, data)
    for name, value in result.numbers().items():
        print(f"{name:<16} {value}")
    if per_class:
        print(result.per_class.round(4).to_string())


def evaluate(arguments: list[str]) -> int:
    """Judge any encoder on datasets by protocols; its flags are in `evaluate_flags`."""
    from .evaluate_flags import run  # which knows the settings, and so needs torch

    return run(arguments)


def compare(
    runs: Positional[tuple[str, ...]],
    measure: str = "cka",
    layers: str = "",
    images: int = 1000,
    samples: int = 0,
    out: str = "",
    data: str = "",
    data_folder: str = "",
    device: str = "auto",
) -> None:
    """Compare the layers of two runs on the test images; one run alone is compared with itself.

    In a run's place stored features: an .npz file with an array [samples, ...] for each layer, and
    the samples' ids as its entry "ids" where they are to be matched.

    Args:
        runs: Their folders, or their names in the runs folder; or .npz files.
        measure: One of simlab.similarity.MEASURES.
        layers: Names or globs, with commas; empty: the package's choice.
        images: Number of test images, of the first run's dataset.
        samples: Number of samples of .npz files, the first ones; 0: all.
        out: A file for the result: *.json or *.csv is the printed table, *.png the figure.
        data: Other images than the first run's own: a dataset's name or a folder's path.
        data_folder: Where the dataset's files are; of a folder of images, where it is now.
        device: cpu, cuda, cuda:1, mps or auto.
    """
    _require_positive(images=images)
    if not runs:
        raise ValueError("expected one run or two, by their folders or names, or .npz files")
    if out and Path(out).suffix not in (".json", ".csv", ".png"):
        raise ValueError(f"out={out!r}: expected a file that ends in .json, .csv or .png")
    chosen = layers.split(",") if layers else None
    stored = [Path(run).suffix == ".npz" for run in runs]
    if any(stored) and not all(stored):
        raise ValueError("runs and .npz files are not compared with each other: give one kind")

    from simlab import similarity
    from simlab.runs import compare_runs, write_bytes

    if all(stored):
        result = similarity.compare(list(runs), None, chosen, measure, samples=samples or None)
    else:
        result = compare_runs(runs, chosen, measure, images, data_folder, device, data)
        if data:
            print(f"images           of {data}, not those that {runs[0]} learned from")
    table = result.to_frame(tidy=True)
    print(table.to_string(index=False, float_format="{:.3f}".format))
    print(f"\n{result!r}")
    if out.endswith(".png"):
        result.plot(save=out)
    elif out:
        text = (
            table.to_csv(index=False) if out.endswith(".csv") else table.to_json(orient="records")
        )
        write_bytes(Path(out), text.encode())


def embed(
    run: Positional[str],
    images: Positional[str],
    out: str = "features.npz",
    device: str = "auto",
) -> None:
    """Write the features of images, without the dataset that the run learned from.

    Args:
        run: The run's folder, or its name in the runs folder.
        images: A folder of images, or one image.
        out: The file: features [N, D], paths [N], and labels [N], the folders that images are in.
        device: cpu, cuda, cuda:1, mps or auto.
    """
    import numpy as np

    from simlab.runs import files_of, load_run

    if Path(out).suffix != ".npz":
        raise ValueError(f"out={out!r}: expected a file that ends in .npz")
    place = Path(images).expanduser()
    paths = files_of(place)
    features = load_run(run, device).encode(paths).cpu().numpy()
    labels = ["" if path.parent == place else path.parent.name for path in paths]
    names = [str(path) for path in paths]
    np.savez(out, features=features, paths=names, labels=labels)
    print(f"features         {features.shape[0]} x {features.shape[1]}")
    print(f"labels           {', '.join(sorted({label for label in labels if label})) or 'none'}")
    print(f"\nLook at  {out}")


def _say_other_images(run: str, data: str) -> None:
    if data:
        print(f"images           of {data}, not those that {run} learned from")


def _require_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name}={value}: expected more than 0")
