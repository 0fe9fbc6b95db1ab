"""Data: images as uint8 tensors, and datasets by name, by path or of arrays.

Read in this order:

    images        `Images`, one split; image_checks: what it must be like
    dataset       `Dataset`, the splits and the normalisation that they share
    registry      `load_data`: the datasets by name, and folders by their path
    fashion       the bundled Fashion-MNIST; nuisances: its random poses and colours
    emoji         things in colour, each by several designers
    arrays        `from_arrays`: what is in memory already; convert: values and labels of any kind
    map_style     `from_dataset`: torch's, torchvision's and Hugging Face's datasets; items: one
                  image after the other
    hold_out      the draw of a test split where there is none
    folders       a folder of images, kept in memory or streamed; listing: which files there are;
                  layout: splits and classes; headers, files, pixels: how images are read;
                  file_digests: the content of all of them
    public_sets   CIFAR-10, CIFAR-100, STL-10; downloads: where they go
    domains       `Domains`: train on some, test on another
    preview       how a notebook shows a dataset; notes: what was noticed while it was loaded
"""

from .arrays import from_arrays
from .dataset import Dataset
from .domains import Domains, by_colour, by_factor, domain_folder
from .downloads import download_folder
from .emoji import emoji_source
from .folders import StreamedImages, load_folder
from .hold_out import held_out
from .images import Images
from .map_style import from_dataset
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
    "from_dataset",
    "held_out",
    "load_data",
    "load_folder",
]
