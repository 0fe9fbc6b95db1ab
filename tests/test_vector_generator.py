"""The vector SimSiam's generator of random numbers: golden values of its document, and its edges."""

import math

import numpy as np
import pytest
import torch

from simlab.vector import InvalidParameter, LcgRng

TOLERANCE = 2e-6  # float32 sums in another order


@pytest.mark.parametrize(
    "seed, expected",
    [
        (0, [1977005994, 3346946114, 1919605442]),
        (1, [4073115205, 4072523438]),
        (42, [2691129939, 2530700278, 3773461966, 1446115614]),
    ],
)
def test_the_generators_integers_are_golden(seed, expected):
    rng = LcgRng(seed)
    assert [rng.next_u32() for _ in expected] == expected


def test_the_generators_floats_and_normals_are_golden():
    rng = LcgRng(42)
    assert [rng.next_f32() for _ in range(4)] == pytest.approx(
        [0.6265775, 0.5892246, 0.8785776, 0.33670002], abs=1e-7
    )
    normals = [-0.81892574, -0.5141266, -0.2636759, 0.4351748, 0.005173231]
    assert LcgRng(42).fill_normal(5) == pytest.approx(normals, abs=TOLERANCE)
    assert LcgRng(42).next_normal_pair() == pytest.approx(tuple(normals[:2]), abs=TOLERANCE)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_the_shuffle_is_golden_for_lists_arrays_and_tensors(kind):
    items = kind(list(range(16)))
    assert LcgRng(17).shuffle(items) is None
    assert list(map(int, items)) == [5, 1, 10, 3, 15, 6, 8, 11, 0, 2, 9, 12, 7, 4, 13, 14]


def test_the_state_wraps_at_64_bits_so_seeds_repeat_there():
    assert LcgRng(-1).next_u32() == LcgRng(2**64 - 1).next_u32() != LcgRng(0).next_u32()
    rng = LcgRng(3)
    for _ in range(100):
        assert 0 <= rng.next_u32() < 2**32 and 0 <= rng.state < 2**64


def test_a_uniform_may_be_one_and_its_normal_is_still_finite(monkeypatch):
    for u32 in (2**32 - 1, 0):
        rng = LcgRng(0)
        monkeypatch.setattr(rng, "next_u32", lambda u32=u32: u32)
        assert rng.next_f32() == (1.0 if u32 else 0.0)
        assert np.isfinite(rng.next_normal_pair()).all()
    assert rng.next_normal_pair()[0] == pytest.approx(math.sqrt(-2 * math.log(1e-10)), rel=1e-6)


def test_an_odd_tail_takes_the_cosine_and_still_draws_both():
    odd, even = LcgRng(7), LcgRng(7)
    assert (odd.fill_normal(5) == even.fill_normal(6)[:5]).all()
    assert odd.state == even.state
    assert odd.fill_normal((2, 3)).shape == (2, 3) and odd.fill_normal(0).shape == (0,)


def test_normals_are_float32_with_mean_zero_and_variance_one():
    z = LcgRng(0).fill_normal(20_000)
    assert z.dtype == np.float32
    assert abs(z.mean()) < 0.02 and abs(z.var() - 1) < 0.03


def test_next_usize_is_the_remainder_and_refuses_an_empty_range():
    assert LcgRng(42).next_usize(10) == 2691129939 % 10
    with pytest.raises(InvalidParameter, match="got 0"):
        LcgRng(1).next_usize(0)


def test_a_shuffle_of_n_draws_n_minus_one_numbers():
    rng, same = LcgRng(2), LcgRng(2)
    rng.shuffle([0, 1, 2, 3])
    assert [same.next_usize(n) for n in (4, 3, 2)] and rng.state == same.state
    rng.shuffle([])
    rng.shuffle([0])
    assert rng.state == same.state


@pytest.mark.parametrize("rows", [np.arange(12).reshape(6, 2), torch.arange(12).reshape(6, 2)])
def test_shuffling_rows_loses_none(rows):
    LcgRng(3).shuffle(rows)
    assert sorted(map(tuple, rows.tolist())) == [(i, i + 1) for i in range(0, 12, 2)]
    assert rows.tolist() != sorted(rows.tolist())


@pytest.mark.parametrize("seed", [1.5, "1", None])
def test_a_seed_must_be_an_integer(seed):
    with pytest.raises(InvalidParameter, match="seed"):
        LcgRng(seed)
