"""CIFAR-10, CIFAR-100 and STL-10, read by torchvision, which checks their files' MD5 sums."""

from collections.abc import Callable
from typing import Any

from .arrays import as_images, as_labels
from .dataset import Dataset
from .downloads import open_torchvision
from .images import Images


def load_cifar10(folder: str, download: bool) -> Dataset:
    """50,000 training and 10,000 test images of 10 classes, 32 x 32, in colour."""
    from torchvision.datasets import CIFAR10  # loading it takes two seconds, as below

    return _load_cifar("cifar10", CIFAR10, folder, download)


def load_cifar100(folder: str, download: bool) -> Dataset:
    """50,000 training and 10,000 test images of 100 classes, 32 x 32, in colour."""
    from torchvision.datasets import CIFAR100

    return _load_cifar("cifar100", CIFAR100, folder, download)


def load_stl10(folder: str, download: bool) -> Dataset:
    """5,000 training, 8,000 test and 100,000 unlabelled images, 96 x 96, in colour."""
    from torchvision.datasets import STL10

    def read(split: str) -> Images:
        stored = open_torchvision(STL10, "stl10", folder, download, split=split)
        return _as_split(stored, stored.labels)

    return Dataset("stl10", read("train"), read("test"), read("unlabeled"))


def _load_cifar(name: str, make: Callable[..., Any], folder: str, download: bool) -> Dataset:
    train = open_torchvision(make, name, folder, download, train=True)
    test = open_torchvision(make, name, folder, download, train=False)
    return Dataset(name, _as_split(train, train.targets), _as_split(test, test.targets))


def _as_split(stored: Any, labels: Any) -> Images:
    """A split of what torchvision has read."""
    images = as_images(stored.data)
    return Images(images, as_labels(labels), tuple(stored.classes))
