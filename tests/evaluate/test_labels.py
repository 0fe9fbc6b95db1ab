"""Labels: missing ones, unknown classes and small classes, alike in kNN, probe and draws."""

import pytest
import torch

from simlab.data import from_arrays
from simlab.evaluate import (
    Features,
    accuracy,
    encode,
    knn,
    knn_accuracy,
    knn_result,
    linear_probe,
    per_class_accuracy,
    raw_pixels,
    stratified,
)
from simlab.train.monitor import SupervisedTraining

PROTOCOLS = ["kNN", "probe", "probe by sgd"]


def separable(n=60, m=30, classes=3):
    """Features whose class is plain to see, as (train, labels, test, labels)."""
    generator = torch.Generator().manual_seed(0)

    def draw(number):
        labels = torch.arange(number) % classes
        noise = 0.05 * torch.randn(number, classes + 1, generator=generator)
        return torch.eye(classes + 1)[labels] + noise, labels

    return (*draw(n), *draw(m))


def accuracy_of(protocol, x, labels, x_test, test_labels):
    if protocol == "kNN":
        return knn_accuracy(x, labels, x_test, test_labels, k=3)
    solver = "sgd" if protocol == "probe by sgd" else "newton-cg"
    return linear_probe(Features(x, labels, x_test, test_labels), solver=solver).accuracy


every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)


@every_protocol
def test_test_images_without_a_label_are_no_wrong_answers(protocol):
    x, labels, x_test, test_labels = separable()
    test_labels = test_labels.clone()
    test_labels[::2] = -1
    with pytest.warns(UserWarning, match=r"left out: 15 of 30 test images without a label \(-1\)"):
        accuracy = accuracy_of(protocol, x, labels, x_test, test_labels)
    assert accuracy == pytest.approx(1)


@every_protocol
def test_training_images_without_a_label_teach_nothing(protocol):
    """Twelve of sixty are labelled; the others lie where they would mislead."""
    x, labels, x_test, test_labels = separable()
    x, labels = x.clone(), labels.clone()
    x[12:] = x[12:].roll(1, dims=0)
    labels[12:] = -1
    with pytest.warns(UserWarning, match=r"48 of 60 training images without a label \(-1\)"):
        accuracy = accuracy_of(protocol, x, labels, x_test, test_labels)
    assert accuracy == pytest.approx(1)
    assert accuracy == pytest.approx(
        accuracy_of(protocol, x[:12], labels[:12], x_test, test_labels)
    )


@every_protocol
def test_a_test_class_that_no_training_image_has_is_left_out_and_named(protocol):
    x, labels, x_test, test_labels = separable()
    mask = labels < 2
    with pytest.warns(UserWarning, match=r"10 of 30 test images of classes that no .* has \(2\)"):
        accuracy = accuracy_of(protocol, x[mask], labels[mask], x_test, test_labels)
    assert accuracy == pytest.approx(1)


@every_protocol
def test_where_nothing_has_a_label_that_is_said(protocol):
    x, labels, x_test, test_labels = separable()
    none, none_of_test = torch.full_like(labels, -1), torch.full_like(test_labels, -1)
    with pytest.raises(ValueError, match="none of the 30 test images has a label"):
        accuracy_of(protocol, x, labels, x_test, none_of_test)
    with pytest.raises(ValueError, match="none of the 60 training images has a label"):
        accuracy_of(protocol, x, none, x_test, test_labels)
    with pytest.raises(ValueError, match="none of the 30 test images is of a class"):
        accuracy_of(protocol, x, labels, x_test, test_labels + 3)


def small_data(labels, test_labels, classes=()):
    generator = torch.Generator().manual_seed(0)

    def images_of(labels):
        noise = torch.randint(0, 60, (len(labels), 6, 6), generator=generator)
        return (noise + 60 * labels.clamp_min(0)[:, None, None]).byte()

    return from_arrays(images_of(labels), labels, images_of(test_labels), test_labels, classes)


def test_knn_and_probe_of_a_dataset_say_the_same_sentence_with_the_classes_names():
    labels = torch.arange(40) % 2
    labels[:4] = -1
    data = small_data(labels, torch.arange(12) % 3, ["ant", "bee", "cat"])
    sentences = []
    for measure in (
        lambda: knn_result(raw_pixels, data, k=3),
        lambda: linear_probe(encode(raw_pixels, data)),
    ):
        with pytest.warns(UserWarning) as warned:
            result = measure()
        sentences.append([str(warning.message) for warning in warned])
        assert result.tested == 8 and list(result.per_class.index) == ["ant", "bee"]
        assert result.per_class["images"].tolist() == [4, 4]
    assert (
        sentences[0]
        == sentences[1]
        == [
            "left out: 4 of 40 training images without a label (-1); 4 of 12 test images of classes "
            "that no labelled training image has (cat)"
        ]
    )


