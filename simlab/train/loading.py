"""The dataset that a configuration names, loaded by as few processes as possible."""

from simlab.compute import distributed
from simlab.config import TrainConfig
from simlab.data import Dataset, StreamedImages, load_data


def load_once(config: TrainConfig) -> Dataset:
    """Load the dataset in every process.

    Of a folder that does not fit into memory the first process alone lists the files, reads their
    headers and measures mean and std; it tells the others, since a million files opened by each of
    them would keep the disk busy for long. All else is loaded by each, after the first one, which
    may download.
    """
    own = _load(config) if distributed.rank() == 0 else None
    told = distributed.from_first(lambda: own if own and _is_streamed(own) else None)
    return told or own or _load(config)


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


def _load(config: TrainConfig) -> Dataset:
    return load_data(
        config.data,
        config.data_folder,
        config.download,
        config.image_size,
        threads=config.decoding_threads,
    )


def _is_streamed(data: Dataset) -> bool:
    return isinstance(data.train, StreamedImages)
