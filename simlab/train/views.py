"""From the order of an epoch to the views that a method's loss gets.

    order [M] of the images -> this process' index [n] of each batch -> uint8 images [n, C, H, W]
    -> a `Views` of float32 [n, C, S, S]

The augmentation is a recipe of simlab's, or a callable of the user's.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor

from simlab.augment import Normalize, parse_augment, views_at_once
from simlab.compute import distributed
from simlab.config import TrainConfig
from simlab.data import Dataset, Images
from simlab.methods.base import Crops, Method, Views, random_masks

from .partners import draw_partners, partner_groups
from .seeds import EpochGenerators

# views of small batches are made together: up to so many numbers, and so many batches
NUMBERS_AT_ONCE = 2**18
BATCHES_AT_ONCE = 4

Augmentation = Callable[[Tensor, torch.Generator], Sequence[Tensor]]
Batch = tuple[Tensor, Tensor, Tensor]  # index [n], images and their partners, uint8 [n, C, H, W]


class ViewMaker:
    """Makes the views of a run's images, epoch after epoch.

    Args:
        config: Resolved.
        data: The dataset, on the device that trains.
        images: Those of its images that are trained on.
        method: What the views are for.
        augment: The user's own augmentation, in place of config.augment: (uint8 [N, C, H, W],
            generator) -> the views, uint8 or floating point in 0 .. 1.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: Dataset,
        images: Images,
        method: Method,
        augment: Augmentation | None = None,
    ) -> None:
        self.config = config
        assert data.normalize is not None
        self.normalize: Normalize = data.normalize
        self.data = data
        self.images = images
        self.method = method
        self.augment = augment
        views_from = getattr(config, "views_from", "")
        self.groups = partner_groups(images, views_from) if views_from else None
        self.crops = _crop_groups(method.crops, first_apart=bool(views_from))
        if augment is None:
            changes = [crops.changes for crops in self.crops]
            self.recipes = [parse_augment(f"{config.augment} {text}") for text in changes]

    @property
    def steps(self) -> int:
        """Steps of an epoch; the images that are left over wait for the next."""
        return len(self.images) // self.config.batch_size

    @property
    def part_size(self) -> int:
        """Images of one of the `accumulate` parts of a batch, of all processes together."""
        return self.config.batch_size // self.config.accumulate

    def epoch(
        self,
        generators: EpochGenerators,
        watch: Callable[[Iterator[Batch]], Iterable[Batch]] = iter,
    ) -> Iterator[Views]:
        """Make the views of one epoch, a part of a batch at a time.

        Args:
            generators: What all that is random comes from.
            watch: Gets the batches of images and gives them back; where waiting is timed.

        Yields:
            The views of this process' images of each part.
        """
        order = torch.randperm(len(self.images), generator=generators.order)
        order = order[: self.steps * self.config.batch_size]
        batches = iter(watch(self._batches(order, generators)))
        if self.augment is not None:
            for batch in batches:
                yield self._custom_views(batch, generators)
            return
        while together := list(islice(batches, self._batches_at_once())):
            yield from self._recipe_views(together, generators)

    def _batches(self, order: Tensor, generators: EpochGenerators) -> Iterator[Batch]:
        """Yield the images of every part: this process', or all where the user augments them."""
        size = self.part_size
        if self.augment is None:
            order = distributed.shard(order, size)
            size //= distributed.world()
        device = self.data.train.device
        # once: a copy at every step would wait for the device
        batches = self.images.batches(order.to(device), size)
        if self.groups is None:
            for index, images in batches:
                yield index, images, images
            return
        partner_of = draw_partners(self.groups, generators.partners)
        partners = self.images.batches(partner_of[order].to(device), size)
        for (index, images), (_, others) in zip(batches, partners, strict=True):
            yield index, images, others

    def _batches_at_once(self) -> int:
        n: int = self.part_size // distributed.world()
        numbers: int = n * self.data.train.channels * self.config.view_size**2
        return max(1, min(NUMBERS_AT_ONCE // numbers, BATCHES_AT_ONCE))

    def _recipe_views(self, batches: list[Batch], generators: EpochGenerators) -> Iterator[Views]:
        """Yield the views of several batches, made together by simlab's augmentation."""
        images = [batch[1] for batch in batches]
        others = [batch[2] for batch in batches]
        share = distributed.share(len(images[0]))
        made: list[list[Tensor]] = [[] for _ in batches]
        for k, crops in enumerate(self.crops):
            views_of_each = views_at_once(
                crops.number,
                images if k == 0 else others,
                self.recipes[k],
                self.normalize,
                round(self.config.view_size * crops.scale),
                generators.views[k],
                share,
            )
            for views, group in zip(made, views_of_each, strict=True):
                views.extend(group)
        for (index, *_), views in zip(batches, made, strict=True):
            yield self._with_extras(index, views, generators)

    def _custom_views(self, batch: Batch, generators: EpochGenerators) -> Views:
        """Call the user's augmentation on the images of all processes, and take the own rows.

        So an image's view is the same however many processes there are.
        """
        index, images, others = batch
        views = self._call_augment(images, generators)
        if self.groups is not None:
            views[1:] = self._call_augment(others, generators)[1:]
        n = len(index) // distributed.world()
        rows = slice(distributed.rank() * n, (distributed.rank() + 1) * n)
        normalised = [self._normalised(view[rows]) for view in views]
        return self._with_extras(index[rows], normalised, generators)

    def _call_augment(self, images: Tensor, generators: EpochGenerators) -> list[Tensor]:
        assert self.augment is not None
        views = self.augment(images, generators.views[0])
        number = sum(crops.number for crops in self.method.crops)
        if not isinstance(views, list | tuple):
            raise ValueError(f"augment gave a {type(views).__name__}: expected a list of views")
        if len(views) != number:
            name = type(self.method).__name__
            raise ValueError(f"augment gave {len(views)} views: {name} takes {number}")
        n, channels = images.shape[:2]
        for view in views:
            if not isinstance(view, Tensor):
                raise ValueError(
                    f"augment gave a {type(view).__name__} as a view: expected a tensor"
                )
            if view.dim() != 4 or view.shape[:2] != (n, channels):
                expected = f"[{n}, {channels}, height, width]"
                raise ValueError(f"augment gave a view {list(view.shape)}: expected {expected}")
        return list(views)

    def _normalised(self, view: Tensor) -> Tensor:
        """Normalise uint8, or floating point in 0 .. 1, by the dataset's mean and std."""
        if view.dtype == torch.uint8:
            return self.normalize(view)
        if not view.is_floating_point():
            raise ValueError(f"augment gave a view of {view.dtype}: expected uint8 or float32")
        return self.normalize.standardise(view.float())

    def _with_extras(
        self, index: Tensor, views: list[Tensor], generators: EpochGenerators
    ) -> Views:
        """Add the labels and masks that the method asks for."""
        labels = masks = None
        if self.method.needs_labels:
            labels = self.images.labels[index.to(views[0].device)]
        if self.method.masks is not None:
            patches = views[0].shape[-1] // self.method.masks.patch
            ratio = self.method.masks.ratio
            masks = random_masks(len(index), patches, ratio, generators.masks)
        return Views(views, labels, masks)


def _crop_groups(crops: tuple[Crops, ...], first_apart: bool) -> list[Crops]:
    """The groups of views; the very first view in one of its own where it has another image."""
    groups = list(crops)
    if first_apart and groups[0].number > 1:
        first = groups[0]
        one = Crops(1, first.changes, first.scale)
        others = Crops(first.number - 1, first.changes, first.scale)
        groups[:1] = [one, others]
    return groups
