"""What must hold for the losses of every method, and what happens when their support is removed."""

import math

import pytest
import torch
import torch.nn.functional as F
from normal_numbers import normal
from torch import nn

from simlab.evaluate import collapse_metrics
from simlab.methods import (
    METHODS,
    barlow_twins_loss,
    byol_loss,
    dino_loss,
    emp_ssl_loss,
    lejepa_loss,
    moco_loss,
    nt_xent,
    parse_method,
    rotation_loss,
    sigreg,
    simsiam_loss,
    sinkhorn,
    swav_loss,
    vicreg_loss,
    w_mse_loss,
)
from simlab.methods.base import TrainingData, Views
from simlab.methods.emp_ssl import coding_rate
from simlab.methods.queue import Queue

N, D, K = 12, 4, 6


QUEUE = normal(9, D, seed=7)
PROTOTYPES = F.normalize(normal(K, D, seed=8), dim=1)
CENTER = 0.1 * normal(K, seed=9)
DIRECTIONS = normal(D, 16, seed=10)


def cosines(z):
    """With the prototypes, in float64 as the modules have them in float32."""
    with torch.autocast("cpu", enabled=False):
        return F.normalize(z.double(), dim=1) @ PROTOTYPES.T


def swav(z1, z2):
    scores = [cosines(z) for z in (z1, z2)]
    return swav_loss(scores, [sinkhorn(s) for s in scores])


def dino(z1, z2):
    logits = [cosines(z) for z in (z1, z2)]
    return dino_loss(logits, logits, CENTER)


# each as a function of two views' projections [N, D]
LOSSES = {
    "barlow_twins": barlow_twins_loss,
    "byol": lambda z1, z2: byol_loss(z1, z2, z1, z2),
    "dino": dino,
    "emp_ssl": lambda z1, z2: emp_ssl_loss([z1, z2]),
    "lejepa": lambda z1, z2: lejepa_loss([z1, z2], DIRECTIONS),
    "moco": lambda z1, z2: moco_loss(z1, z2, QUEUE),
    "simclr": nt_xent,
    "simsiam": lambda z1, z2: simsiam_loss(z1, z2, z1, z2),
    "swav": swav,
    "vicreg": vicreg_loss,
    "w_mse": w_mse_loss,
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_order_of_the_images_does_not_matter_and_who_is_paired_with_whom_does(name):
    loss = LOSSES[name]
    z1 = normal(N, D)
    z2 = z1 + 0.3 * normal(N, D, seed=1)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(2))
    value = loss(z1, z2).item()
    assert loss(z1[order], z2[order]).item() == pytest.approx(value, rel=1e-9)
    assert loss(z1, z2.roll(1, 0)).item() > value + 0.01 * abs(value)


@pytest.mark.parametrize("name", LOSSES)
def test_it_is_finite_for_large_numbers_in_half_precision_and_computed_in_float32(name):
    z1, z2 = (100 * normal(64, D, seed=s) for s in (0, 1))
    low = [z.half().requires_grad_() for z in (z1, z2)]
    with torch.autocast("cpu", torch.bfloat16):
        value = LOSSES[name](*low)
    value.backward()
    assert value.isfinite() and all(z.grad.isfinite().all() for z in low if z.grad is not None)
    exact = LOSSES[name](*(z.detach().float() for z in low))
    assert value.item() == pytest.approx(exact.item(), rel=1e-4)


def test_constants_get_no_gradient():
    def gradients(loss, *constants):
        free = normal(N, D, seed=3).requires_grad_()
        tensors = [x.clone().requires_grad_() for x in constants]
        loss(free, *tensors).backward()
        assert free.grad.norm() > 0
        return [0.0 if x.grad is None else float(x.grad.abs().max()) for x in tensors]

    z = normal(N, D)
    assert gradients(lambda p, z1, z2: byol_loss(p, p, z1, z2), z, z) == [0, 0]
    assert gradients(lambda p, z1, z2: simsiam_loss(p, p, z1, z2), z, z) == [0, 0]
    assert gradients(moco_loss, z, QUEUE) == [0, 0]
    assert gradients(lambda s, code: swav_loss([s, s], [code]), sinkhorn(z)) == [0]
    assert gradients(lambda s, t: dino_loss([s, s], [t], torch.zeros(D)), z) == [0]
    scores = z.clone().requires_grad_()
    assert not sinkhorn(scores).requires_grad


