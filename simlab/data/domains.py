"""Domain generalization: does what was learned in some domains hold in one that was left out?

    domains = by_factor(load_data("fashion-scattered").train, "angle")
    table = leave_each_out(domains, SupervisedConfig(augment="scattered rotate=0"), seeds=range(3))
    mean_and_worst(table)

A domain is a range of a known factor (`by_factor`: angle, place, scale), a colour (`by_colour`) or
a folder of yours (`domain_folder`). The protocol is DomainBed's (Gulrajani & Lopez-Paz, arXiv
2007.01434): a fifth of the training domains' images is for choosing among settings, the left-out
domain is asked once. Augmentation that undoes the very shift (turning, for angles) hides it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from simlab._names import near

from .folders import FITS, ImageFiles, image_paths, size_and_mode
from .images import Dataset, Images

COLOURS = {"red": (1, 0.5, 0.5), "green": (0.5, 1, 0.5), "blue": (0.5, 0.5, 1), "grey": (1, 1, 1)}


@dataclass
class Domains:
    """Images, and the domain that each belongs to: int64 [N], an index into `names`."""

    name: str
    images: Images
    domain: torch.Tensor
    names: tuple[str, ...]

    def leave_out(self, name: str, seed: int = 0) -> tuple[Dataset, Images]:
        """A dataset: train on all domains but one, test on that one; and validation images.

        These are a fifth of the training domains' images, drawn by `seed`. Raises ValueError for
        an unknown domain, or one with a class that no other domain has.
        """
        if name not in self.names:
            raise ValueError(f"{self.name} has no domain {name!r}{near(name, self.names)}")
        inside = self.domain == self.names.index(name)
        labels = self.images.labels
        if unseen := set(labels[inside].tolist()) - set(labels[~inside].tolist()):
            names = ", ".join(self.images.classes[c] for c in unseen)
            raise ValueError(f"only {name!r} has images of {names}: nothing to learn them from")
        rest = (~inside).nonzero()[:, 0]
        order = torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))
        validation, train = (rest[part] for part in order.tensor_split([-(-len(rest) // 5)]))
        parts = [self.images.subset(i) for i in (train, inside.nonzero()[:, 0], validation)]
        data = Dataset(f"{self.name} without {name}", *parts[:2])
        return data, parts[2].with_normalize(data.normalize)


def by_factor(images: Images, factor: str, parts: int = 4) -> Domains:
    """Ranges of a known factor, as many images in each."""
    if factor not in images.factor_names:
        raise ValueError(f"there is no factor {factor!r}{near(factor, images.factor_names)}")
    values = images.factors[:, images.factor_names.index(factor)].contiguous()
    edges = torch.quantile(values, torch.linspace(0, 1, parts + 1, device=values.device))
    names = tuple(f"{factor} {a:.3g} to {b:.3g}" for a, b in edges.unfold(0, 2, 1).tolist())
    return Domains(factor, images, torch.bucketize(values, edges[1:-1]), names)


def by_colour(images: Images, colours: Mapping[str, tuple] = COLOURS, seed: int = 0) -> Domains:
    """Grey images [N, 1, H, W], each dyed in one of the colours (red, green, blue in 0 .. 1)."""
    if images.channels != 1:
        raise ValueError("these images have colours already: expected grey ones")
    generator = torch.Generator().manual_seed(seed)
    domain = torch.randint(len(colours), (len(images),), generator=generator)
    rgb = torch.tensor(list(colours.values()), dtype=torch.float32)[domain].to(images.device)
    dyed_images = (images.images * rgb[:, :, None, None]).round().to(torch.uint8)  # [N, 3, H, W]
    dyed = replace(images, images=dyed_images)
    return Domains("colour", dyed, domain.to(images.device), tuple(colours))


def domain_folder(folder: str, image_size: int = 0) -> Domains:
    """FOLDER/<domain>/<class>/*.jpg, cut to squares of `image_size` pixels (0: the first one's)."""
    root = Path(folder)
    paths = [path for path, _ in image_paths(root)]
    inside = [path.relative_to(root).parts for path in paths]
    if wrong := [path for path, parts in zip(paths, inside, strict=True) if len(parts) < 3]:
        raise ValueError(
            f"{wrong[0]} lies at the wrong depth: expected {root}/<domain>/<class>/..."
        )
    names, classes = known = [tuple(sorted({parts[i] for parts in inside})) for i in (0, 1)]
    if len(names) < 2:
        raise ValueError(f"{root} has one domain, {names[0]}: expected at least two folders in it")
    files = ImageFiles(tuple(paths), *size_and_mode(paths, image_size))
    if (need := len(paths) * len(files.mode) * files.size**2) > FITS:
        raise MemoryError(f"{root} takes {need / 2**30:.1f} GB decoded: give a smaller image_size")
    domain, labels = (torch.tensor([known[i].index(parts[i]) for parts in inside]) for i in (0, 1))
    images = Images(files.read_all(f"reading {root}"), labels, classes)
    return Domains(str(root), images, domain, names)
