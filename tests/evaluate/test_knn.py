"""kNN and features: against a plain double loop, and by the protocol that knn.py names."""

import importlib
import math

import numpy as np
import pytest
import torch
import torch.nn as nn

from simlab.data import from_arrays
from simlab.evaluate import features, knn, knn_accuracy, knn_predict, raw_pixels

# `simlab.evaluate.knn` is the function of that name
knn_module = importlib.import_module("simlab.evaluate.knn")


def problem(n=60, m=25, d=6, classes=4, seed=0):
    """A bank and queries in four noisy clusters."""
    generator = torch.Generator().manual_seed(seed)
    middles = torch.randn(classes, d, generator=generator)
    labels = torch.randint(classes, (n + m,), generator=generator)
    x = middles[labels] + 0.8 * torch.randn(n + m, d, generator=generator)
    return x[:n], labels[:n], x[n:], labels[n:]


@pytest.mark.parametrize("size, batches", [(32, [300]), (48, [300]), (64, [128, 128, 44])])
def test_large_images_are_encoded_in_smaller_batches(size, batches):
    """512 of 64 x 64 pixels would take gigabytes in the first layers of a ResNet-18."""
    images = torch.zeros(300, 1, size, size, dtype=torch.uint8)
    images[:, :, 0, 0] = torch.arange(300)[:, None] % 256
    split = from_arrays(images, None, images[:4]).train
    sizes = []

    def encoder(x):
        sizes.append(len(x))
        return x[:, 0, 0, :1]

    assert len(features(encoder, split)) == 300
    assert sizes == batches
    sizes.clear()
    features(encoder, split, batch_size=100)
    assert sizes == [100, 100, 100]


def naive(bank, labels, queries, k, temperature, classes):
    """The definition, one query and one neighbour at a time, in float64."""
    bank, queries, labels = bank.double().numpy(), queries.double().numpy(), labels.numpy()
    predicted = []
    for q in queries:
        cosine = [q @ b / np.linalg.norm(q) / np.linalg.norm(b) for b in bank]
        nearest = sorted(range(len(bank)), key=lambda i: -cosine[i])[:k]  # noqa: B023
        votes = [0.0] * classes
        for i in nearest:
            votes[labels[i]] += math.exp(cosine[i] / temperature)
        predicted.append(int(np.argmax(votes)))
    return torch.tensor(predicted)


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(50) % 2
    images = torch.randint(0, 120, (50, 1, 8, 8), dtype=torch.uint8, generator=generator)
    images[labels == 1, :, :4] += 60
    return from_arrays(images[:40], labels[:40], images[40:], labels[40:])


def batch_norm_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.5))


# ---------------------------------------------------------------------------------------- the vote


@pytest.mark.parametrize("k", [1, 5, 20, 60])
@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
def test_predictions_are_those_of_a_plain_double_loop(k, temperature):
    bank, labels, queries, _ = problem()
    wanted = naive(bank, labels, queries, k, temperature, 4)
    assert torch.equal(knn_predict(bank, labels, queries, k, temperature), wanted)


def test_lengths_of_features_do_not_matter():
    bank, labels, queries, _ = problem()
    wanted = knn_predict(bank, labels, queries, 10)
    lengths = 10.0 ** torch.linspace(-4, 4, 60)[:, None]
    assert torch.equal(knn_predict(bank * lengths, labels, queries * 1e-3, 10), wanted)


def test_the_temperature_decides_between_one_near_and_two_far_neighbours():
    """Cosines 1, .6, .6: one vote of exp(1/T) against two of exp(.6/T): equal at T = .4 / ln 2."""
    bank = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, -0.8]])
    labels, query = torch.tensor([0, 1, 1]), torch.tensor([[2.0, 0.0]])
    turning_point = 0.4 / math.log(2)
    assert knn_predict(bank, labels, query, 3, turning_point * 0.99).item() == 0
    assert knn_predict(bank, labels, query, 3, turning_point * 1.01).item() == 1


