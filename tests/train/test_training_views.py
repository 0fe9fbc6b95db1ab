"""Views of the user's own, of partners, of several groups; and what they are identified by."""

import dataclasses
import functools
from dataclasses import dataclass

import pytest
import torch

from simlab.compute import distributed
from simlab.config import PretrainConfig
from simlab.data import Dataset, Images, from_arrays
from simlab.methods import Crops, SimSiam
from simlab.runs import object_digest
from simlab.train import pretrain, resolve
from simlab.train.custom import augmentation_name
from simlab.train.monitor import collapse_warning
from simlab.train.partners import draw_partners, partner_groups
from simlab.train.seeds import seed_epoch
from simlab.train.views import ViewMaker

CPU = torch.device("cpu")
SMALL = {
    "method": "simsiam proj_dim=16 pred_dim=8", "encoder": "tiny", "view_size": 8, "epochs": 1,
    "batch_size": 12, "precision": "float32", "device": "cpu", "threads": 1, "knn_k": 5,
}  # fmt: skip


def data(number=40, channels=1):
    """Each image is of one value, its number."""
    images = torch.arange(number, dtype=torch.uint8)[:, None, None, None]
    images = images.expand(number, channels, 8, 8).contiguous()
    labels = torch.arange(number) % 4
    return from_arrays(images, labels, images[:10], labels[:10])


def maker_of(dataset, method=None, augment=None, recipe="none", **changes):
    config = resolve(PretrainConfig(**SMALL | {"augment": recipe} | changes), dataset)
    return ViewMaker(config, dataset, dataset.pretrain, method or SimSiam(), augment)


def epoch_of(maker, epoch=0):
    return list(maker.epoch(seed_epoch(maker.config, epoch, len(maker.crops), CPU)))


def values_of(views, dataset):
    """The number of the image that each view [N, 1, S, S] shows."""
    pixels = views[:, 0].mean((1, 2)) * dataset.normalize.std + dataset.normalize.mean
    return (pixels * 255).round().long()


def noisy(images, generator):
    numbers = torch.rand(2, *images.shape, generator=generator)
    return [images / 255 + 0.001 * noise for noise in numbers]


@dataclass
class Shifted:
    by: int = 1

    def __call__(self, images, generator):
        return images, images.roll(self.by, 3)


# ------------------------------------------------------------------------------- of the user's own


