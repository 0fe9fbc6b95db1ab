"""data."""

from .domains import COLOURS, Domains, by_colour, by_factor, domain_folder
from .folders import (
    AHEAD,
    BLOCK,
    ENDINGS,
    FITS,
    SAMPLE,
    THREADS,
    ImageFiles,
    StreamedImages,
    image_paths,
    load_folder,
    size_and_mode,
)
from .images import Dataset, Images, as_images, as_labels, from_arrays, load_data
from .registry import (
    DATASETS,
    FASHION_CLASSES,
    come_along,
    download_folder,
    from_torchvision,
    read_idx,
)
from .scatter import CANVAS, COLOUR_NAMES, FACTOR_NAMES, MAX_ANGLE, colour, scatter