def test_a_small_temperature_is_the_nearest_neighbour_and_does_not_overflow():
    bank, labels, queries, _ = problem()
    assert torch.equal(
        knn_predict(bank, labels, queries, 20, 1e-5), knn_predict(bank, labels, queries, 1)
    )


def test_of_classes_with_equal_votes_the_first_wins():
    bank = torch.tensor([[1.0, 0.0]] * 4)
    query = torch.tensor([[1.0, 0.0]])
    assert knn_predict(bank, torch.tensor([2, 1, 2, 1]), query, 4).item() == 1
    assert knn_predict(bank, torch.tensor([2, 2, 1, 0]), query, 4).item() == 2


def test_a_class_that_the_bank_does_not_hold_is_never_predicted():
    bank, _, queries, _ = problem()
    labels = torch.where(torch.arange(60) % 2 == 0, 0, 3)
    assert set(knn_predict(bank, labels, queries, 7).tolist()) <= {0, 3}
    assert set(knn_predict(bank, labels, queries, 7, classes=9).tolist()) <= {0, 3}


def test_blocks_of_queries_give_what_one_block_gives(monkeypatch):
    bank, labels, queries, _ = problem()
    wanted = knn_predict(bank, labels, queries, 15)
    for block in (1, 60, 7 * 60, 60 * 60):
        monkeypatch.setattr(knn_module, "BLOCK", block)
        assert torch.equal(knn_predict(bank, labels, queries, 15), wanted)