def test_the_result_of_knn_has_what_decided_it(recwarn):
    labels = torch.arange(40) % 2
    data = small_data(labels, labels[:10], ["ant", "bee"])
    result = knn_result(raw_pixels, data)
    assert (result.bank, result.tested, result.k, result.temperature) == (40, 10, 40, 0.1)
    assert result.accuracy == knn(raw_pixels, data)
    assert not recwarn.list, "nothing is left out"


def test_the_accuracy_of_each_class_is_that_of_its_images():
    predicted, labels = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([0, 1, 1, 2, 2, -1])
    table = per_class_accuracy(predicted, labels, ["ant", "bee", "cat", "dog"])
    assert list(table.index) == ["ant", "bee", "cat"]
    assert table["images"].tolist() == [1, 2, 2]
    assert table["accuracy"].tolist() == pytest.approx([1, 0.5, 1])
    assert list(per_class_accuracy(predicted, labels).index) == ["0", "1", "2"]


def test_the_accuracy_of_logits_refuses_images_without_a_label():
    with pytest.raises(ValueError, match=r"1 of 3 images have no label \(-1\)"):
        accuracy(torch.eye(3), torch.tensor([0, -1, 2]))


# ------------------------------------------------------------------------------------- the draws


def draw(labels, number, seed=0):
    return stratified(labels, number, torch.Generator().manual_seed(seed))


def imbalanced():
    return torch.tensor([0] * 200 + [1] * 20 + [2] * 3)


def test_a_fraction_takes_that_share_of_each_class_and_one_at_least():
    labels = imbalanced()
    chosen = draw(labels, 0.1)
    assert labels[chosen].bincount().tolist() == [20, 2, 1]
    assert len(set(chosen.tolist())) == 23
    assert labels[draw(labels, 0.5)].bincount().tolist() == [100, 10, 2]
    assert not torch.equal(chosen, draw(labels, 0.1, seed=1))


def test_every_prefix_of_a_fraction_has_all_classes_share():
    labels = torch.arange(400) % 4 // 3  # three of the first class for one of the second
    chosen = labels[draw(labels, 0.2)]
    assert chosen.bincount().tolist() == [60, 20]
    assert chosen[:40].bincount().tolist() == [30, 10]


def test_a_small_class_is_named_with_what_can_be_drawn():
    with pytest.raises(ValueError, match=r"labels=30: class 2 has only 3 images.* at most 9 can"):
        draw(imbalanced(), 30)
    assert imbalanced()[draw(imbalanced(), 9)].bincount().tolist() == [3, 3, 3]


@pytest.mark.parametrize("values", [(1, 2, 3), (0, 255), (7, 9)])
def test_classes_are_counted_by_their_images_and_not_by_their_numbers(values):
    """Labels from 1, or 0 and 255: no class is missed because a number is."""
    labels = torch.tensor(values).repeat(20)
    chosen = labels[draw(labels, 4 * len(values))]
    assert chosen.tolist() == list(values) * 4
    x = torch.eye(256)[labels]
    probe = linear_probe(Features(x, labels, x, labels), labels=4 * len(values))
    assert probe.accuracy == pytest.approx(1) and probe.labels == 4 * len(values)


def test_images_without_a_label_are_never_drawn():
    labels = torch.arange(60) % 3
    labels[::2] = -1
    for number in (0, 0.5, 15, 30):
        chosen = draw(labels, number)
        assert bool((labels[chosen] >= 0).all())
    assert len(draw(labels, 0)) == 30


@pytest.mark.parametrize("number", [-1, -0.5, 1.5, 7, 61])
def test_a_number_that_is_no_budget_is_refused(number):
    with pytest.raises(ValueError, match=rf"labels={number}: expected a multiple of the 3 classes"):
        draw(torch.arange(60) % 3, number)


def test_a_probe_takes_a_fraction():
    labels = imbalanced()
    x = torch.eye(3)[labels]
    probe = linear_probe(Features(x, labels, x, labels), labels=0.2)
    assert probe.labels == 45 and probe.accuracy == pytest.approx(1)


def test_supervised_training_says_which_test_images_it_leaves_out():
    labels = torch.arange(40) % 2
    all_labelled = small_data(labels, labels[:20], ("ant", "bee"))
    assert SupervisedTraining(3, all_labelled).remark() == ""
    test_labels = torch.where(torch.arange(20) < 5, -1, labels[:20])
    remark = SupervisedTraining(3, small_data(labels, test_labels, ("ant", "bee"))).remark()
    assert "5 of 20 test images" in remark
