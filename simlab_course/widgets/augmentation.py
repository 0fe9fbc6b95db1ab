"""Two augmented views of some images, with a slider for every strength of the recipe."""

from typing import Any

import torch
from torch import Tensor

from simlab.augment import Augment, Normalize, view
from simlab_course import figures

from .explorer import Drawing, Explorer, slider

IMAGES = 8  # that are drawn
PAIRS = ("crop", "blur_sigma")  # lowest and highest strength on one slider
COLOUR_STEPS = ("saturation", "hue", "grey")  # off where the images are grey
# lowest, highest and step of a strength's slider; 0 to 1 by 0.1 where nothing is said
STRENGTHS: dict[str, tuple[float, float, float]] = {
    "crop": (0.05, 1.0, 0.05),
    "ratio": (1.0, 4.0, 0.1),
    "rotate": (0.0, 180.0, 15.0),
    "hue": (0.0, 0.5, 0.05),
    "blur_sigma": (0.1, 5.0, 0.1),
}


def two_view_explorer(images: Tensor, normalize: Normalize, recipe: Augment) -> Explorer:
    """Show images and two random views of each.

    Args:
        images: uint8 [N, C, H, W], of which eight are drawn.
        normalize: The dataset's normalisation.
        recipe: Where the sliders start.
    """
    subset = images[:IMAGES]
    strengths_of_recipe = vars(recipe)

    def draw(draw_number: int, **values: Any) -> Drawing:
        strengths = _split_pairs(values)
        augment = Augment(**strengths)
        rows = {"image": subset}
        for number in (1, 2):
            # a generator for each view: a step that is switched on moves nothing else
            generator = torch.Generator().manual_seed(2 * draw_number + number)
            x = view(subset, augment, normalize, generator=generator)
            rows[f"view {number}"] = normalize.undo(x)
        difference = float((rows["view 1"] - rows["view 2"]).abs().mean())
        words = ", ".join(f"{name} {value:.3g}" for name, value in strengths.items())
        alt = (
            f"{len(subset)} images, and below each two views of it, draw {draw_number}. A pixel of "
            f"the two differs by {difference:.3f} on average, of 1 from black to white. {words}."
        )
        return figures.image_rows(rows), alt

    controls = {"draw_number": slider("draw", 0, 0, 100, 1)}
    for name in _slider_names(strengths_of_recipe):
        if name in PAIRS:
            value = (strengths_of_recipe[f"{name}_min"], strengths_of_recipe[f"{name}_max"])
        else:
            value = strengths_of_recipe[name]
        controls[name] = slider(name, value, *STRENGTHS.get(name, ()))
        controls[name].disabled = name in COLOUR_STEPS and images.shape[1] == 1
    return Explorer(draw, **controls)


def _slider_names(strengths: dict[str, Any]) -> list[str]:
    """Name the sliders: crop_min and crop_max share one, called crop."""
    names = [name.removesuffix("_min").removesuffix("_max") for name in strengths]
    return list(dict.fromkeys(names))


def _split_pairs(values: dict[str, Any]) -> dict[str, Any]:
    """Return the strengths of sliders' values: crop becomes crop_min and crop_max."""
    strengths = {name: value for name, value in values.items() if name not in PAIRS}
    for name in PAIRS:
        strengths[f"{name}_min"], strengths[f"{name}_max"] = values[name]
    return strengths
