"""Domain generalization: does what was learned in some domains hold in one that was left out?

    domains = by_factor(load_data("fashion-scattered").train, "angle")
    table = leave_each_out(domains, SupervisedConfig(augment="scattered rotate=0"), seeds=range(3))
    mean_and_worst(table)

A domain is a range of a known factor (`by_factor`: angle, place, scale), a colour (`by_colour`) or
a folder of yours (`domain_folder`). The protocol is DomainBed's (Gulrajani & Lopez-Paz, arXiv
2007.01434): a fifth of the training domains' pictures is for choosing among settings, the left-out
domain is asked once. Augmentation that undoes the very shift (turning, for angles) hides it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F

from .config import SupervisedConfig, TrainConfig
from .data import DataSet, Pictures
from .evaluate import features
from .folders import FITS, PictureFiles, picture_paths, size_and_mode
from .names import near
from .probe import accuracy, encode, linear_probe
from .runs import Run
from .train import pretrain, train_supervised

COLOURS = {"red": (1, 0.5, 0.5), "green": (0.5, 1, 0.5), "blue": (0.5, 0.5, 1), "grey": (1, 1, 1)}


@dataclass
class Domains:
    """Pictures, and the domain that each belongs to: int64 [N], an index into `names`."""

    name: str
    pictures: Pictures
    domain: torch.Tensor
    names: tuple[str, ...]

    def leave_out(self, name: str, seed: int = 0) -> tuple[DataSet, Pictures]:
        """A data set: train on all domains but one, test on that one; and validation pictures.

        These are a fifth of the training domains' pictures, drawn by `seed`. Raises ValueError for
        an unknown domain, or one with a class that no other domain has.
        """
        if name not in self.names:
            raise ValueError(f"{self.name} has no domain {name!r}{near(name, self.names)}")
        inside = self.domain == self.names.index(name)
        labels = self.pictures.labels
        if unseen := set(labels[inside].tolist()) - set(labels[~inside].tolist()):
            names = ", ".join(self.pictures.classes[c] for c in unseen)
            raise ValueError(f"only {name!r} has pictures of {names}: nothing to learn them from")
        rest = (~inside).nonzero()[:, 0]
        order = torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))
        validation, train = (rest[part] for part in order.tensor_split([-(-len(rest) // 5)]))
        parts = [self.pictures.subset(i) for i in (train, inside.nonzero()[:, 0], validation)]
        return DataSet(f"{self.name} without {name}", *parts[:2]), parts[2]


def by_factor(pictures: Pictures, factor: str, parts: int = 4) -> Domains:
    """Ranges of a known factor, as many pictures in each."""
    if factor not in pictures.factor_names:
        raise ValueError(f"there is no factor {factor!r}{near(factor, pictures.factor_names)}")
    values = pictures.factors[:, pictures.factor_names.index(factor)].contiguous()
    edges = torch.quantile(values, torch.linspace(0, 1, parts + 1, device=values.device))
    names = tuple(f"{factor} {a:.3g} to {b:.3g}" for a, b in edges.unfold(0, 2, 1).tolist())
    return Domains(factor, pictures, torch.bucketize(values, edges[1:-1]), names)


def by_colour(pictures: Pictures, colours: Mapping[str, tuple] = COLOURS, seed: int = 0) -> Domains:
    """Grey pictures [N, 1, H, W], each dyed in one of the colours (red, green, blue in 0 .. 1)."""
    if pictures.channels != 1:
        raise ValueError("these pictures have colours already: expected grey ones")
    generator = torch.Generator().manual_seed(seed)
    domain = torch.randint(len(colours), (len(pictures),), generator=generator)
    rgb = torch.tensor(list(colours.values()), dtype=torch.float32)[domain].to(pictures.device)
    images = (pictures.images * rgb[:, :, None, None]).round().to(torch.uint8)  # [N, 3, H, W]
    dyed = replace(pictures, images=images)
    return Domains("colour", dyed, domain.to(pictures.device), tuple(colours))


def domain_folder(folder: str, image_size: int = 0) -> Domains:
    """FOLDER/<domain>/<class>/*.jpg, cut to squares of `image_size` pixels (0: the first one's)."""
    root = Path(folder)
    paths = [path for path, _ in picture_paths(root)]
    inside = [path.relative_to(root).parts for path in paths]
    if wrong := [path for path, parts in zip(paths, inside, strict=True) if len(parts) < 3]:
        raise ValueError(f"{wrong[0]} lies at the wrong depth: expected {root}/<domain>/<class>/...")
    names, classes = known = [tuple(sorted({parts[i] for parts in inside})) for i in (0, 1)]
    if len(names) < 2:
        raise ValueError(f"{root} has one domain, {names[0]}: expected at least two folders in it")
    files = PictureFiles(tuple(paths), *size_and_mode(paths, image_size))
    if (need := len(paths) * len(files.mode) * files.size**2) > FITS:
        raise MemoryError(f"{root} takes {need / 2**30:.1f} GB decoded: give a smaller image_size")
    domain, labels = (torch.tensor([known[i].index(parts[i]) for parts in inside]) for i in (0, 1))
    pictures = Pictures(files.read_all(f"reading {root}"), labels, classes)
    return Domains(str(root), pictures, domain, names)


def classify(run: Run, pictures: Pictures, data: DataSet) -> torch.Tensor:
    """Outputs [N, classes] of a network that `train_supervised` made, normalised as in `data`."""
    state = run.load_checkpoint()["network"]
    x = features(run.encoder, pictures, data.mean, data.std)
    return F.linear(x, *(state[f"classifier.{part}"].to(x) for part in ("weight", "bias")))


def leave_each_out(domains: Domains, config: TrainConfig, seeds: Iterable[int] = (0,),
                   **options) -> pd.DataFrame:
    """Leave out one domain after the other: a row a seed and domain, with accuracies.

    `test` is of the left-out domain, `validation` of the others. A SupervisedConfig trains on
    labels; a PretrainConfig without them, and a linear probe on the frozen features answers.
    options: of `train_supervised` and `pretrain`, such as progress=False.
    """
    rows = []
    for seed in seeds:
        for name in domains.names:
            data, validation = domains.leave_out(name, seed)
            own = replace(config, seed=seed)
            if isinstance(config, SupervisedConfig):
                run = train_supervised(own, data, **options)
                chosen = accuracy(classify(run, validation, data), validation.labels)
                test = run.result["final"]["test_accuracy"]
            else:
                probe = linear_probe(encode(pretrain(own, data, **options).encoder, data), seed=seed)
                chosen, test = probe.validation, probe.accuracy
            rows.append({"seed": seed, "domain": name, "validation": chosen, "test": test})
    return pd.DataFrame(rows)


def mean_and_worst(table: pd.DataFrame) -> pd.DataFrame:
    """Of `leave_each_out`'s table: for each seed the mean over the domains, and the worst one."""
    return table.groupby("seed")["test"].agg(mean="mean", worst="min").reset_index()