# ------------------------------------------------------------------------------------ closed forms


def test_closed_forms_where_all_images_are_alike():
    z = torch.ones(N, D, dtype=torch.float64)
    uniform = torch.zeros(N, K, dtype=torch.float64)
    values = {
        moco_loss(z, z, torch.ones(9, D)): math.log(1 + 9),
        byol_loss(z, z, z, z): 0,
        swav_loss([uniform, uniform], [sinkhorn(uniform)]): math.log(K),
        dino_loss([uniform, uniform], [uniform], torch.zeros(K)): math.log(K),
        barlow_twins_loss(z, z): D,
        vicreg_loss(z, z): 24.75,
        emp_ssl_loss([z, z]): -200 - math.log(1 + D / 0.2) / 2,
        rotation_loss(torch.zeros(8, 4)): math.log(4),
    }
    for value, expected in values.items():
        assert value.item() == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert moco_loss(z, -z, torch.ones(9, D)).item() > 10
    assert byol_loss(z, z, -z, -z).item() == pytest.approx(4)


def test_barlow_twins_is_zero_where_the_views_agree_and_are_uncorrelated():
    q, _ = torch.linalg.qr(normal(N, D) - normal(N, D).mean(0))
    q = (q - q.mean(0)) * 100
    q, _ = torch.linalg.qr(q)
    centred = 1e3 * (q - q.mean(0))
    assert barlow_twins_loss(centred, centred).item() == pytest.approx(0, abs=1e-4)


def test_whitened_embeddings_have_the_identity_as_covariance():
    from simlab.methods.w_mse import whiten

    w = whiten(normal(50, D) @ normal(D, D, seed=4) + 3)
    torch.testing.assert_close(torch.cov(w.T), torch.eye(D, dtype=torch.float64))
    with pytest.raises(torch.linalg.LinAlgError):
        whiten(torch.ones(50, D, dtype=torch.float64))


def test_both_views_of_w_mse_get_a_gradient():
    z1, z2 = (normal(N, D, seed=s).requires_grad_() for s in (0, 1))
    w_mse_loss(z1, z2).backward()
    assert 0.2 < float(z1.grad.norm() / z2.grad.norm()) < 5


def test_sigreg_is_about_one_for_a_gaussian_large_for_a_point_and_flat_there():
    for n in (64, 1000):
        mean = torch.stack([sigreg(normal(n, 8, seed=s), normal(8, 64)) for s in range(20)]).mean()
        assert mean.item() == pytest.approx(1.0594, rel=0.12)
    point = torch.zeros(N, D, dtype=torch.float64, requires_grad=True)
    value = sigreg(point, DIRECTIONS)
    value.backward()
    at_infinity = N * math.sqrt(2 * math.pi) * (1 - math.sqrt(2) + 1 / math.sqrt(3))
    assert value.item() == pytest.approx(at_infinity, rel=0.04)
    assert float(point.grad.abs().max()) == 0
    method = parse_method("lejepa weight=1")
    assert method.loss_at_collapse(N) == pytest.approx(at_infinity)


def test_the_coding_rate_is_largest_for_directions_that_are_spread_evenly():
    even = torch.eye(D, dtype=torch.float64).repeat(5, 1)
    assert coding_rate(even).item() == pytest.approx(D / 2 * math.log(1 + 1 / 0.2))
    assert coding_rate(F.normalize(normal(20, D), dim=1)) < coding_rate(even)


# ----------------------------------------------------------------------------------------- the queue


