"""Figures show what they were given."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from simlab.methods import METHODS, parse_method
from simlab_course import figures, style


def test_a_row_of_bytes_is_drawn_as_bright_as_the_same_row_of_fractions():
    pixels = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8) * 4
    rows = {"bytes": pixels, "fractions": pixels / 255}
    upper, lower = (ax.images[0].get_array() for ax in figures.image_rows(rows).axes)
    assert np.allclose(upper, lower, atol=1e-6) and upper.max() > 0.9 and upper.mean() < 0.6


def test_one_figure_has_one_axes_and_several_come_as_an_array():
    assert not isinstance(figures.new_figure()[1], np.ndarray)
    assert figures.new_figure(3)[1].shape == (3,)
    assert figures.new_figure(3, 2)[1].shape == (2, 3)


def lab(color):
    """CIE L*a*b* of an sRGB colour such as "#332288": a distance of about 2 is just visible."""
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(np.array(to_xyz) @ linear / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_any_two_of_ten_classes_can_be_told_apart():
    colours = style.CLASS_COLOURS
    assert len(set(colours)) == 10
    nearest = min(np.linalg.norm(lab(a) - lab(b)) for a, b in itertools.combinations(colours, 2))
    assert nearest > 20
    xy = np.random.default_rng(0).normal(size=(20, 2))
    figure = figures.feature_map({"": xy}, torch.arange(20) % 10, [str(c) for c in range(10)])
    points = figure.axes[0].collections
    looks = {(tuple(p.get_facecolor()[0][:3]), len(p.get_paths()[0])) for p in points}
    assert len({colour for colour, _ in looks}) == 10


def test_every_method_has_a_look_that_no_other_has():
    names = [type(parse_method(name)).__name__ for name in METHODS]
    looks = [style.LOOKS[name][:2] for name in names]
    assert len(set(map(str, looks))) == len(names)


def test_a_run_looks_the_same_in_every_figure():
    history = pd.DataFrame({"epoch": [1, 2], "loss": [0, 1], "std_ratio": [1, 1], "knn": [0, 1]})
    table = pd.DataFrame({"encoder": ["SimSiam"], "labels": [100], "accuracy": [0.5]})
    for others in ([], ["no predictor"], ["a", "b", "c"]):
        names = [*others, "SimSiam"]
        line = figures.training_curves(dict.fromkeys(names, history), {}).axes[0].lines[-1]
        assert (line.get_color(), line.get_linestyle()) == (style.BLUE, "-")
    tables = pd.concat([table.assign(encoder="raw pixels"), table])
    line = figures.budget_curves(tables).axes[0].lines
    assert style.BLUE in {one.get_color() for one in line}


def test_accuracy_over_labels_has_a_tick_at_each_number_of_labels():
    rows = [("SimSiam", labels, 0.1 * seed) for labels in (100, 300, 1000) for seed in range(3)]
    ax = figures.budget_curves(pd.DataFrame(rows, columns=["encoder", "labels", "accuracy"])).axes[
        0
    ]
    assert ax.get_xticks().tolist() == [100, 300, 1000]
    assert ax.get_xticks(minor=True).tolist() == []


def test_names_without_a_look_get_different_ones_that_nobody_else_has():
    looks = style.looks_of(["SimSiam", "mine", "yours", "SimCLR"])
    assert looks["SimSiam"] == style.look_of("SimSiam")
    assert looks["mine"] != looks["yours"]
    taken = {(look.color, str(look.linestyle)) for look in style.LOOKS.values()}
    assert not taken & {(look.color, str(look.linestyle)) for look in style.OTHER_LOOKS}
    with pytest.raises(KeyError):
        style.look_of("mine")