def test_a_callable_gets_the_images_of_a_batch_and_its_views_come_out_normalised():
    dataset = data()
    seen = []

    def spy(images, generator):
        seen.append(images)
        return images, images.float() / 255

    batches = epoch_of(maker_of(dataset, augment=spy))
    assert [tuple(images.shape) for images in seen] == [(12, 1, 8, 8)] * 3
    assert all(images.dtype == torch.uint8 for images in seen)
    for (x1, x2), images in zip(batches, seen, strict=True):
        wanted = (images.float() / 255 - dataset.normalize.mean) / dataset.normalize.std
        torch.testing.assert_close(x1, wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(x2, wanted, rtol=1e-4, atol=1e-5)
        assert x1.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_share_the_views_of_a_callable(processes, monkeypatch):
    dataset = data()
    one = epoch_of(maker_of(dataset, augment=noisy))
    shares = []
    monkeypatch.setattr(distributed, "world", lambda: processes)
    for rank in range(processes):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append(epoch_of(maker_of(dataset, augment=noisy)))
    for expected, *shards in zip(one, *shares, strict=True):
        for view in range(2):
            assert torch.equal(torch.cat([shard[view] for shard in shards]), expected[view])


@pytest.mark.parametrize(
    ("gives", "says"),
    [
        (lambda images, generator: images, "augment gave a Tensor: expected a list of views"),
        (lambda images, generator: [images], "augment gave 1 views: SimSiam takes 2"),
        (lambda images, generator: [images, 3], "augment gave a int as a view"),
        (
            lambda images, generator: [images, images[:, 0]],
            r"a view \[12, 8, 8\]: expected \[12, 1,",
        ),
        (lambda images, generator: [images[:3], images], r"a view \[3, 1, 8, 8\]"),
        (lambda images, generator: [images.int(), images], "a view of torch.int32"),
    ],
)
def test_what_is_no_view_is_refused(gives, says):
    with pytest.raises(ValueError, match=says):
        epoch_of(maker_of(data(), augment=gives))


@pytest.mark.long
def test_a_run_is_told_by_its_augmentation(tmp_path):
    def start(augment, recipe="auto"):
        config = PretrainConfig(**SMALL, augment=recipe)
        run = pretrain(config, data(), augment=augment, folder=str(tmp_path), progress=False)
        return run.folder, run.config["augment"]

    folder, name = start(noisy)
    assert name == "noisy" and start(noisy) == (folder, name)
    assert start(Shifted())[1] == "Shifted by=1" and start(Shifted(2))[1] == "Shifted by=2"
    assert len({start(x)[0] for x in (noisy, Shifted(), Shifted(2), "scattered")}) == 4
    assert start("scattered")[0] == start(None, "scattered")[0]
    with pytest.raises(ValueError, match="config.augment='none' and augment='noisy': give one"):
        start(noisy, "none")
    with pytest.raises(TypeError, match="augment is a int: expected a recipe's text"):
        start(3)


def test_an_augmentation_is_known_by_all_that_it_depends_on():
    def shifted_by(strength):
        return lambda images, generator: [images + strength] * 2

    augments = [
        shifted_by(1),
        shifted_by(2),
        functools.partial(noisy),
        noisy,
        Shifted(),
        Shifted(2),
    ]
    assert len({object_digest(augment, "augment") for augment in augments}) == 6
    assert object_digest(shifted_by(2), "augment") == object_digest(augments[1], "augment")
    names = ["<lambda>", "<lambda>", "partial", "noisy", "Shifted by=1", "Shifted by=2"]
    assert [augmentation_name(augment) for augment in augments] == names


def test_an_augmentation_that_can_not_be_digested_is_refused_unless_a_name_stands_for_it(tmp_path):
    with open(tmp_path / "log", "w") as log:

        def logged(images, generator):
            log.write("a batch")
            return [images] * 2

        with pytest.raises(ValueError, match=r"augment.log is a TextIOWrapper.*name=\"...\""):
            object_digest(logged, "augment")
        assert object_digest(logged, "augment", "a") != object_digest(logged, "augment", "b")


# ------------------------------------------------------------------------------- groups, partners


@dataclass(frozen=True, kw_only=True)
class MultiCrop(SimSiam):
    @property
    def crops(self):
        return (Crops(2), Crops(3, "crop_min=0.1 crop_max=0.2", 0.5))


def test_groups_of_crops_have_sizes_and_random_numbers_of_their_own():
    dataset = data()
    two = epoch_of(maker_of(dataset, recipe="scattered"))
    five = epoch_of(maker_of(dataset, MultiCrop(), recipe="scattered"))
    for views, more in zip(two, five, strict=True):
        assert [view.shape[-1] for view in more] == [8, 8, 4, 4, 4]
        assert all(torch.equal(a, b) for a, b in zip(views, more[:2], strict=True))


def labelled(values, factors=None):
    images = torch.arange(len(values), dtype=torch.uint8)[:, None, None, None].repeat(1, 1, 8, 8)
    classes = tuple("abcd")
    kind = {} if factors is None else {"factors": factors, "factor_names": ("angle", "size")}
    return Images(images, torch.tensor(values), classes, **kind)


def test_partners_are_other_images_of_the_same_group_each_used_once():
    groups = torch.tensor([0, 1, 0, 1, 2, 0, 1, 0, 3, 0])
    drawn = set()
    for seed in range(60):
        partners = draw_partners(groups, torch.Generator().manual_seed(seed))
        assert torch.equal(groups[partners], groups)
        assert sorted(partners.tolist()) == list(range(10))
        alone = torch.tensor([4, 8])
        assert torch.equal(partners[alone], alone)
        others = [i for i in range(10) if i not in (4, 8)]
        assert all(int(partners[i]) != i for i in others)
        drawn.add(int(partners[0]))
    assert drawn == {2, 5, 7, 9}, "every other image of the group comes up"


def test_groups_are_those_of_a_label_or_a_factor():
    factors = torch.tensor([[0.5, 1], [0.5, 2], [1.5, 2], [0.5, 1]])
    images = labelled([0, 1, 0, -1], factors)
    label = partner_groups(images, "label")
    assert label[0] == label[2] != label[1] and len(label.unique()) == 3
    angle = partner_groups(images, "angle")
    assert angle[0] == angle[1] == angle[3] != angle[2]
    size = partner_groups(images, "size")
    assert size[1] == size[2] != size[0] == size[3]
    with pytest.raises(ValueError, match="views_from='angel' is unknown; did you mean 'angle'"):
        partner_groups(images, "angel")
    with pytest.raises(ValueError, match="views_from='label': no two of the 3 images share"):
        partner_groups(labelled([-1, -1, 2]), "label")


@pytest.mark.parametrize("is_callable", [False, True], ids=["recipe", "callable"])
def test_the_second_view_is_of_another_image_with_the_same_label(is_callable):
    dataset = data(number=40)
    maker = maker_of(dataset, augment=noisy if is_callable else None, views_from="label")
    first, second = [], []
    for x1, x2 in epoch_of(maker):
        first.append(values_of(x1, dataset))
        second.append(values_of(x2, dataset))
    first, second = torch.cat(first), torch.cat(second)
    assert torch.equal(first % 4, second % 4) and not (first == second).any()
    next_epoch = torch.cat([values_of(x2, dataset) for _, x2 in epoch_of(maker, 1)])
    assert not torch.equal(next_epoch, second)


def test_the_first_view_is_the_same_with_and_without_partners():
    dataset = data()
    plain, paired = (epoch_of(maker_of(dataset, views_from=name)) for name in ("", "label"))
    values = [torch.cat([values_of(v[0], dataset) for v in epoch]) for epoch in (plain, paired)]
    assert torch.equal(*values)


def test_pretraining_takes_partners(tmp_path):
    dataset = data()
    config = PretrainConfig(**SMALL | {"views_from": "label"})
    run = pretrain(config, dataset, folder=str(tmp_path), progress=False)
    assert run.finished and run.config["views_from"] == "label"
    unlabelled = Dataset("none", labelled([-1] * 20), labelled([-1] * 5))
    with pytest.raises(ValueError, match="views_from='label': no two"):
        pretrain(config, unlabelled, folder=str(tmp_path), progress=False)


# ---------------------------------------------------------------------------- seeds, the warning


def test_epochs_and_purposes_have_random_numbers_of_their_own():
    config = PretrainConfig(**SMALL)
    numbers = set()
    for epoch in range(3):
        made = seed_epoch(config, epoch, 3, CPU)
        generators = [made.order, made.partners, made.masks, made.loss, made.sim, *made.views]
        numbers.update(float(torch.rand(1, generator=g)) for g in generators)
        numbers.add(float(torch.rand(1)))
    assert len(numbers) == 3 * 9


@pytest.mark.parametrize("sim_layers", ["", "blocks.*"])
def test_dropout_differs_between_processes_and_sims_positions_do_not(sim_layers, monkeypatch):
    config = dataclasses.replace(PretrainConfig(**SMALL), sim_layers=sim_layers)
    numbers = []
    for rank in range(3):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        made = seed_epoch(config, 0, 1, CPU)
        draws = [float(torch.rand(1, generator=g)) for g in (made.loss, made.sim)]
        numbers.append((float(torch.rand(1)), *draws))
    dropout, loss, sim = zip(*numbers, strict=True)
    assert len(set(dropout)) == 3
    assert len(set(loss)) == len(set(sim)) == 1


@pytest.mark.parametrize(
    ("loss", "at_collapse", "std", "warns"),
    [
        (-0.99, -1.0, 0.05, True), (-0.90, -1.0, 0.05, False), (-0.99, -1.0, 0.6, False),
        (4.85, 4.84, 0.05, True), (3.0, 4.84, 0.05, False), (0.1, None, 0.05, True),
        (0.1, None, 0.9, False), (-0.99, -1.0, float("nan"), False),
    ],
)  # fmt: skip
def test_a_collapse_is_the_methods_loss_at_collapse_with_hardly_any_std(
    loss, at_collapse, std, warns
):
    warning = collapse_warning(loss, at_collapse, std)
    assert (warning is not None) == warns
    of_scale = collapse_warning(loss, at_collapse, 0.9, scale_ratio=std)
    assert (of_scale is not None) == warns
    assert not warns or f"z is nearly a point: its std is {std:.0%}" in of_scale
    assert not warns or f"{std:.0%}" in warning
