"""Data: images as uint8 tensors, and datasets by name, by path or of arrays.

Read in this order:

    images        `Images`, one split
    dataset       `Dataset`, the splits and the normalisation that they share
    registry      `load_data`: the datasets by name, and folders by their path
    fashion       the bundled Fashion-MNIST; nuisances: its random poses and colours
    emoji         things in colour, each by several designers
    arrays        `from_arrays`: what is in memory already
    folders       a folder of images, kept in memory or streamed; files: how one is read
    public_sets   CIFAR-10, CIFAR-100, STL-10; downloads: where they go
    domains       `Domains`: train on some, test on another
    preview       how a notebook shows a dataset
"""

from .arrays import from_arrays
from .dataset import Dataset
from .domains import Domains, by_colour, by_factor, domain_folder
from .downloads import download_folder
from .emoji import emoji_source
from .folders import StreamedImages, load_folder
from .images import Images
from .registry import DATASETS, load_data

__all__ = [
    "DATASETS",
    "Dataset",
    "Domains",
    "Images",
    "StreamedImages",
    "by_colour",
    "by_factor",
    "domain_folder",
    "download_folder",
    "emoji_source",
    "from_arrays",
    "load_data",
    "load_folder",
]
