"""The protocols of `evaluate`: votes, the papers' probe, layer-wise rates, fine-tuning."""

import pytest
import torch
import torch.nn as nn
import torchvision
from small_encoders import COLOUR, small_data, small_net

from simlab.config import SupervisedConfig
from simlab.evaluate import Settings, SGDProbe, evaluate, knn_predict
from simlab.evaluate.bench import finetuning, frozen, open_encoder
from simlab.evaluate.bench.inputs import Prepared
from simlab.evaluate.bench.layers import clean_features
from simlab.evaluate.bench.learning_rates import depths, rate_factors
from simlab.evaluate.bench.protocols import parse_protocol
from simlab.evaluate.bench.views_probe import measure_sgd_probe
from simlab.train import build_optimizer


def test_a_protocol_is_named_with_its_labels():
    assert parse_protocol("finetune-10%").labels == pytest.approx(0.1)
    assert parse_protocol("probe-100").labels == 100
    for text in ("finetune-0%", "probe-100%", "probe-many"):
        with pytest.raises(ValueError, match="expected a number of labelled images"):
            parse_protocol(text)
    with pytest.raises(ValueError, match="did you mean 'finetune-1%'"):
        parse_protocol("fintune-1%")
    with pytest.raises(ValueError, match="unknown"):
        parse_protocol("knn-10%")


def test_too_few_labels_are_refused_before_anything_is_measured(tmp_path):
    with pytest.raises(ValueError, match="finetune-2% on arrays: .* at least two images of each"):
        evaluate(small_net(), small_data(), ["knn", "finetune-2%"], folder=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_votes_are_those_of_knn_predict():
    generator = torch.Generator().manual_seed(0)
    bank, queries = torch.randn(2, 50, 6, generator=generator)
    labels = torch.randint(3, (50,), generator=generator)
    similarity, nearest = frozen._neighbours(bank, queries, 20)
    for k, temperature in ((1, 0.1), (7, 0.03), (20, 0.5)):
        votes = frozen._vote(similarity[:, :k], labels[nearest[:, :k]], temperature)
        assert torch.equal(votes, knn_predict(bank, labels, queries, k, temperature))


def test_the_sgd_probe_without_augmentation_is_the_probe_of_clean_features():
    data, settings = small_data(), Settings(probe_epochs=3, crop_min=1.0, flip=0.0)
    module = open_encoder(small_net(), COLOUR).prepared(small_net(), data, torch.device("cpu"))
    clean = clean_features(module, data)[""]
    row = measure_sgd_probe(module, data, clean, seed=3, settings=settings, progress=False)
    plain = SGDProbe(epochs=3, seed=3).fit(clean.train, clean.train_labels)
    assert row["accuracy"] == pytest.approx(plain.score(clean.test, clean.test_labels))


def test_the_sgd_probe_crops_anew_each_epoch(monkeypatch):
    data, settings = small_data(), Settings(probe_epochs=3)
    module = open_encoder(small_net(), COLOUR).prepared(small_net(), data, torch.device("cpu"))
    clean = clean_features(module, data)[""]
    sums = []
    of_views = Prepared.of_views

    def watch(self, x):
        sums.append(float(x.double().sum()))
        return of_views(self, x)

    monkeypatch.setattr(Prepared, "of_views", watch)
    measure_sgd_probe(module, data, clean, seed=0, settings=settings, progress=False)
    assert len(set(sums)) == 3  # one batch of all images an epoch
    assert not module.training and not module.encoder[1].training


# -------------------------------------------------------------------------------------- fine-tuning


def test_the_first_blocks_of_a_resnet_have_the_smallest_rates():
    model = torchvision.models.resnet18(weights=None)
    model.fc = nn.Identity()
    depth = depths(model)
    assert depth["conv1.weight"] == depth["bn1.bias"] == 0
    assert depth["layer1.0.conv1.weight"] == depth["layer1.0.bn2.weight"] == 1
    assert depth["layer2.0.downsample.0.weight"] == 3 and depth["layer4.1.conv2.weight"] == 8
    factors = rate_factors(model, 0.5)
    assert factors["layer4.1.bn1.weight"] == 1 and factors["conv1.weight"] == pytest.approx(0.5**8)
    assert set(depth) == {name for name, _ in model.named_parameters()}


def test_a_transformer_begins_at_its_tokens_and_ends_at_its_last_block():
    model = torchvision.models.VisionTransformer(
        image_size=8, patch_size=4, num_layers=2, num_heads=1, hidden_dim=8, mlp_dim=8
    )
    depth = depths(model)
    assert depth["class_token"] == 0 and depth["conv_proj.weight"] == 1
    first, second = (
        {depth[name] for name in depth if f"encoder_layer_{i}." in name} for i in (0, 1)
    )
    assert len(first) == len(second) == 1 and max(first) + 1 == min(second)


def test_the_optimizer_gets_those_rates():
    method = finetuning.FineTuned(num_classes=2, layer_decay=0.5, head_factor=10.0)
    module = method.build(small_net(), 4)
    config = SupervisedConfig(lr=0.256, batch_size=256)
    optimizer = build_optimizer(config, module.parameter_groups(), module.encoder)
    factor_of = {
        id(weight): group["lr_factor"]
        for group in optimizer.param_groups
        for weight in group["params"]
    }
    assert factor_of[id(module.encoder[0].weight)] == 1
    assert factor_of[id(module.classifier.weight)] == 10
    assert len(factor_of) == len(list(module.parameters()))


@pytest.mark.parametrize("batch_norm", ["frozen", "running"])
def test_frozen_batch_norm_stays_and_running_one_moves(batch_norm, tmp_path):
    data, net = small_data(), small_net()
    settings = Settings(finetune_epochs=1, finetune_batch_size=16, batch_norm=batch_norm)
    protocol = parse_protocol("finetune")
    tuning = finetuning.FineTuning(data, protocol, settings, tmp_path, progress=False)
    module = open_encoder(net, COLOUR).prepared(net, data, torch.device("cpu"))
    row = tuning.measure(module, seed=0, rate=0.05)
    (run,) = tmp_path.glob("finetune-*")
    weights = torch.load(run / "encoder.pt", weights_only=True)
    before = {f"encoder.{name}": value for name, value in net.state_dict().items()}
    changed = {name for name in before if not torch.equal(before[name], weights[name])}
    norm = {name for name in before if name.startswith("encoder.1.")}
    assert "encoder.0.weight" in changed
    assert changed & norm == (set() if batch_norm == "frozen" else norm)
    assert row["batch_norm"] == batch_norm


def test_a_function_has_nothing_to_fine_tune(tmp_path):
    with pytest.raises(ValueError, match="finetune-50%: encode has no weights"):
        evaluate(encode, small_data(), ["finetune-50%"], folder=tmp_path)


def encode(x):
    return x.flatten(1)
