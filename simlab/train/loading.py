"""The dataset that a configuration names, loaded by as few processes as possible."""

from simlab.compute import distributed
from simlab.config import TrainConfig, images_of
from simlab.data import Dataset, StreamedImages, load_data


def load_once(config: TrainConfig) -> Dataset:
    """Load the dataset in every process.

    Of a folder that does not fit into memory the first process alone lists the files, reads their
    headers and measures mean and std; it tells the others, since a million files opened by each of
    them would keep the disk busy for long. All else is loaded by each, after the first one, which
    may download.
    """
    data = load_data(**images_of(config)) if distributed.rank() == 0 else None
    streamed = distributed.from_first(lambda: data if data and _is_streamed(data) else None)
    return streamed or data or load_data(**images_of(config))


def checked_dataset(data: object) -> Dataset:
    """Return the dataset that a caller gave.

    Raises:
        TypeError: It is none of simlab's.
    """
    if not isinstance(data, Dataset):
        raise TypeError(
            f"data is a {type(data).__name__}: expected a Dataset of simlab's; see from_arrays, "
            "and from_dataset for torch's and other datasets (of a DataLoader: its dataset)"
        )
    return data


def _is_streamed(data: Dataset) -> bool:
    return isinstance(data.train, StreamedImages)
