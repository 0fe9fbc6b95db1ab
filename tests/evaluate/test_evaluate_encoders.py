"""The encoders of `evaluate`: libraries, runs, files, modules; and what they expect of images."""

import json
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn as nn
import torchvision
from PIL import Image
from small_encoders import COLOUR, small_data, small_net

from simlab.cli import main
from simlab.config import PretrainConfig
from simlab.evaluate import Input, evaluate, knn_result
from simlab.evaluate.bench import open_encoder, stored
from simlab.evaluate.bench.fresh import fresh_copy
from simlab.evaluate.bench.inputs import Prepared
from simlab.evaluate.bench.libraries import _input_of_transforms
from simlab.train import pretrain

pytestmark = pytest.mark.long


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
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    (expects,) = record["input"].values()
    assert expects["size"] == 40 and record["encoder"]["weights"] == "random"


def test_weights_out_of_reach_are_said_with_their_file(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert main(["evaluate", "torchvision:resnet18:pretrained", "fashion"]) == 2
    message = capsys.readouterr().err
    assert (
        "resnet18-f37072fd.pth" in message
        and str(tmp_path) in message
        and "Traceback" not in message
    )


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
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match="pip install timm"):
        open_encoder("timm:resnet18")
