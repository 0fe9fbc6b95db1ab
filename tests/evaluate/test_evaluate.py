"""Any encoder judged by several protocols: what decides a number, and what must not."""

import dataclasses
import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn as nn
import torchvision
from PIL import Image

from simlab.cli import main
from simlab.config import PretrainConfig
from simlab.data import Dataset, from_arrays
from simlab.evaluate import Evaluation, Input, Settings, SGDProbe, evaluate, knn_predict, knn_result
from simlab.evaluate.bench import finetuning, frozen, open_encoder, stored
from simlab.evaluate.bench.fresh import fresh_copy
from simlab.evaluate.bench.inputs import Prepared
from simlab.evaluate.bench.layers import clean_features
from simlab.evaluate.bench.learning_rates import depths, rate_factors
from simlab.evaluate.bench.libraries import _input_of_transforms
from simlab.evaluate.bench.protocols import parse_protocol
from simlab.evaluate.bench.result import wilson
from simlab.evaluate.bench.views_probe import measure_sgd_probe
from simlab.train import build_optimizer, pretrain

COLOUR = Input(12, (0.3, 0.4, 0.5), (0.2, 0.2, 0.2))
QUICK = Settings(probe_epochs=2, finetune_epochs=2, finetune_batch_size=16)
EVERYTHING = ("knn", "probe", "probe-20", "sgd-probe", "finetune-50%")


