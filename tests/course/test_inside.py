"""Figures of what a method has learned inside show what was computed, and say what they show."""

import numpy as np
import pandas as pd
import pytest
import torch

from simlab_course import inside
from simlab_course.encoders import encoder_folder, encoder_index, load_trained_encoder, save_encoder
from simlab_course.style import LOOKS, look_of


def test_each_heads_map_is_drawn_below_the_image_on_a_scale_of_its_own():
    maps = torch.rand(2, 3, 4, 4)
    maps[:, :, 1, 2] = 5.0
    figure = inside.attention_rows(torch.zeros(2, 1, 16, 16), maps)
    drawn = [ax.images[0].get_array() for ax in figure.axes]
    assert len(drawn) == 8  # the images and three heads, two of each
    for attention in drawn[2:]:
        assert attention.shape == (16, 16)
        assert np.asarray(attention)[4:8, 8:12].min() == pytest.approx(1)
        assert np.asarray(attention)[:4].max() < 0.5
    names = [ax.get_ylabel() for ax in figure.axes if ax.get_ylabel()]
    assert names == ["image", "head 1", "head 2", "head 3"]


def test_a_reconstruction_says_whether_it_was_normalised():
    image = torch.rand(1, 1, 8, 8)
    normalised = inside.reconstruction_rows(image, image / 2, image, is_normalised=True)
    plain = inside.reconstruction_rows(image, image / 2, image, is_normalised=False)
    assert "are the true ones" in normalised.get_supxlabel()
    assert not plain.get_supxlabel()
    assert np.allclose(np.squeeze(plain.axes[1].images[0].get_array()), image[0, 0] / 2)


def test_terms_and_gradients_are_drawn_over_the_epochs():
    rows = [
        {"epoch": e, "term": name, "value": v / e, "gradient": v * e}
        for e in (1, 2, 4)
        for name, v in (("variance", 3.0), ("covariance", 1.0))
    ]
    figure = inside.loss_terms(pd.DataFrame(rows))
    values, gradients = figure.axes
    assert [line.get_label() for line in values.lines] == ["variance", "covariance"]
    assert list(values.lines[0].get_ydata()) == [3, 1.5, 0.75]
    assert list(gradients.lines[1].get_ydata()) == [1, 2, 4] and gradients.get_yscale() == "log"


def test_a_spectrum_is_drawn_relative_to_its_largest_value():
    figure = inside.spectra({"a": torch.tensor([4.0, 2.0, 1.0]), "b": torch.tensor([1.0, 1.0])})
    a, b = figure.axes[0].lines
    assert list(a.get_ydata()) == [1, 0.5, 0.25] and list(b.get_xdata()) == [1, 2]


def test_a_method_has_its_look_and_a_term_of_a_loss_has_none_of_a_method():
    one = torch.tensor([2.0, 1.0])
    (line,) = inside.spectra({"SimCLR": one}).axes[0].lines
    assert line.get_color() == look_of("SimCLR")["color"]
    terms = inside.loss_terms(pd.DataFrame([{"epoch": 1, "term": "a", "value": 1, "gradient": 1}]))
    line = terms.axes[0].lines[0]
    looks = [(look.color, look.linestyle) for look in LOOKS.values()]
    assert (line.get_color(), line.get_linestyle()) not in looks


# ------------------------------------------------------------------------- the encoders that ship


def test_the_trained_encoders_are_those_of_the_index_and_small():
    index = encoder_index()
    files = {path.name for path in encoder_folder().glob("*.npz")}
    assert files == set(index["file"])
    assert sum((encoder_folder() / file).stat().st_size for file in files) < 16e6


def test_a_trained_encoder_opens_and_leaves_the_random_state_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first, second = (load_trained_encoder("simclr", seed) for seed in (1, 2))
    assert torch.equal(torch.rand(2), expected)
    assert not first.training
    x = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert first(x).shape == (4, 128)
        assert not torch.allclose(first(x), second(x))


def test_half_precision_changes_features_by_rounding_only(tmp_path):
    encoder = load_trained_encoder("simclr")
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.add_(1e-3 * torch.randn_like(weight))
    save_encoder(encoder, tmp_path / "one.npz")
    with np.load(tmp_path / "one.npz", allow_pickle=False) as arrays:
        for key, value in encoder.state_dict().items():
            stored = torch.from_numpy(arrays[key]).to(value.dtype)
            torch.testing.assert_close(stored, value, rtol=1e-3, atol=1e-6)
            assert value.ndim != 1 or torch.equal(stored, value)


def test_an_unknown_encoder_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="no trained encoder 'simclrr'.*did you mean 'simclr'"):
        load_trained_encoder("simclrr")
    with pytest.raises(ValueError, match="seed=9: the trained encoders of 'simclr' have seed 1"):
        load_trained_encoder("simclr", 9)