def test_a_queue_is_a_ring_that_drops_its_oldest_rows():
    queue = Queue(6, 2)
    assert torch.allclose(queue.rows.norm(dim=1), torch.ones(6)) and not queue.is_full
    for first in (0, 2):
        queue.push(torch.arange(first, first + 2.0)[:, None].expand(2, 2))
    before = queue.rows.clone()
    queue.push(torch.tensor([[10.0, 10], [11, 11], [12, 12]]))
    assert queue.rows[:, 0].tolist() == [12, *before[1:4, 0].tolist(), 10, 11]
    assert int(queue.pointer) == 1 and queue.is_full
    queue.push(torch.arange(20.0)[:, None].expand(20, 2))  # more than it holds: the last six
    assert sorted(queue.rows[:, 0].tolist()) == [14, 15, 16, 17, 18, 19]
    assert set(queue.state_dict()) == {"rows", "pointer", "pushed"}


def test_the_queue_gets_a_steps_keys_once_after_the_loss():
    module = parse_method("moco queue=8 hidden_dim=8 proj_dim=4").build(nn.Flatten(), 12)
    before = module.queue.rows.clone()
    views = [torch.randn(3, 3, 2, 2) for _ in range(2)]
    module.loss(views, torch.Generator(), 0.0)
    module.loss(views, torch.Generator(), 0.0)
    assert torch.equal(module.queue.rows, before)
    module.after_step(0.1)
    assert int(module.queue.pushed) == 6 and module.new_keys == []
    assert torch.equal(module.queue.rows[6:], before[6:])


def test_a_teacher_begins_as_its_student():
    for text in ("byol hidden_dim=8 proj_dim=4", "dino hidden_dim=8 outputs=5", "moco queue=4"):
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(12, 8))
        module = parse_method(text).build(encoder, 8).eval()
        x = torch.randn(5, 3, 2, 2)
        assert torch.equal(module.encoder(x), module.teacher_encoder(x))
        teachers = [child for name, child in module.named_children() if name.startswith("teacher")]
        assert len(teachers) == 2
        assert not any(p.requires_grad for teacher in teachers for p in teacher.parameters())


@pytest.mark.parametrize(
    ("text", "data", "says"),
    [
        ("moco queue=100", {"images": 120, "part_size": 32}, "queue=100: expected at most 88"),
        ("w_mse proj_dim=16", {"part_size": 24}, "expected proj_dim at most 12, or a larger"),
        ("byol momentum=1.5", {}, "momentum=1.5: expected at most 1"),
    ],
)
def test_what_cannot_work_with_the_data_is_refused(text, data, says):
    usual = {"images": 1000, "part_size": 64, "channels": 1, "image_size": 32, "view_size": 24}
    with pytest.raises(ValueError, match=says):
        parse_method(text).resolve(TrainingData(**usual | data, num_classes=10))


# ------------------------------------------------------------------------------ collapse on demand

IMAGES = normal(64, 1, 6, 6, seed=5).float()
SMALL = {
    "barlow_twins": "barlow_twins hidden_dim=32 proj_dim=8",
    "byol": "byol hidden_dim=32 proj_dim=8 momentum=0.9",
    "dino": "dino hidden_dim=32 bottleneck_dim=8 outputs=16 momentum=0.9",
    "emp_ssl": "emp_ssl hidden_dim=32 proj_dim=8 views=2 weight=5",
    "lejepa": "lejepa hidden_dim=32 proj_dim=8 directions=32 weight=0.2",
    "moco": "moco hidden_dim=32 proj_dim=8 queue=64 momentum=0.9",
    "simclr": "simclr proj_layers=2 proj_dim=8 head_bn=hidden",
    "simsiam": "simsiam proj_layers=2 proj_dim=8 pred_dim=8 head_bn=hidden",
    "swav": "swav hidden_dim=32 proj_dim=8 prototypes=16",
    "vicreg": "vicreg hidden_dim=32 proj_dim=8",
}
# what is taken away, and what becomes one: the directions of z, z itself, the output that images
# are assigned to, or the dimensions of z
WITHOUT = {
    "barlow_twins": ("weight=0", "dimensions"),
    "byol": ("predictor=none momentum=0", "directions"),
    "dino": ("centring=false", "outputs"),
    "emp_ssl": ("coding=0", "directions"),
    "lejepa": ("weight=0", "points"),
    "moco": ("negatives=false momentum=0", "directions"),
    "simclr": ("negatives=false", "directions"),
    "simsiam": ("stop_gradient=false", "directions"),
    "swav": ("codes=softmax", "outputs"),
    "vicreg": ("variance=0", "points"),
}


