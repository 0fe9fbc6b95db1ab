"""A finished run is opened again with its encoder, or it is said why not."""

import json
import re
import runpy
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from simlab.config import PretrainConfig, SupervisedConfig
from simlab.data import Dataset, from_arrays, load_data
from simlab.evaluate import features
from simlab.runs import Preprocessing, Run, config_of, load_run
from simlab.train import pretrain, train_supervised
from simlab.train import run as train

SMALL = {
    "encoder": "tiny", "view_size": 8, "epochs": 1, "batch_size": 16, "precision": "float32",
    "device": "cpu", "threads": 1,
}  # fmt: skip
METHOD = "simsiam proj_dim=16 pred_dim=8"


def config() -> PretrainConfig:
    return PretrainConfig(**SMALL, method=METHOD, knn_k=5)


def random_data(channels: int = 1) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    shape = (40, channels, 8, 8)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    labels = torch.arange(40) % 4
    return from_arrays(images[:32], labels[:32], images[32:], labels[32:])


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Run:
    """A finished run. Not to be changed."""
    folder = tmp_path_factory.mktemp("runs")
    return pretrain(config(), random_data(), progress=False, folder=str(folder))


@pytest.fixture
def copy(trained, tmp_path, monkeypatch) -> Path:
    """A copy of the run's folder, in a runs folder of its own."""
    monkeypatch.setenv("SIMLAB_RUNS", str(tmp_path))
    return Path(shutil.copytree(trained.folder, tmp_path / trained.folder.name))


def assert_same_encoder(run: Run, other: Run):
    data = random_data()
    x = data.normalize(data.test.images)
    assert not run.encoder.training
    assert torch.equal(run.encoder(x), other.encoder(x))


@pytest.mark.parametrize("device", ["cpu", "auto", "cpu:0"])
def test_a_finished_run_is_opened_by_folder_or_name_on_any_device(copy, trained, device):
    for name in (copy, str(copy), copy.name):
        run = load_run(name, device)
        assert run.folder == copy and run.finished and run.result == trained.result
        state, expected = run.encoder.state_dict(), trained.encoder.state_dict()
        assert all(torch.equal(state[key].cpu(), expected[key]) for key in expected)
    if next(run.encoder.parameters()).device.type == "cpu":
        assert_same_encoder(run, trained)


def test_a_supervised_run_is_opened_too(tmp_path):
    options = {"progress": False, "folder": str(tmp_path)}
    trained = train_supervised(SupervisedConfig(**SMALL), random_data(), **options)
    run = load_run(trained.folder, "cpu")
    assert isinstance(config_of(run), SupervisedConfig)
    assert_same_encoder(run, trained)


def test_a_run_of_colour_images_is_opened_too(tmp_path):
    trained = pretrain(config(), random_data(3), progress=False, folder=str(tmp_path))
    run = load_run(trained.folder, "cpu")
    state, expected = run.encoder.state_dict(), trained.encoder.state_dict()
    assert all(torch.equal(state[key], expected[key]) for key in expected)


def test_a_stored_configuration_is_the_one_that_was_trained(copy):
    stored = config_of(load_run(copy, "cpu"))
    assert isinstance(stored, PretrainConfig)
    assert stored.method.startswith("simsiam ") and "pred_dim=8" in stored.method
    assert (stored.encoder, stored.epochs, stored.knn_k) == ("tiny", 1, 5)


def test_opening_a_run_changes_nothing_in_its_folder(copy):
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    load_run(copy, "cpu")
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before


# -------------------------------------------------------------------------------- what is refused


def test_a_missing_run_is_named_with_the_nearest_right_one(copy):
    wrong = copy.name[:-1] + "x"
    with pytest.raises(FileNotFoundError, match=f"no run {wrong}.*did you mean '{copy.name}'"):
        load_run(wrong)


def test_an_unfinished_run_is_refused(copy):
    (copy / "metrics.json").unlink()
    with pytest.raises(ValueError, match=f"{copy} is not finished"):
        load_run(copy)


class Squashed(nn.Module):
    """An encoder of the user's, with a setting that no weight shows."""

    def __init__(self, squash=torch.relu):
        super().__init__()
        self.linear, self.squash = nn.Linear(64, 12), squash

    def forward(self, x):
        return self.squash(self.linear(x.flatten(1)))


@pytest.fixture(scope="module")
def custom(tmp_path_factory) -> Run:
    """A finished run of an encoder of the user's. Not to be changed."""
    folder = str(tmp_path_factory.mktemp("custom"))
    return pretrain(config(), random_data(), encoder=Squashed(), progress=False, folder=folder)


