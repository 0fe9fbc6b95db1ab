"""Domain generalization: does what was learned in some domains hold in one that was left out?

    domains = by_factor(load_data("fashion-scattered").train, "angle")
    data, validation = domains.leave_out(domains.names[0])

A domain is a range of a known factor, or one of its levels (`by_factor`: angle, position, scale;
the designer of `emoji`), a colour (`by_colour`) or a folder (`domain_folder`). The protocol is
DomainBed's (Gulrajani & Lopez-Paz, arXiv 2007.01434): a fifth of the training domains' images is
for choosing among settings, the left-out domain is evaluated once. Augmentation that undoes the
very shift (rotation, for angles) hides it. `simlab.sweeps.domains.leave_each_out` trains on it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from simlab._checks import near

from .dataset import Dataset
from .files import BrokenImageError, ImageFiles, image_files
from .folders import FITS
from .images import Images
from .listing import Folder, list_images, note_left_out
from .notes import Notes
from .pixels import Fit

Colour = tuple[float, float, float]  # red, green and blue in 0 .. 1

COLOURS: dict[str, Colour] = {
    "red": (1, 0.5, 0.5),
    "green": (0.5, 1, 0.5),
    "blue": (0.5, 0.5, 1),
    "grey": (1, 1, 1),
}
HOLD_OUT = 5  # a fifth of the training domains' images is for validation


@dataclass(eq=False, repr=False)
class Domains:
    """Images, and the domain that each belongs to.

    Attributes:
        name: what they are called together.
        images: the images of all domains.
        domain: int64 [N], an index into names.
        names: the domains' names.
    """

    name: str
    images: Images
    domain: Tensor
    names: tuple[str, ...]

    def leave_out(self, name: str, seed: int = 0) -> tuple[Dataset, Images]:
        """Train on all domains but one, test on that one.

        Args:
            name: the domain to leave out.
            seed: which fifth of the other domains' images is for validation.

        Returns:
            The dataset, whose test split is the left-out domain; and the validation images, which
            are in neither of its splits.

        Raises:
            ValueError: for an unknown domain, or one with a class that no other domain has.
        """
        if name not in self.names:
            raise ValueError(f"{self.name} has no domain {name!r}{near(name, self.names)}")
        is_left_out = self.domain == self.names.index(name)
        self._check_classes(name, is_left_out)
        test = is_left_out.nonzero()[:, 0]
        others = (~is_left_out).nonzero()[:, 0]
        order = torch.randperm(len(others), generator=torch.Generator().manual_seed(seed))
        number = math.ceil(len(others) / HOLD_OUT)
        validation = others[order[:number]]
        train = others[order[number:]]
        data = Dataset(
            f"{self.name} without {name}",
            self.images.subset(train),
            self.images.subset(test),
        )
        return data, self.images.subset(validation).with_normalize(data.normalize)

    def _check_classes(self, name: str, is_left_out: Tensor) -> None:
        labels = self.images.labels
        unseen = set(labels[is_left_out].tolist()) - set(labels[~is_left_out].tolist())
        if unseen:
            classes = ", ".join(self.images.classes[label] for label in sorted(unseen))
            raise ValueError(
                f"the class {classes} has images in {name!r} only: expected every class in another "
                "domain too, to learn it there"
            )

    def __repr__(self) -> str:
        counts = torch.bincount(self.domain, minlength=len(self.names)).tolist()
        text = ", ".join(f"{name} {count}" for name, count in zip(self.names, counts, strict=True))
        return f"Domains({self.name!r}: {text}; {self.images!r})"


def by_factor(images: Images, factor: str, parts: int = 4) -> Domains:
    """Domains that are ranges of a factor's values, with the same number of images in each.

    A nominal factor has a domain for each of its levels that occurs, however many images it has.

    Args:
        images: ones with factors.
        factor: a factor's name.
        parts: how many ranges a quantity is cut into.

    Raises:
        ValueError: for a factor that the images do not have.
    """
    if factor not in images.factor_names:
        raise ValueError(f"unknown factor {factor!r}{near(factor, images.factor_names)}")
    values = images.factors[:, images.factor_names.index(factor)].contiguous()
    if factor in images.factor_levels:
        levels, domain = values.long().unique(return_inverse=True)
        names = tuple(images.factor_levels[factor][level] for level in levels.tolist())
        return Domains(factor, images, domain, names)
    edges = torch.quantile(values, torch.linspace(0, 1, parts + 1, device=values.device))
    limits = edges.tolist()
    ranges = []
    for low, high in zip(limits[:-1], limits[1:], strict=True):
        ranges.append(f"{factor} {low:.3g} to {high:.3g}")
    return Domains(factor, images, torch.bucketize(values, edges[1:-1]), tuple(ranges))


def by_colour(images: Images, colours: Mapping[str, Colour] = COLOURS, seed: int = 0) -> Domains:
    """Domains of one colour each, in which grey images are dyed at random.

    Args:
        images: grey ones, [N, 1, H, W].
        colours: red, green and blue in 0 .. 1, by the domain's name.
        seed: which image gets which colour.

    Raises:
        ValueError: for images that have colours already.
    """
    if images.channels != 1:
        raise ValueError(f"images have {images.channels} channels: expected grey ones, with 1")
    generator = torch.Generator().manual_seed(seed)
    domain = torch.randint(len(colours), (len(images),), generator=generator)
    palette = torch.tensor(list(colours.values()), dtype=torch.float32)
    rgb = palette[domain].to(images.device)  # [N, 3]
    dyed = (images.images * rgb[:, :, None, None]).round().to(torch.uint8)  # [N, 3, H, W]
    domain = domain.to(images.device)
    return Domains("colour", replace(images, images=dyed), domain, tuple(colours))


def domain_folder(
    folder: str | Path, image_size: int = 0, channels: int = 0, fit: Fit = "cut"
) -> Domains:
    """Domains that are folders: FOLDER/<domain>/<class>/*.jpg.

    Args:
        folder: the path; ~ is the user's home.
        image_size: side in pixels that images are cut and resized to; 0 takes the median.
        channels: as in `load_data`.
        fit: as in `load_data`.

    Raises:
        FileNotFoundError: where there are no images.
        ValueError: for an image at another depth or one that can't be decoded, for fewer than two
            domains, and for more images than fit in memory.
    """
    notes = Notes()
    tree = list_images(Path(folder).expanduser())
    note_left_out(tree, notes)
    _check_depth(tree)
    paths: list[Path] = []
    domain_of: list[str] = []
    class_of: list[str] = []
    for domain_name, inner in sorted(tree.folders.items()):
        for class_name, images_of_class in sorted(inner.folders.items()):
            its_paths = list(images_of_class.images())
            paths += its_paths
            domain_of += [domain_name] * len(its_paths)
            class_of += [class_name] * len(its_paths)
    domains = tuple(sorted(tree.folders))
    classes = tuple(sorted(set(class_of)))
    files = _files_that_fit(tree, paths, notes, image_size, channels, fit)
    pixels, reasons = files.read_all("reading images")
    if reasons:
        raise BrokenImageError(paths, reasons)
    labels = torch.tensor([classes.index(name) for name in class_of])
    domain = torch.tensor([domains.index(name) for name in domain_of])
    return Domains(str(folder), Images(pixels, labels, classes), domain, domains)


def _check_depth(tree: Folder) -> None:
    for folder in (tree, *tree.folders.values()):
        if folder.files:
            raise ValueError(
                f"{folder.path / folder.files[0]} is at the wrong depth: expected "
                f"{tree.path}/<domain>/<class>/..."
            )
    if len(tree.folders) < 2:
        raise ValueError(
            f"{tree.path} has one domain, {', '.join(tree.folders)}: expected at least two "
            "folders in it"
        )


def _files_that_fit(
    tree: Folder, paths: list[Path], notes: Notes, image_size: int, channels: int, fit: Fit
) -> ImageFiles:
    files, _ = image_files(paths, notes, image_size, channels, fit)  # the broken are named later
    if files.decoded_bytes > FITS:
        gigabytes = files.decoded_bytes / 2**30
        raise ValueError(
            f"{tree.path}: at image_size={files.size} the images take {gigabytes:.1f} GB decoded: "
            f"expected at most {FITS / 2**30:.1f} GB; give a smaller image_size"
        )
    return files