def train(text, steps=300):
    """Train on noisy copies of 64 images; the last loss, that of a collapse, and the module.

    DINO's copies are noisier: where every image is easily told, each keeps an output of its own.
    """
    strength = 1.0 if text.startswith("dino") else 0.3
    torch.manual_seed(0)
    method = parse_method(text)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(36, 32), nn.BatchNorm1d(32), nn.ReLU())
    module = method.build(encoder, 32)
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=0.01)
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        noise = [strength * torch.randn(IMAGES.shape, generator=generator) for _ in range(2)]
        terms = module.loss(Views([IMAGES + n for n in noise]), generator, step / steps)
        loss = sum(terms.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            module.after_step((step + 1) / steps)
    return loss.item(), method.loss_at_collapse(len(IMAGES)), module


@torch.no_grad()
def spread(module, of):
    """How much there is of what a collapse makes one: about 1 where there is none."""
    z = module.embed(IMAGES)
    if of == "directions":
        return collapse_metrics(z)["std_ratio"]
    if of == "points":
        return z.std(0).mean().item()
    if of == "dimensions":
        return 1 - torch.corrcoef(z.T).abs().mean().item()
    if hasattr(module, "head"):
        logits = module.head(module.encoder(IMAGES))
    else:
        logits = F.normalize(z, dim=1) @ module.prototypes.T
    outputs = logits.argmax(1)
    return len(outputs.unique()) / logits.shape[1]


@pytest.mark.parametrize("name", WITHOUT)
def test_without_its_support_a_method_collapses_and_with_it_does_not(name):
    option, of = WITHOUT[name]
    replaced = {word.split("=")[0] for word in option.split()}
    words = [word for word in SMALL[name].split() if word.split("=")[0] not in replaced]
    loss, at_collapse, without = train(" ".join([*words, option]))
    _, _, healthy = train(SMALL[name])
    assert spread(healthy, of) > 0.5
    assert spread(without, of) < 0.5 * spread(healthy, of)
    if of != "dimensions":  # of Barlow Twins, whose loss without the redundancy is 0 or more
        assert loss == pytest.approx(at_collapse, abs=0.1 * max(1, abs(at_collapse)))


@pytest.mark.long
def test_a_teacher_that_is_not_sharper_than_its_student_makes_the_outputs_uniform():
    loss, at_collapse, _ = train(SMALL["dino"] + " teacher_temperature=1")
    assert loss == pytest.approx(math.log(16), rel=0.02) and at_collapse == math.log(16)


def test_every_method_has_its_collapse_or_says_why_not():
    assert set(WITHOUT) == set(METHODS) - {
        "rotation",  # its labels hold it up: it fails on images without an upright position
        "w_mse",  # collapse is a singular covariance, an error
        "mae",  # pixels cannot collapse
        "simmim",
        "ijepa",  # see below
    }


@pytest.mark.parametrize(("name", "factor"), [("vicreg", 0.1), ("emp_ssl", 0.02)])
def test_a_method_of_large_gradients_learns_at_a_fraction_of_the_rate(name, factor):
    encoder = nn.Linear(4, 12)
    encoder.bias.requires_grad_(False)
    for text, wanted in ((name, factor), (f"{name} lr_factor=0.5", 0.5)):
        module = parse_method(text).build(encoder, 12)
        (group,) = module.parameter_groups()
        assert group.lr_factor == wanted and not group.constant_lr
        trained = [p for p in module.parameters() if p.requires_grad]
        assert {id(p) for p in group.params} == {id(p) for p in trained}
