"""The losses against values that were computed from their formulas alone, in float64."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from simlab.methods import (
    barlow_twins_loss,
    byol_loss,
    dino_loss,
    emp_ssl_loss,
    ijepa_loss,
    lejepa_loss,
    mae_loss,
    moco_loss,
    nt_xent,
    rotation_loss,
    sigreg,
    simmim_loss,
    simsiam_loss,
    sinkhorn,
    swav_loss,
    vicreg_loss,
    w_mse_loss,
)
from simlab.methods.base import cosine_momentum
from simlab.methods.dino import new_center
from simlab.methods.pixels import patchify, pixel_mask, unpatchify
from simlab.methods.rotation import quarter_turns

GOLDEN = json.loads((Path(__file__).parent / "golden_losses.json").read_text())["values"]
N, D = 8, 4


def wave(start, *shape):
    """sin(s + 0.7 k + 0.05 k^2) for k = 0, 1, 2, ...: looks random, and has full rank."""
    k = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(start + 0.7 * k + 0.05 * k**2).view(shape)


def unit(x):
    return F.normalize(x, dim=1)


Z1 = wave(1, N, D)
Z2 = Z1 + 0.5 * wave(2, N, D)
P1 = wave(3, N, D)
P2 = wave(4, N, D)
QUEUE = unit(wave(5, 6, D))
PROTOTYPES = unit(wave(6, 5, D))
SCORES = [unit(z) @ PROTOTYPES.T for z in (Z1, Z2, P1)]
STUDENT = [wave(s, N, 5) for s in (10, 11, 12)]
TEACHER = [wave(s, N, 5) for s in (13, 14)]
CENTER = 0.1 * wave(15, 5)
DIRECTIONS = wave(16, D, 5)

IMAGES = wave(20, 2, 3, 8, 8)
PATCHES = patchify(IMAGES, 4)  # [2, 4, 48]
HIDDEN = torch.tensor([[1.0, 1, 0, 1], [0, 1, 1, 1]])
HIDDEN_PIXELS = pixel_mask(HIDDEN.view(2, 2, 2), 4)
BLOCKS = torch.tensor([[[0, 1, 3, 4], [1, 2, 4, 5]], [[4, 5, 7, 8], [3, 4, 6, 7]]])


def codes(*scores):
    return [sinkhorn(s) for s in scores]


def codes_with_queue():
    queues = [unit(wave(s, 3, D)) @ PROTOTYPES.T for s in (7, 8)]
    return [sinkhorn(torch.cat([s, q]))[:N] for s, q in zip(SCORES[:2], queues, strict=True)]


# key: the loss, and its arguments by the name that the gradient's norm is stored under
CASES = {
    "nt_xent_T0.5": (nt_xent, {"z1": Z1, "z2": Z2}),
    "nt_xent_T0.1": (lambda a, b: nt_xent(a, b, 0.1), {"z1": Z1, "z2": Z2}),
    "moco_v2_T0.2": (moco_loss, {"q": Z1, "k": Z2, "queue": QUEUE}),
    "byol_mean_of_both": (byol_loss, {"p1": P1, "p2": P2, "z1": Z1, "z2": Z2}),
    "simsiam": (simsiam_loss, {"p1": P1, "p2": P2, "z1": Z1, "z2": Z2}),
    "swav_two_views": (
        lambda s1, s2: swav_loss([s1, s2], codes(*SCORES[:2])),
        {"scores1_codes_fixed": SCORES[0], "scores2": SCORES[1]},
    ),
    "swav_two_global_one_local": (
        lambda s1, s2, s3: swav_loss([s1, s2, s3], codes(s1, s2)),
        {"scores1": SCORES[0], "scores2": SCORES[1], "scores3": SCORES[2]},
    ),
    "swav_with_queue": (
        lambda s1, s2: swav_loss([s1, s2], codes_with_queue()),
        {"scores1": SCORES[0], "scores2": SCORES[1]},
    ),
    "dino_2_teacher_3_student": (
        lambda a, b, c: dino_loss([a, b, c], TEACHER, CENTER),
        {f"student{i}": logits for i, logits in enumerate(STUDENT)},
    ),
    "barlow_eps1e-05": (lambda a, b: barlow_twins_loss(a, b, 0.005), {"z1": Z1, "z2": Z2}),
    "vicreg_25_25_1": (vicreg_loss, {"z1": Z1, "z2": Z2}),
    "w_mse_cholesky": (w_mse_loss, {"z1": Z1, "z2": Z2}),
    "emp_ssl": (
        lambda a, b, c: emp_ssl_loss([a, b, c]),
        {"view1_before_unit": Z1, "view2": Z2, "view3": P1},
    ),
    "sigreg_z1": (lambda z: sigreg(z, DIRECTIONS), {"z1": Z1}),
    "lejepa_lambda0.05": (
        lambda a, b, c: lejepa_loss([a, b, c], DIRECTIONS),
        {"view1": Z1, "view2": Z2, "view3": P1},
    ),
    "mae_norm_pix": (lambda p: mae_loss(p, PATCHES, HIDDEN), {"pred": wave(21, 2, 4, 48)}),
    "mae_raw_pixels": (
        lambda p: mae_loss(p, PATCHES, HIDDEN, norm_pix=False),
        {"pred": wave(21, 2, 4, 48)},
    ),
    "mae_norm_pix_predicting_zero": (
        lambda p: mae_loss(p, PATCHES, HIDDEN),
        {"pred": torch.zeros(2, 4, 48, dtype=torch.float64)},
    ),
    "simmim": (lambda p: simmim_loss(p, IMAGES, HIDDEN_PIXELS), {"pred": wave(22, 2, 3, 8, 8)}),
    "ijepa": (lambda p: ijepa_loss(p, wave(23, 2, 9, D), BLOCKS), {"pred": wave(24, 4, 4, D)}),
    "rotation": (rotation_loss, {"logits": wave(25, 3 * 4, 4)}),
}


@pytest.mark.parametrize("key", CASES)
def test_a_loss_and_its_gradients_are_those_of_the_formula(key):
    loss, arguments = CASES[key]
    tensors = {name: x.clone().requires_grad_() for name, x in arguments.items()}
    value = loss(*tensors.values())
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(GOLDEN[key]["value"], rel=1e-10)
    value.backward()
    norms = {k.removeprefix("grad_norm_"): v for k, v in GOLDEN[key].items() if "grad" in k}
    for name, norm in norms.items():
        assert tensors[name].grad.norm().item() == pytest.approx(norm, rel=1e-6), name


def test_the_terms_of_a_loss_are_those_of_the_formula():
    from simlab.methods.barlow_twins import barlow_twins_terms
    from simlab.methods.emp_ssl import emp_ssl_terms
    from simlab.methods.lejepa import invariance
    from simlab.methods.vicreg import vicreg_terms

    diagonal, off_diagonal = barlow_twins_terms(Z1, Z2)
    golden = GOLDEN["barlow_eps1e-05"]
    assert diagonal.item() == pytest.approx(golden["on_diagonal"], rel=1e-10)
    assert off_diagonal.item() == pytest.approx(golden["off_diagonal_unweighted"], rel=1e-10)
    s, v, c = vicreg_terms(Z1, Z2)
    golden = GOLDEN["vicreg_25_25_1"]
    assert s.item() == pytest.approx(golden["invariance_mean"], rel=1e-10)
    assert v.item() == pytest.approx((golden["hinge_z1"] + golden["hinge_z2"]) / 2, rel=1e-10)
    expected = golden["cov_z1_over_D"] + golden["cov_z2_over_D"]
    assert c.item() == pytest.approx(expected, rel=1e-10)
    agreement, rate = emp_ssl_terms([Z1, Z2, P1])
    assert -agreement.item() == pytest.approx(GOLDEN["emp_ssl"]["invariance"], rel=1e-10)
    assert rate.item() == pytest.approx(GOLDEN["emp_ssl"]["coding_rate"], rel=1e-10)
    golden = GOLDEN["lejepa_lambda0.05"]
    assert invariance([Z1, Z2, P1], 2).item() == pytest.approx(golden["invariance"], rel=1e-10)


def test_sinkhorns_codes_are_exact_for_images_and_not_yet_for_prototypes():
    golden = GOLDEN["swav_two_views"]
    code = sinkhorn(SCORES[0])
    torch.testing.assert_close(code, torch.tensor(golden["codes_view1"], dtype=torch.float64))
    torch.testing.assert_close(code.sum(1), torch.ones(N, dtype=torch.float64))
    sums = torch.tensor(golden["codes_column_sums"], dtype=torch.float64)
    torch.testing.assert_close(code.sum(0), sums)
    torch.testing.assert_close(sinkhorn(SCORES[0] + 7), code)
    many = sinkhorn(SCORES[0], rounds=500)
    torch.testing.assert_close(many.sum(0), torch.full((5,), N / 5, dtype=torch.float64))


def test_the_centre_moves_by_the_mean_of_all_teacher_rows():
    expected = torch.tensor(GOLDEN["dino_2_teacher_3_student"]["new_center"], dtype=torch.float64)
    torch.testing.assert_close(new_center(CENTER, TEACHER), expected)


def test_sigreg_of_each_direction_is_the_epps_pulley_statistic():
    golden = GOLDEN["sigreg_z1"]
    each = torch.stack([sigreg(Z1, DIRECTIONS[:, [i]]) for i in range(5)])
    expected = torch.tensor(golden["per_direction"], dtype=torch.float64)
    torch.testing.assert_close(each, expected, rtol=1e-10, atol=0)


def test_quarter_turns_are_counter_clockwise():
    image = torch.arange(4.0).view(1, 1, 2, 2)
    expected = torch.tensor(GOLDEN["rotation"]["rot90_of_0_to_3"], dtype=torch.float32)
    torch.testing.assert_close(quarter_turns(image)[:, 0], expected)


def test_a_teachers_momentum_rises_along_a_half_cosine():
    golden = GOLDEN["ema_momentum_base0.99_quarter"]["value"]
    assert cosine_momentum(0.99, 0.25) == pytest.approx(golden, rel=1e-12)
    assert cosine_momentum(0.99, 0) == pytest.approx(0.99)
    assert cosine_momentum(0.99, 1) == 1


def test_patches_are_put_together_again_as_they_were():
    assert torch.equal(unpatchify(PATCHES, 4, 3, rows=2), IMAGES)
    assert torch.equal(PATCHES[0, 1].view(4, 4, 3), IMAGES[0, :, :4, 4:].permute(1, 2, 0))