def test_memory_is_bounded_by_the_block_whatever_the_number_of_classes(monkeypatch):
    """No tensor is larger than the bank, the queries, or a block of similarities."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple) else [out]:
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.numel())
            return out

    bank, _, queries, _ = problem(n=100, m=400)
    monkeypatch.setattr(knn_module, "BLOCK", 4000)
    with Watch():
        knn_predict(bank, torch.arange(100), queries, 100)
    assert largest <= 4000


def test_neighbours_that_bfloat16_would_confuse_are_told_apart():
    """Every cosine is above 0.99, and the right class is nearer by less than bfloat16 resolves."""
    generator = torch.Generator().manual_seed(1)
    middle = torch.randn(32, generator=generator)
    bank = middle + 0.02 * torch.randn(1001, 32, generator=generator)
    queries = bank[:20] + 0.01
    labels = torch.randint(5, (1001,), generator=generator)
    for k in (1, 7, 30):
        wanted = naive(bank, labels, queries, k, 0.1, 5)
        assert torch.equal(knn_predict(bank, labels, queries, k), wanted)
    coarse = (queries.bfloat16() @ bank.bfloat16().T).float().argmax(1)
    assert not torch.equal(coarse, (queries @ bank.T).argmax(1)), "not hard enough to show it"


@pytest.mark.parametrize("temperature", [0, -0.1, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    bank, labels, queries, _ = problem()
    with pytest.raises(ValueError, match=f"temperature={temperature}: expected a number above 0"):
        knn_predict(bank, labels, queries, 5, temperature)


@pytest.mark.parametrize("k", [0, -1, 61])
def test_a_k_that_the_bank_does_not_hold_is_refused(k):
    bank, labels, queries, _ = problem()
    with pytest.raises(ValueError, match=f"k={k}: expected 1 to 60"):
        knn_predict(bank, labels, queries, k)


def test_a_bank_with_unlabelled_images_or_without_numbers_is_refused():
    bank, labels, queries, _ = problem()
    unlabelled = labels.clone()
    unlabelled[7] = -1
    with pytest.raises(ValueError, match=r"1 of 60 images have no label \(-1\)"):
        knn_predict(bank, unlabelled, queries, 5)
    for bad in (math.nan, math.inf):
        broken = queries.clone()
        broken[3, 2] = bad
        with pytest.raises(FloatingPointError, match="NaN or infinity"):
            knn_predict(bank, labels, broken, 5)
        with pytest.raises(FloatingPointError, match="NaN or infinity"):
            knn_predict(broken, labels[:25], bank, 5)


def test_accuracy_is_the_share_that_is_right():
    bank, labels, queries, truth = problem()
    predicted = knn_predict(bank, labels, queries, 10)
    wanted = float((predicted == truth).double().mean())
    assert knn_accuracy(bank, labels, queries, truth, 10) == pytest.approx(wanted)
    assert 0.3 < wanted < 1
    # a k larger than the bank is cut to it
    assert knn_accuracy(bank, labels, queries, truth, 10**6) == knn_accuracy(
        bank, labels, queries, truth, 60
    )


# ------------------------------------------------------------------------------------ the protocol


def test_every_clean_image_is_encoded_once_and_in_order(data):
    seen = features(raw_pixels, data.train, batch_size=7)
    assert torch.equal(seen, data.normalize(data.train.images).flatten(1))


def test_knn_uses_the_whole_bank_and_every_test_image(data, monkeypatch):
    sizes = {}

    def spy(bank, bank_labels, queries, k, temperature):
        sizes.update(bank=len(bank), queries=len(queries), k=k, t=temperature)
        return knn_predict(bank, bank_labels, queries, k, temperature)

    monkeypatch.setattr(knn_module, "knn_predict", spy)
    accuracy = knn(raw_pixels, data)
    assert sizes == {"bank": 40, "queries": 10, "k": 40, "t": 0.1}
    bank, queries = (p.images.flatten(1).float() / 255 for p in (data.train, data.test))
    bank, queries = ((x - data.normalize.mean) / data.normalize.std for x in (bank, queries))
    wanted = naive(bank, data.train.labels, queries, 40, 0.1, 2)
    assert accuracy == pytest.approx(float((wanted == data.test.labels).float().mean()))


def test_batchnorm_is_frozen_so_that_features_do_not_depend_on_the_batch(data):
    net = batch_norm_net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    at_once = features(net, data.train)
    for batch_size in (1, 3, 40):
        seen = features(net, data.train, batch_size)
        torch.testing.assert_close(seen, at_once, atol=1e-6, rtol=0)
    pair = features(net, data.train.subset(torch.tensor([3, 30])))
    torch.testing.assert_close(pair, at_once[[3, 30]], atol=1e-6, rtol=0)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_every_part_of_the_encoder_gets_its_mode_back(data):
    net = batch_norm_net().train()
    net[1].eval()
    seen = []
    net[3].register_forward_hook(lambda module, args, out: seen.append(module.training))
    features(net, data.test)
    assert seen == [False]
    assert [module.training for module in net.modules()] == [True, True, False, True, True]


def test_every_part_gets_its_mode_back_after_an_error_too(data):
    net = batch_norm_net().train()
    net[1].eval()
    net.append(nn.Linear(3, 3))  # does not fit
    with pytest.raises(RuntimeError):
        features(net, data.test)
    assert [module.training for module in net.modules()] == [True, True, False, True, True, True]


def test_features_are_float32_and_carry_no_gradient(data):
    seen = features(batch_norm_net().bfloat16(), data.test,
                    normalize=lambda x: data.normalize(x).bfloat16())  # fmt: skip
    assert seen.dtype == torch.float32 and not seen.requires_grad
    assert features(batch_norm_net(), data.test).shape == (10, 144)


def test_streamed_images_give_the_same_accuracy(data, tmp_path):
    from PIL import Image

    from simlab.data.folders import load_folder

    for name, split in (("train", data.train), ("test", data.test)):
        for i, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
            folder = tmp_path / name / f"class {int(label)}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(folder / f"{i:03}.png")
    loaded, streamed = load_folder(str(tmp_path)), load_folder(str(tmp_path), fits=0)
    assert knn(raw_pixels, loaded, 5) == knn(raw_pixels, streamed, 5) == knn(raw_pixels, data, 5)
