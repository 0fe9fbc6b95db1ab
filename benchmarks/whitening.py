"""What whitening the features does to the encoders of notebook 07, and to untrained networks.

    python benchmarks/whitening.py

kNN accuracy on the scattered clothes, of the features as they are and whitened by the mean and the
covariance of the training images (no label is used). The trained encoders are those that ship; the
untrained networks have the three seeds of the family's table. Writes notebooks/tables/whitening.csv for notebook 07, a row for
each encoder; the lines that begin with # say how. It takes two minutes.
"""

from collections.abc import Callable, Iterator

import pandas as pd
from course_tables import write_table
from torch import Tensor

from simlab.config import PretrainConfig
from simlab.data import Dataset, load_data
from simlab.evaluate import Features, encode, knn_accuracy, raw_pixels, whitening_of
from simlab.train import resolve, untrained
from simlab_course.encoders import encoder_index, load_trained_encoder

SEEDS = (1, 2, 3)  # of the untrained networks
KS = (200, 20)


def encoders(data: Dataset) -> Iterator[tuple[str, int, Callable[[Tensor], Tensor]]]:
    """Name, seed and encoder of everything that is judged."""
    yield "raw pixels", 0, raw_pixels
    for name, encoder in (("untrained tiny", "tiny"), ("untrained ViT", "vit_tiny")):
        for seed in SEEDS:
            config = PretrainConfig(encoder=encoder, seed=seed)
            yield name, seed, untrained(resolve(config, data), data)
    index = encoder_index()
    for name, seed in zip(index["name"], index["seed"], strict=True):
        yield name, seed, load_trained_encoder(name, seed)


def whitened(f: Features) -> Features:
    """The same features after a whitening that is fitted to those of the training images."""
    mean, matrix = whitening_of(f.train)
    return f._replace(train=(f.train - mean) @ matrix, test=(f.test - mean) @ matrix)


def knn_of(f: Features, k: int) -> float:
    return knn_accuracy(f.train, f.train_labels, f.test, f.test_labels, k)


def main() -> None:
    data = load_data("fashion-scattered")
    rows = []
    for name, seed, encoder in encoders(data):
        f = encode(encoder, data)
        row = {"name": name, "seed": seed} | {f"knn_{k}": knn_of(f, k) for k in KS}
        row |= {f"whitened_{k}": knn_of(whitened(f), k) for k in KS}
        rows.append(row)
        print(row, flush=True)
    write_table("whitening", pd.DataFrame(rows), ["python benchmarks/whitening.py"])


if __name__ == "__main__":
    main()