def test_an_encoder_of_the_users_is_asked_for_and_filled(custom):
    with pytest.raises(ValueError, match=r"custom encoder, .*Squashed.*encoder=module"):
        load_run(custom.folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = load_run(custom.folder, "cpu", encoder=Squashed().eval())
    assert_same_encoder(run, custom)


def test_an_encoder_with_other_settings_is_warned_of_and_one_that_does_not_fit_refused(custom):
    with pytest.warns(UserWarning, match="its code or settings differ"):
        load_run(custom.folder, encoder=Squashed(torch.tanh))
    with (
        pytest.warns(UserWarning),
        pytest.raises(ValueError, match="its weight 1.weight is .12, 64., and missing"),
    ):
        load_run(custom.folder, encoder=nn.Sequential(nn.Flatten(), nn.Linear(64, 12)))


# ----------------------------------------------------------- used without its dataset and elsewhere


def test_a_run_says_what_its_encoder_expects(copy):
    run, data = load_run(copy, "cpu"), random_data()
    assert run.preprocessing.mean == tuple(data.normalize.mean.tolist())
    assert (run.preprocessing.size, run.preprocessing.channels) == (8, 1)
    assert run.classes == ("0", "1", "2", "3")


def test_new_images_are_read_as_those_of_the_training_were(tmp_path):
    """Squeezed, and 16-bit values scaled by the training's range: also after JSON."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(5):
            pixels = rng.integers(0, 4096, (12, 20)).astype(np.uint16)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    data = load_data(tmp_path, image_size=8, fit="squeeze")
    written = json.loads(json.dumps(Preprocessing.of(data).to_dict()))
    expected = Preprocessing.from_dict(written)
    assert expected == Preprocessing.of(data) and expected.fit == "squeeze"
    new = expected.split(tmp_path)
    _, images = next(iter(new.batches(torch.arange(10), 10)))
    of_training = torch.cat((data.train.images, data.test.images))
    assert {x.numpy().tobytes() for x in images} == {x.numpy().tobytes() for x in of_training}


def test_features_of_images_in_any_form_are_those_of_training(copy, trained, tmp_path):
    run, data = load_run(copy, "cpu"), random_data()
    expected = features(trained.encoder, data.test)
    images = data.test.images
    (tmp_path / "images" / "a").mkdir(parents=True)
    pil = [Image.fromarray(image[0].numpy()) for image in images]
    for number, image in enumerate(pil):
        image.save(tmp_path / "images" / "a" / f"{number}.png")
    paths = sorted((tmp_path / "images" / "a").iterdir())
    forms = [
        images, images.numpy(), images[:, 0], pil, data.test, tmp_path / "images",
        str(tmp_path / "images"), paths,
    ]  # fmt: skip
    for form in forms:
        assert torch.allclose(run.encode(form), expected, atol=1e-6)
    assert torch.allclose(run.encode(pil[3]), expected[3:4], atol=1e-6)
    assert torch.allclose(run.encode(paths[3]), expected[3:4], atol=1e-6)


def test_images_of_another_size_and_in_colour_are_made_as_a_folder_s_are(copy, tmp_path):
    run = load_run(copy, "cpu")
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (3, 20, 30, 3), generator=generator, dtype=torch.uint8)
    pil = [Image.fromarray(image.numpy()) for image in x]
    for number, image in enumerate(pil):
        image.save(tmp_path / f"{number}.png")
    features_of_files = run.encode([tmp_path / f"{number}.png" for number in range(3)])
    assert torch.equal(run.encode(pil), features_of_files)
    squares = x[:, :, 5:25]
    assert torch.allclose(run.encode(squares), features_of_files, atol=1e-6)


@pytest.mark.parametrize(
    ("images", "error", "says"),
    [
        (3, TypeError, "images are a int: expected uint8"),
        ([], ValueError, "no images"),
        ([1], TypeError, "a list of paths or of PIL images"),
        ("nowhere.png", FileNotFoundError, "no image or folder nowhere.png"),
    ],
)
def test_what_is_no_image_is_refused(images, error, says, trained):
    with pytest.raises(error, match=says):
        trained.encode(images)


def test_a_run_of_another_simlab_is_opened_with_a_word(copy):
    content = json.loads((copy / "config.json").read_text())
    content["config"] |= {"colour_of_the_cat": 3}
    del content["config"]["momentum"]
    (copy / "config.json").write_text(json.dumps(content))
    run = load_run(copy, "cpu")
    with pytest.warns(UserWarning, match="colour_of_the_cat left out"):
        assert config_of(run).momentum == PretrainConfig.momentum


def test_a_run_without_encoder_json_is_opened_as_well(copy, trained):
    (copy / "encoder.json").unlink()
    run = load_run(copy, "cpu")
    assert_same_encoder(run, trained)
    with pytest.raises(ValueError, match="has no encoder.json"):
        run.encode(random_data().test)


def test_a_renamed_folder_is_the_same_run(copy, monkeypatch, capsys):
    renamed = copy.rename(copy.with_name("my first run"))
    for name in (renamed, "my first run", copy.name):
        run = load_run(name, "cpu")
        assert run.folder == renamed and run.name == copy.name
        assert torch.equal(
            run.encoder_at(1).state_dict()["stem.0.weight"],
            run.encoder.state_dict()["stem.0.weight"],
        )
    with monkeypatch.context() as patched:
        patched.setattr(train, "fit", None)
        run = pretrain(config(), random_data(), progress=False, folder=str(renamed.parent))
    assert run.folder == renamed
    output = capsys.readouterr().out
    assert output.startswith(f"loads {renamed}, trained on 20") and output.count("\n") == 1


# ----------------------------------------------------------------------------------------- exported


@pytest.mark.long
def test_an_exported_encoder_works_where_there_is_no_simlab(copy, tmp_path):
    run, data = load_run(copy, "cpu"), random_data()
    out = run.export(tmp_path / "exported")
    np.save(tmp_path / "images.npy", data.test.images.numpy())
    code = (
        "import sys, numpy, torch; sys.modules['simlab'] = None; sys.path.insert(0, 'exported');"
        "from load_encoder import encode; x = torch.from_numpy(numpy.load('images.npy'));"
        "numpy.save('features.npy', encode(x).numpy());"
        "torch.load('exported/encoder.pt', weights_only=True);"
        "assert not any(n.startswith('simlab') for n in sys.modules if sys.modules[n])"
    )
    command = [sys.executable, "-I", "-c", f"import os; os.chdir({str(tmp_path)!r}); {code}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    got = torch.from_numpy(np.load(tmp_path / "features.npy"))
    assert torch.allclose(got, run.encode(data.test), atol=1e-5)
    assert json.loads((out / "encoder.json").read_text())["classes"] == ["0", "1", "2", "3"]
    assert len((out / "load_encoder.py").read_text().splitlines()) < 25


def test_weights_are_exported_as_safetensors_where_that_is_installed(copy, tmp_path, monkeypatch):
    run = load_run(copy, "cpu")
    with pytest.raises(ValueError, match="weights='onnx': expected pt or safetensors"):
        run.export(tmp_path / "wrong", weights="onnx")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "safetensors.torch", None)
        with pytest.raises(ImportError, match="pip install safetensors"):
            run.export(tmp_path / "without", weights="safetensors")
    assert not (tmp_path / "without").exists()
    safetensors = pytest.importorskip("safetensors.torch")
    out = run.export(tmp_path / "exported", weights="safetensors")
    assert not (out / "encoder.pt").exists()
    weights = safetensors.load_file(out / "encoder.safetensors")
    state = run.encoder.state_dict()
    assert weights.keys() == state.keys()
    assert all(torch.equal(weights[name], state[name]) for name in state)


def test_the_lines_of_the_docs_make_an_onnx_file_with_the_same_features(
    trained, tmp_path, monkeypatch
):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    docs = (Path(__file__).parents[2] / "docs" / "command_line.md").read_text(encoding="utf-8")
    (lines,) = [x for x in re.findall(r"```python\n(.*?)```", docs, re.DOTALL) if "onnx" in x]
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "lines.py"
    script.write_text(lines.replace('"RUN"', repr(str(trained.folder))), encoding="utf-8")
    names = runpy.run_path(str(script), run_name="__main__")
    images = random_data().test.images
    x = names["expects"].normalize(images)  # another number of images than it was exported with
    (got,) = names["session"].run(["features"], {"images": x.numpy()})
    assert torch.allclose(torch.from_numpy(got), names["run"].encode(images), atol=1e-5)


def test_a_damaged_encoder_is_refused(copy):
    path = copy / "encoder.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"{path} is damaged"):
        load_run(copy)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"config": 1}'])
def test_a_damaged_configuration_is_refused(text, copy):
    (copy / "config.json").write_text(text)
    with pytest.raises(ValueError, match="config.json is not (valid JSON|a valid run)"):
        load_run(copy)


def test_a_device_that_is_not_there_is_refused(copy):
    with pytest.raises(ValueError, match="cuda:99"):
        load_run(copy, "cuda:99")


def test_the_encoder_of_a_run_that_was_only_found_is_asked_to_be_loaded(copy):
    with pytest.raises(ValueError, match="load_run"):
        _ = Run(copy, {}).encoder
