"""Checks of the exercises of notebook 05."""

import torch

from .judge import all_predicted, draws, exercise, near, need, number, predictions, tensor


def _rotation(d: int, seed: int = 7) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(d, d, generator=draws(seed), dtype=torch.float64))[0]


@exercise
def centre(answer) -> str:
    """centre(K [n, n]): the Gram matrix of the centred features."""
    x = 3 + torch.randn(12, 4, generator=draws(), dtype=torch.float64)
    k = x @ x.T
    original = k.clone()
    c = tensor(answer, k, shape=(12, 12))
    need(near(k, original), "K itself was changed. Work on a copy: K - ... and not K -= ...")
    rows = near(c.sum(1), 0)
    columns = near(c.sum(0), 0)
    need(
        rows or columns or not near(c.mean(), 0),
        "only the grand mean was taken off: K is zero on average, but its rows and columns are "
        "not.",
    )
    need(
        rows == columns,
        "it is centred one way only. Take off the row means *and* the column means: K belongs to "
        "pairs of images, and neither is the first one.",
    )
    twice = k - k.mean(0, keepdim=True) - k.mean(1, keepdim=True)
    need(
        not near(c, twice),
        "row means and column means both hold the grand mean, so it was taken off twice: add it "
        "back once.",
    )
    need(rows and columns, "its rows and columns should sum to 0.")
    centred = x - x.mean(0)
    need(
        near(c, centred @ centred.T),
        "rows and columns sum to 0, but it is not the Gram matrix of the centred features.",
    )
    need(near(tensor(answer, c, shape=(12, 12)), c), "centring twice should change nothing more.")
    return "Symmetric, rows and columns sum to 0, the same as centring the features first."


@exercise
def debiased(answer) -> str:
    """debiased_cka(x [n, p], y [n, q])."""
    x = torch.randn(40, 30, generator=draws(1), dtype=torch.float64)
    same = number(answer, x, x)
    need(
        near(same, 1),
        f"of x with itself it is {same:.2f}: divide by the root of the two self-HSICs.",
    )
    noise = [
        number(answer, *torch.randn(2, 40, 60, generator=draws(s), dtype=torch.float64))
        for s in range(10)
    ]
    mean = sum(noise) / len(noise)
    need(
        mean < 0.4,
        f"two encoders that have nothing in common get {mean:.2f}. That is the biased CKA: with "
        "40 images and 60 channels the diagonal alone makes them look alike. U-centre: zero "
        "the diagonal before and after the row means are taken off.",
    )
    small_x, small_y = x[:8], x[:8].tanh()  # with few images the denominators matter most
    small = number(answer, small_x, small_y)
    need(
        abs(mean) < 0.05 and near(small, _reference(small_x, small_y), 1e-6),
        "it is nearly without bias, but not quite. Look at the denominators: n - 2 for the row "
        "means, 2 (n - 1) for the grand one; and zero the diagonal both times.",
    )
    y = x @ torch.randn(30, 20, generator=draws(2), dtype=torch.float64)
    value = number(answer, x, y)
    need(
        near(number(answer, 100 + 5 * x @ _rotation(30), y), value),
        "it changes when features are shifted, scaled as a whole or rotated. Centre the features "
        "first: on raw ones a large mean eats all digits.",
    )
    need(near(number(answer, y, x), value), "CKA(x, y) and CKA(y, x) should be the same number.")
    need(
        value < 0.999 and near(value, _reference(x, y)),
        f"for a linear image of x it is {value:.3f} and should be {_reference(x, y):.3f}.",
    )
    return "1 with itself, 0 on average for unrelated networks, blind to rotation, scale and shift."


def _reference(x, y) -> float:
    """Debiased linear CKA of x [n, p] and y [n, q]."""

    def u_centred(z):
        z = z - z.mean(0)
        k = (z @ z.T).fill_diagonal_(0)
        n = len(k)
        m = k.sum(1) / (n - 2)
        m = m - m.sum() / (2 * (n - 1))
        return (k - m[:, None] - m[None]).fill_diagonal_(0)

    a, b = u_centred(x), u_centred(y)
    return float((a * b).sum() / ((a * a).sum() * (b * b).sum()).sqrt())


@exercise
def unchanged(answer) -> str:
    """{what is done to one encoder's features: does CKA stay the same?}"""
    x = torch.randn(200, 10, generator=draws(3), dtype=torch.float64)
    y = torch.tanh(x @ torch.randn(10, 10, generator=draws(4), dtype=torch.float64))
    stretch = torch.ones(10, dtype=torch.float64)
    stretch[0] = 20
    changes = {
        "rotated": y @ _rotation(10),
        "all multiplied by 7": 7 * y,
        "a constant added": y + 3,
        "one channel multiplied by 20": y * stretch,
        "the channels in another order": y.flip(1),
        "the images in another order": y.flip(0),
    }
    why = {
        "rotated": "A Gram matrix holds inner products, and rotations keep them.",
        "all multiplied by 7": "The denominator grows as the numerator does.",
        "a constant added": "Centring takes it off again.",
        "one channel multiplied by 20": "That one channel then makes up nearly the whole Gram "
        "matrix: CKA looks at the directions with the most variance. CCA would not mind.",
        "the channels in another order": "That is a rotation (and a mirror).",
        "the images in another order": "CKA compares image with image: both encoders must see "
        "the same ones in the same order. Two shuffled loaders are a common mistake.",
    }
    if all_predicted(answer):
        for name, z in changes.items():
            print(f"{name:<32} CKA {_reference(x, y):5.2f} -> {_reference(x, z):5.2f}")
    truth = {name: near(_reference(x, z), _reference(x, y)) for name, z in changes.items()}
    predictions(answer, truth, why)
    return "CKA sees angles between images, not channels; and it is not blind to stretching."
