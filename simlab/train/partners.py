"""Pairs of different images as two views of one thing: another image with the same factor."""

import torch
from torch import Tensor

from simlab._checks import near
from simlab.data import Images


def partner_groups(images: Images, name: str) -> Tensor:
    """Number the groups of images among which a view's partner is drawn.

    Args:
        images: The images that are trained on.
        name: A factor's name, or "label".

    Returns:
        int64 [N] on the CPU: the group of each image. An image without a label has a group of its
        own, and so do images whose value no other has.

    Raises:
        ValueError: There is no such factor, or no two images share a value.
    """
    if name == "label":
        values = images.labels.cpu().double()
        unlabelled = values < 0
        values[unlabelled] = -1 - torch.arange(int(unlabelled.sum())).double()
    elif name in images.factor_names:
        values = images.factors[:, images.factor_names.index(name)].cpu().double()
    else:
        names = ["label", *images.factor_names]
        raise ValueError(f"views_from={name!r} is unknown{near(name, names)}")
    groups: Tensor
    values_found, groups = values.unique(return_inverse=True)
    if len(values_found) == len(values):
        raise ValueError(f"views_from={name!r}: no two of the {len(values)} images share a value")
    return groups


def draw_partners(groups: Tensor, generator: torch.Generator) -> Tensor:
    """Draw for every image another one of its group.

    Args:
        groups: int64 [N], the group of each image.
        generator: On the CPU.

    Returns:
        int64 [N]: the index of each image's partner; its own where it is alone in its group.
    """
    shuffled = torch.randperm(len(groups), generator=generator)
    by_group = shuffled[groups[shuffled].argsort(stable=True)]  # groups together, shuffled within
    sorted_groups = groups[by_group]
    sizes = torch.bincount(sorted_groups)
    starts = sizes.cumsum(0) - sizes  # [G], where each group starts
    position = torch.arange(len(groups)) - starts[sorted_groups]
    following = starts[sorted_groups] + (position + 1) % sizes[sorted_groups]
    partners = torch.empty_like(groups)
    partners[by_group] = by_group[following]
    return partners
