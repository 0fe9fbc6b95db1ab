"""Figures show what they were given."""

import numpy as np
import torch

from simlab_course import figures


def test_a_row_of_bytes_is_drawn_as_bright_as_the_same_row_of_fractions():
    pixels = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8) * 4
    rows = {"bytes": pixels, "fractions": pixels / 255}
    upper, lower = (ax.images[0].get_array() for ax in figures.image_rows(rows).axes)
    assert np.allclose(upper, lower, atol=1e-6) and upper.max() > 0.9 and upper.mean() < 0.6


def test_one_figure_has_one_axes_and_several_come_as_an_array():
    assert not isinstance(figures.new_figure()[1], np.ndarray)
    assert figures.new_figure(3)[1].shape == (3,)
    assert figures.new_figure(3, 2)[1].shape == (2, 3)
