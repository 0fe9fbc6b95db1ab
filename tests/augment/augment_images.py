"""Images, floats and normalisations for the tests of augmentation."""

import torch

from simlab.augment import RECIPES, Normalize

MEAN, STD = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])
NORMALIZE = {c: Normalize(MEAN[:c], STD[:c]) for c in (1, 3)}
NONE = RECIPES["none"]


def images(n=8, c=3, h=32, w=32, seed=0):
    """Random uint8 images that are smooth enough to have edges, flats and greys."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, c, 6, 6, generator=generator)
    x = torch.nn.functional.interpolate(coarse, (h, w), mode="bilinear")
    x[:, :, : h // 4, : w // 4] = torch.rand(n, c, h // 4, w // 4, generator=generator)
    x[:, :, -2:, :] = 0.5  # grey: no hue
    x[:, 0, :, -2:] = x[:, -1, :, -2:]  # two channels alike
    return (x * 255).round().to(torch.uint8)


def floats(*args, **kwargs):
    return images(*args, **kwargs).float() / 255


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)