def small_data(channels=1, size=12, seed=0, name="arrays"):
    """60 training and 20 test images of two classes, which differ in the upper half."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 120, (80, channels, size, size), np.uint8)
    labels = np.arange(80) % 2
    images[labels == 1, :, : size // 2] += 8
    data = from_arrays(images[:60], labels[:60], images[60:], labels[60:])
    data.name = name
    return data


def small_net(channels=3, seed=7):  # no seed of an untrained twin
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ).eval()


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """One evaluation by every protocol, in its folder."""
    folder = tmp_path_factory.mktemp("judged") / "result"
    return evaluate(
        small_net(), small_data(), EVERYTHING, layers=["0"], seeds=2, input=COLOUR,
        settings=QUICK, folder=folder, device="cpu", progress=False,
    )  # fmt: skip


def rows(result, **wanted):
    table = result.table
    for name, value in wanted.items():
        table = table[table[name] == value]
    return table


# --------------------------------------------------------------------------------- what it measures


def test_every_protocol_is_there_for_the_encoder_its_untrained_twin_and_pixels(judged):
    output = judged.table[judged.table["layer"] == ""]
    of = {name: set(table["protocol"]) for name, table in output.groupby("encoder")}
    assert of["Sequential"] == of["untrained twin"] == set(EVERYTHING)
    assert of["raw pixels"] == {"knn", "probe", "probe-20"}
    inner = judged.table[judged.table["layer"] == "0"]
    assert set(inner["protocol"]) == {"knn", "probe", "probe-20"}
    assert judged.table["accuracy"].between(0, 1).all() and (judged.table["tested"] == 20).all()


def test_what_the_seed_does_not_draw_is_measured_once_for_each_set_of_weights(judged):
    seeds = (
        judged.table[judged.table["layer"] == ""].groupby(["encoder", "protocol"])["seed"].count()
    )
    assert seeds["Sequential", "knn"] == seeds["raw pixels", "probe"] == 1
    assert seeds["untrained twin", "knn"] == seeds["Sequential", "probe-20"] == 2
    assert seeds["Sequential", "finetune-50%"] == seeds["Sequential", "sgd-probe"] == 2


def test_what_decided_a_number_stands_beside_it(judged):
    decided = {
        "knn": ["k", "temperature", "validation"],
        "probe": ["regulariser", "validation"],
        "sgd-probe": ["epochs", "rate"],
        "finetune-50%": ["rate", "epochs", "layer_decay", "batch_norm", "validation"],
    }
    for protocol, columns in decided.items():
        table = rows(judged, protocol=protocol)
        assert table[[*columns, "labels", "tested", "low", "high"]].notna().all(axis=None), protocol
    assert set(rows(judged, protocol="finetune-50%")["labels"]) == {30}
    assert set(rows(judged, protocol="probe-20")["labels"]) == {20}


def test_one_measurement_has_the_interval_of_the_test_images_several_that_of_the_seeds(judged):
    summary = judged.summary().set_index(["encoder", "protocol", "layer"])
    assert summary.loc[("Sequential", "knn", ""), "interval"] == "test images"
    few = summary.loc[("Sequential", "probe-20", "")]
    assert few["interval"] == "seeds" and few["n"] == 2
    values = rows(judged, encoder="Sequential", protocol="probe-20", layer="")["accuracy"]
    half = 12.7062 * values.std() / math.sqrt(2)  # t of one degree of freedom
    assert few["high"] - few["accuracy"] == pytest.approx(half, abs=1e-3)


def test_wilsons_interval_is_the_published_one():
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(1.0, 10)[1] == pytest.approx(1) and wilson(1.0, 10)[0] == pytest.approx(
        0.7225, abs=1e-4
    )


def test_the_folder_holds_table_figure_and_all_that_decided(judged):
    table = pd.read_csv(judged.folder / "table.csv", keep_default_na=False)
    assert len(table) == len(judged.table)
    assert Image.open(judged.folder / "figure.png").size[0] > 300
    told = json.loads((judged.folder / "evaluation.json").read_text())
    assert told["input"]["arrays"]["mean"] == [0.3, 0.4, 0.5] and told["encoder"]["digest"]
    assert told["data"]["arrays"]["digest"] == small_data().digest()
    assert told["settings"]["probe_epochs"] == 2 and told["seeds"] == [0, 1]
    assert told["chosen_among"]["finetuning_rate"] and told["environment"]["torch"]
    assert {path.name for path in (judged.folder / "runs").glob("finetune-*")}


def test_the_same_evaluation_gives_the_same_table_and_loads_its_runs(judged, capsys):
    again = evaluate(
        small_net(), small_data(), EVERYTHING, layers=["0"], seeds=2, input=COLOUR,
        settings=QUICK, folder=judged.folder, device="cpu", progress=False,
    )  # fmt: skip
    pd.testing.assert_frame_equal(again.table, judged.table)
    assert "loads" in capsys.readouterr().out


def test_a_folder_with_another_result_is_not_written_over(judged):
    with pytest.raises(ValueError, match="holds another evaluation"):
        evaluate(small_net(seed=1), small_data(), ["knn"], folder=judged.folder, progress=False)


def test_the_test_labels_choose_nothing(judged, tmp_path):
    """With other test labels every accuracy may change, and no choice."""
    data = small_data()
    test = dataclasses.replace(data.test, labels=1 - data.test.labels)
    other = Dataset(data.name, data.train, test, normalize=data.normalize)
    result = evaluate(
        small_net(), other, ["knn", "probe", "finetune-50%"], seeds=1, input=COLOUR, settings=QUICK,
        folder=tmp_path, device="cpu", baselines=False, progress=False,
    )  # fmt: skip
    chosen = ["k", "temperature", "regulariser", "rate", "validation"]
    for protocol in ("knn", "probe", "finetune-50%"):
        before = rows(judged, encoder="Sequential", layer="", protocol=protocol, seed=0).iloc[0]
        after = rows(result, protocol=protocol).iloc[0]
        pd.testing.assert_series_equal(before[chosen], after[chosen], check_names=False)
        assert before["accuracy"] + after["accuracy"] == pytest.approx(1)


# --------------------------------------------------------------------------------------- protocols


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
    config = finetuning.SupervisedConfig(lr=0.256, batch_size=256)
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


# ---------------------------------------------------------------------------- encoders and inputs


@pytest.mark.parametrize(
    "weights",
    [
        torchvision.models.ResNet18_Weights.IMAGENET1K_V1,
        torchvision.models.EfficientNet_B0_Weights.IMAGENET1K_V1,
    ],
    ids=["bilinear", "bicubic"],
)
def test_images_are_prepared_as_torchvisions_transforms_do(weights):
    generator = np.random.default_rng(0)
    expects = _input_of_transforms(weights.transforms())
    for size in (64, 300):
        pixels = generator.integers(60, 190, (size, size, 3), np.uint8)  # no overshoot to cut off
        theirs = weights.transforms()(Image.fromarray(pixels))
        x = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
        module = Prepared(nn.Flatten(), expects).eval()
        ours = module.standardise(expects.fit(x))[0]
        assert ours.shape == theirs.shape
        # theirs are rounded to whole numbers after they were resized
        assert float((ours - theirs).abs().max()) < 1.6 / 255 / 0.224


def test_grey_images_are_repeated_for_an_encoder_of_colour():
    net = small_net()
    x = torch.rand(2, 1, 12, 12)
    ours = Prepared(net, COLOUR).eval()(x)
    mean, std = (torch.tensor(v)[:, None, None] for v in (COLOUR.mean, COLOUR.std))
    torch.testing.assert_close(ours, net((x.repeat(1, 3, 1, 1) - mean) / std))


def test_an_input_that_can_not_be_is_refused():
    for wrong, said in (
        ({"std": (1.0, 1.0)}, "expected 3 numbers"),
        ({"resize": 8}, "expected at least size=12"),
        ({"interpolation": "bicubik"}, "did you mean 'bicubic'"),
        ({"std": (0.0, 1.0, 1.0)}, "above 0"),
    ):
        with pytest.raises(ValueError, match=said):
            Input(**COLOUR.to_dict() | wrong)
    assert Input.from_dict(json.loads(json.dumps(COLOUR.to_dict()))) == COLOUR


def test_what_is_no_features_is_refused_with_what_helps(tmp_path):
    with pytest.raises(ValueError, match=r"mean\(\(2, 3\)\)"):
        evaluate(nn.Conv2d(3, 4, 3), small_data(), ["knn"], input=COLOUR, folder=tmp_path)
    with pytest.raises(ValueError, match="gives dict"):
        evaluate(lambda x: {"features": x}, small_data(), ["knn"], folder=tmp_path)


def test_the_untrained_twin_is_drawn_by_its_seed_alone():
    net = small_net()
    build = fresh_copy(net)
    state = torch.random.get_rng_state()
    first, again, second = build(0), build(0), build(1)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(first[0].weight, again[0].weight)
    assert not torch.equal(first[0].weight, second[0].weight)
    assert not torch.equal(first[0].weight, net[0].weight)


def test_weights_that_nothing_draws_anew_are_named():
    class Scaled(nn.Linear):
        pass

    module = nn.Sequential(Scaled(2, 2))
    module.register_parameter("token", nn.Parameter(torch.zeros(2)))
    with pytest.raises(ValueError, match="token can't be drawn anew .* give untrained="):
        fresh_copy(module)


def test_an_encoder_with_random_weights_has_others_for_each_seed(tmp_path, monkeypatch):
    """By name, from a folder of images, on the command line; nothing touches the network."""
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    generator = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(10):
            pixels = generator.integers(0, 256, (40, 40, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    words = ["evaluate", "torchvision:resnet18", str(tmp_path / "images"), "--protocols", "knn"]
    assert main([*words, "--seeds", "2", "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    table = pd.read_csv(tmp_path / "out" / "table.csv")
    assert list(table["encoder"]) == ["torchvision:resnet18 (random weights)"] * 2 + ["raw pixels"]
    told = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    (expects,) = told["input"].values()
    assert expects["size"] == 40 and told["encoder"]["weights"] == "random"


def test_weights_out_of_reach_are_said_with_their_file(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert main(["evaluate", "torchvision:resnet18:pretrained", "fashion"]) == 2
    told = capsys.readouterr().err
    assert "resnet18-f37072fd.pth" in told and str(tmp_path) in told and "Traceback" not in told


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("torchvison:resnet18", "did you mean 'torchvision'"),
        ("torchvision:resnet81", "did you mean 'resnet18'"),
        ("torchvision:resnet18:IMAGENET1K_V3", "did you mean 'IMAGENET1K_V1'"),
        ("no-such-run", "there is no run no-such-run"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(name, said, monkeypatch, tmp_path):
    monkeypatch.setenv("SIMLAB_RUNS", str(tmp_path))
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        open_encoder(name)


# ------------------------------------------------------------------------------- runs and files


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = PretrainConfig(
        method="simsiam proj_dim=8 pred_dim=4", epochs=1, batch_size=16, encoder="tiny",
        device="cpu", threads=1, precision="float32", log_every=0,
    )  # fmt: skip
    folder = str(tmp_path_factory.mktemp("runs"))
    return pretrain(config, small_data(), folder=folder, progress=False)


def test_a_run_has_the_knn_accuracy_of_simlab_knn(run, tmp_path):
    result = evaluate(
        run, small_data(), ["knn"], folder=tmp_path, baselines=False, device="cpu", progress=False
    )
    (row,) = result.table.to_dict("records")
    plain = knn_result(run.encoder, small_data(), row["k"], row["temperature"])
    assert row["accuracy"] == plain.accuracy and row["tested"] == plain.tested
    assert row["trained_on"] == "arrays"


def test_what_a_run_exports_is_judged_as_the_run_is_and_on_other_sets_too(run, tmp_path):
    folder = tmp_path / "exported"
    folder.mkdir()
    for name in ("encoder.pt", "encoder.json"):  # what export writes beside the program
        shutil.copy(run.folder / name, folder)
    sets = [small_data(), small_data(channels=3, size=20, seed=1, name="others")]
    options = {"seeds": 1, "device": "cpu", "progress": False}
    one = evaluate(run, sets, ["probe"], folder=tmp_path / "a", **options)
    other = evaluate(str(folder), sets, ["probe"], folder=tmp_path / "b", **options)
    columns = ["data", "accuracy", "validation", "regulariser"]
    pd.testing.assert_frame_equal(one.table[columns], other.table[columns])
    assert set(one.table["data"]) == {"arrays", "others"}


def checkpoint(folder, **changes):
    """A checkpoint of another program: more than the encoder, with a head, under other names."""
    torch.manual_seed(1)
    model = torchvision.models.resnet18(weights=None)
    state = {f"module.encoder_q.{name}": value for name, value in model.state_dict().items()}
    state["module.queue"] = torch.zeros(3)
    torch.save({"epoch": 7, "state_dict": state}, folder / "moco.pt")
    content = {
        "encoder": {"name": "torchvision:resnet18"},
        "preprocessing": COLOUR.to_dict(),
        "key": "state_dict",
        "prefix": "module.encoder_q.",
    }
    (folder / "moco.json").write_text(json.dumps(content | changes))
    return model


def test_a_checkpoint_of_another_program_is_read_by_its_json(tmp_path):
    model = checkpoint(tmp_path)
    source = open_encoder(str(tmp_path / "moco.pt"))
    weights = source.trained.state_dict()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in weights.items())
    assert source.expects == COLOUR and not any(name.startswith("fc.") for name in weights)


def test_weights_that_do_not_fit_are_named_and_none_are_left_out(tmp_path):
    checkpoint(tmp_path, prefix="module.encoder_k.")
    with pytest.raises(ValueError, match='conv1.weight is missing in the file .*"prefix"'):
        open_encoder(str(tmp_path / "moco.pt"))
    checkpoint(tmp_path, key="model")
    with pytest.raises(ValueError, match="has no 'model': it holds epoch, state_dict"):
        open_encoder(str(tmp_path / "moco.pt"))


def test_weights_need_a_json_that_says_what_they_are(tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(FileNotFoundError, match="a.pt needs a.json beside it"):
        open_encoder(tmp_path / "a.pt")
    (tmp_path / "a.json").write_text(json.dumps({"encoder": {"name": "tiny"}}))
    with pytest.raises(ValueError, match='has no "preprocessing"'):
        open_encoder(tmp_path / "a.pt")


def test_a_pickle_that_could_run_code_is_refused(tmp_path):
    checkpoint(tmp_path)
    torch.save({"state_dict": small_net()}, tmp_path / "moco.pt")
    with pytest.raises(ValueError, match="is refused"):
        stored.described_encoder(tmp_path / "moco.pt").load_into(small_net())


def test_timm_is_asked_for_with_its_preprocessing(tmp_path):
    pytest.importorskip("timm")
    source = open_encoder("timm:vit_tiny_patch16_224")
    assert source.trained is None and source.fallback_size == 224
    data = small_data()
    assert source.input_for(data).size == 224 and source.input_for(data).channels == 3
    module = source.prepared(source.first, data, torch.device("cpu"))
    assert module(torch.rand(2, 1, 12, 12)).shape == (2, 192)
    with pytest.raises(ValueError, match="did you mean"):
        open_encoder("timm:vit_tyni_patch16_224")


def test_without_timm_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ImportError, match="pip install timm"):
        open_encoder("timm:resnet18")


def test_the_result_shows_itself_in_a_notebook(judged):
    assert isinstance(judged, Evaluation) and "untrained twin" in judged._repr_html_()
    assert "probe-20" in str(judged)
