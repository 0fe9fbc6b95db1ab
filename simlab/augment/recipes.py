"""What a view is drawn from: `Augment`, and the published settings by name in `RECIPES`."""

from dataclasses import dataclass, replace

from simlab._checks import near

SMALLEST_CROP = 0.001  # share of the image's area
SMALLEST_SIGMA = 0.01  # pixels


@dataclass(frozen=True)
class Augment:
    """The strength of each augmentation; 0 switches it off. The values are torchvision's.

    Sources: SimCLR, arXiv 2002.05709, appendix A; SimSiam, arXiv 2011.10566, appendix A; for the
    solarisation BYOL, arXiv 2006.07733, appendix B.
    """

    crop_min: float = 0.2  # smallest share of the image's area that a crop keeps
    crop_max: float = 1.0  # largest
    ratio: float = 4 / 3  # aspect ratio of a crop: log-uniform in 1/ratio .. ratio
    flip: float = 0.5  # probability of a horizontal flip
    rotate: float = 0.0  # degrees, uniform in -rotate .. rotate
    jitter: float = 0.8  # probability of the colour jitter
    brightness: float = 0.4  # factor, uniform in 1 - b .. 1 + b
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1  # share of the colour wheel, uniform in -hue .. hue; at most 0.5
    grey: float = 0.2  # probability of losing the colour
    blur: float = 0.0  # probability of a Gaussian blur
    blur_sigma_min: float = 0.1  # pixels
    blur_sigma_max: float = 2.0
    solarize: float = 0.0  # probability that the brighter half of the values is inverted

    def __post_init__(self) -> None:
        ranges = {
            "crop_max": (SMALLEST_CROP, 1),
            "crop_min": (SMALLEST_CROP, self.crop_max),
            "ratio": (1, 100),
            "rotate": (0, 180),
            "hue": (0, 0.5),
            "blur_sigma_max": (SMALLEST_SIGMA, 100),
            "blur_sigma_min": (SMALLEST_SIGMA, self.blur_sigma_max),
        }
        for name, value in vars(self).items():
            low, high = ranges.get(name, (0, 1))
            if not low <= value <= high:  # also refuses NaN
                raise ValueError(f"{name}={value}: expected a number from {low} to {high}")


RECIPES = {
    # SimSiam, appendix D: SimCLR's with half its strength and, on 32 pixels, no blur
    "simsiam-cifar": Augment(),
    "simsiam-imagenet": Augment(blur=0.5),
    # SimCLR, appendix A: s = 1 for ImageNet
    "simclr": Augment(
        crop_min=0.08,
        brightness=0.8,
        contrast=0.8,
        saturation=0.8,
        hue=0.2,
        blur=0.5,
    ),
    # with rotations, since the scattered images are rotated; see notebook 01
    "scattered": Augment(
        crop_min=0.4,
        rotate=180.0,
        hue=0.0,
        saturation=0.0,
        grey=0.0,
    ),
    # larger crops and stronger changes of brightness and contrast give better features (notebook
    # 02); the tables of notebooks 03 and 04 were made with the recipe above
    "scattered-light": Augment(
        crop_min=0.5,
        rotate=180.0,
        brightness=0.6,
        contrast=0.6,
        hue=0.0,
        saturation=0.0,
        grey=0.0,
    ),
    "none": Augment(crop_min=1, ratio=1, flip=0, jitter=0, grey=0),
}


def parse_augment(text: str) -> Augment:
    """Read a recipe's name and changes to its strengths, such as "simclr blur=0 crop_min=0.2".

    Raises:
        ValueError: for an unknown recipe or strength, with the nearest right name; for a strength
            that is no number or out of range.
    """
    name, *changes = text.split() or [""]
    if name not in RECIPES:
        raise ValueError(f"augmentation {name!r} is unknown{near(name, RECIPES)}")
    recipe = RECIPES[name]
    strengths = dict(_parse_strength(change, text) for change in changes)
    return replace(recipe, **strengths)


def _parse_strength(change: str, text: str) -> tuple[str, float]:
    """Read "blur=0.5" as ("blur", 0.5); `text` is the setting that it stands in."""
    name, _, value = change.partition("=")
    names = vars(Augment())
    if name not in names:
        raise ValueError(
            f"augment={text!r}: unknown augmentation parameter {name!r}{near(name, names)}"
        )
    try:
        return name, float(value)
    except ValueError:
        raise ValueError(f"augment={text!r}: expected name=number, not {change!r}") from None
