"""compare() takes tensors, loaders and streams, and refuses what does not fit together."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import A, B, X, small
from torch.utils.data import DataLoader, TensorDataset

from simlab.data import Images, from_arrays
from simlab.similarity import compare
from simlab.similarity.batches import Batches


def test_tensors_loaders_and_iterables_are_one_and_the_same():
    labels = torch.arange(100)
    expected = compare([A, B], X, batch_size=25).matrix
    for data in (
        DataLoader(TensorDataset(X), 25),
        DataLoader(TensorDataset(X, labels), 25),
        list(X.split(25)),
        ((x, "y") for x in X.split(25)),
        X.numpy(),
        TensorDataset(X, labels),
        list(TensorDataset(X, labels)),
        (X, labels),
        DataLoader(X, 25),
    ):
        assert np.allclose(compare([A, B], data, batch_size=25).matrix, expected, atol=1e-12)


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_small_batches_are_merged_and_no_sample_is_lost(sizes):
    x = torch.arange(float(sum(sizes)))[:, None]
    batches = Batches(list(x.split(sizes)), 1, 128)
    if sum(sizes) < 4:
        with pytest.raises(ValueError, match="at least 4 samples"):
            list(batches)
        return
    got = [batch[0].first for batch in batches]
    assert torch.equal(torch.cat(got), x)
    assert all(4 <= len(b) <= max(max(sizes), 3) + 6 for b in got)


def test_a_tail_of_one_sample_changes_little_and_makes_no_nan():
    value = compare([A, B], X[:97], batch_size=32).matrix
    assert np.isfinite(value).all()
    assert abs(value - compare([A, B], X[:96], batch_size=32).matrix).max() < 0.05


def test_images_that_are_not_finite_or_not_float_are_refused():
    bad = X.clone()
    bad[57, 0, 0, :2] = float("inf")
    with pytest.raises(ValueError, match="batch 1: 2 values.*first in sample 7"):
        compare([A, B], bad, batch_size=50)
    with pytest.raises(TypeError, match="uint8"):
        compare([A, B], (X * 9).byte())
    with pytest.raises(TypeError, match="batch 0: expected a tensor .* got str"):
        compare([A, B], ["images"])
    with pytest.raises(TypeError, match="takes input, and no .x."):
        compare([A, B], {"x": X})


def loader(x, labels=None, **options):
    return DataLoader(TensorDataset(x, *([] if labels is None else [labels])), 25, **options)


def test_two_shufflings_of_one_data_set_are_refused():
    labels = torch.arange(100) % 5
    generators = [torch.Generator().manual_seed(s) for s in (0, 1)]
    with pytest.raises(ValueError, match="disagree on"):
        compare([A, B], tuple(loader(X, labels, shuffle=True, generator=g) for g in generators))
    with pytest.raises(ValueError, match="stands elsewhere"):
        compare([A, B], tuple(loader(X, shuffle=True, generator=g) for g in generators))
    with pytest.raises(ValueError, match="stands elsewhere"):
        compare([A, B], (X, X.flip(0)), batch_size=25)
    # Other images, no labels: nothing can be checked, and shuffling loaders are not trusted.
    with pytest.raises(ValueError, match="the loaders shuffle"):
        compare([A, B], (loader(X, shuffle=True), loader(X + 1, shuffle=True)))
    same_labels = torch.zeros(100, dtype=torch.int64)
    with pytest.raises(ValueError, match="the loaders shuffle"):
        compare(
            [A, B], (loader(X, same_labels, shuffle=True), loader(X + 1, same_labels, shuffle=True))
        )


def test_streams_that_correspond_pass_and_the_result_says_how_it_was_checked():
    labels = torch.arange(100) % 5
    alike = [torch.Generator().manual_seed(5) for _ in range(2)]
    pairs = {
        "one stream": (loader(X, shuffle=True),) * 2,
        "checked by labels": (loader(X, labels), loader(X + 1, labels)),
        "checked by images": tuple(loader(X, shuffle=True, generator=g) for g in alike),
        "checked by labels and images": (loader(X, labels), loader(X.clone(), labels)),
        "unchecked": (loader(X), loader(X + 1)),
    }
    for how, data in pairs.items():
        assert compare([A, B], data).info.correspondence == how


def test_a_last_batch_of_one_sample_does_not_undo_the_proof_by_labels():
    labels = torch.arange(76) % 5
    alike = [torch.Generator().manual_seed(5) for _ in range(2)]
    streams = [loader(X[:76] + i, labels, shuffle=True, generator=g) for i, g in enumerate(alike)]
    assert compare([A, B], tuple(streams)).info.correspondence == "checked by labels"


def test_streams_of_different_length_or_batch_size_are_refused():
    with pytest.raises(ValueError, match="ends after 3 batches"):
        compare([A, B], (X[:75], X), batch_size=25)
    with pytest.raises(ValueError, match=r"\[25, 20\] samples"):
        compare([A, B], (X, list(X.split(20))), batch_size=25)
    with pytest.raises(ValueError, match="tuple of 3"):
        compare([A, B], (X, X, X))


def test_each_model_sees_its_own_stream():
    other = X + 5 * torch.randn(100, 3, 8, 8)
    result = compare([A, A], (X, other), batch_size=50)
    assert result.matrix[0, 0] < 0.9
    # One module, watched twice: neither run sees the other's outputs.
    assert [o.name for o in result.layers] == ["0", "2", "4"] * 2
    apart = compare([A, small()], (X, other), batch_size=50)
    assert np.array_equal(result.matrix, apart.matrix)


@pytest.mark.parametrize(
    "error, match, options",
    [
        (ValueError, "did you mean 'procrustes_distance'", {"measures": "procrustes_dist"}),
        (ValueError, "estimator='unbiased'", {"estimator": "unbiased"}),
        (ValueError, "rsa: needs all samples at once", {"measures": "rsa"}),
        (ValueError, "null: needs all samples", {"null": 10}),
        (
            ValueError,
            "options='mutual_knn'; expected one of: cka",
            {"options": {"mutual_knn": {"k": 3}}},
        ),
        (
            ValueError,
            "option of rbf_cka='sigma'.*scale",
            {"measures": "rbf_cka", "options": {"rbf_cka": {"sigma": 3}}},
        ),
        (
            ValueError,
            "option of cca='square'.*squared",
            {"measures": "cca", "samples": 50, "options": {"cca": {"square": True}}},
        ),
        (
            ValueError,
            "option of max='m'; expected one of: none",  # a function of the user's has no options
            {"measures": max, "samples": 50, "options": {"max": {"m": 1}}},
        ),
        (TypeError, "measures: expected names, functions.*got 3", {"measures": ["cka", 3]}),
        (ValueError, "matches nothing", {"layers": "conv"}),
        (ValueError, "did you mean 'Sequential'", {"layers": {"Sequentail": "0"}}),
        (ValueError, "at least 4 samples, got 3", {"samples": 3}),
    ],
)
def test_arguments_that_do_not_fit_are_refused(error, match, options):
    with pytest.raises(error, match=match):
        compare([A, B], X, **options)


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match="'b'|: b"):
        compare({"a": A, "b": "resnet18"}, X)
    with pytest.raises(TypeError, match="none given"):
        compare([], X)


def test_models_of_one_class_get_different_names():
    assert compare([A, B, small(2)], X).models == ["Sequential", "Sequential 2", "Sequential 3"]


def blank_some(x, index):
    """Images of which some are black, as after a crop to their border."""
    x = x.clone()
    x[index] = 0
    return x


def test_samples_that_repeat_raise_no_false_alarm():
    # The second view blanks more images: they equal another image of the first view.
    views = blank_some(X, [3, 50]), blank_some(X + 1, [3, 7, 61, 62])
    assert compare([A, B], views, batch_size=10).info.correspondence == "unchecked"
    # Ten letters, renamed in the second stream: a first batch of eight alone looks shuffled.
    letters = torch.eye(10)[torch.arange(100) % 10]
    renamed = letters.roll(1, 1)
    nets = [torch.nn.Linear(10, 3), torch.nn.Linear(10, 4)]
    result = compare(nets, (letters, renamed), batch_size=8)
    assert result.info.correspondence == "unchecked"


def test_the_check_of_the_order_can_be_switched_off():
    with pytest.raises(ValueError, match="99 more.*check_order=False"):
        compare([A, B], (X, X.flip(0)), batch_size=25)
    result = compare([A, B], (X, X.flip(0)), batch_size=25, check_order=False)
    assert result.info.correspondence == "not checked: check_order=False"
    shuffled = tuple(loader(X, shuffle=True) for _ in range(2))
    compare([A, B], shuffled, check_order=False)


def test_a_dataset_of_simlabs_gives_its_normalised_test_images():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (60, 3, 8, 8), generator=generator, dtype=torch.uint8)
    data = from_arrays(pixels[:36], torch.arange(36) % 2, pixels[36:], torch.arange(24) % 2)
    models = {"a": small(1), "b": small(2)}
    expected = compare(models, data.normalize(pixels[36:]), batch_size=8)
    for source in (data, data.test):
        result = compare(models, source, batch_size=8)
        assert result.info.samples == 24 and result.info.batches == 3
        assert np.array_equal(result.values["cka"], expected.values["cka"])
    with pytest.raises(ValueError, match="images without a normalisation"):
        compare(models, Images(pixels, torch.zeros(60, dtype=torch.long), ("one",)))
