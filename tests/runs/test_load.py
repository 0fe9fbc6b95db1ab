"""A finished run is opened again with its encoder, or it is said why not."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from simlab.config import PretrainConfig, SupervisedConfig
from simlab.data import Dataset, from_arrays
from simlab.runs import Run, config_of, load_run
from simlab.train import pretrain, train_supervised

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


def test_a_run_with_an_encoder_of_the_users_is_refused_and_its_weights_can_be_had(tmp_path):
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 12))
    options = {"encoder": encoder, "progress": False, "folder": str(tmp_path)}
    trained = pretrain(config(), random_data(), **options)
    with pytest.raises(ValueError, match=r"custom encoder.*run.load_encoder_state\(\)"):
        load_run(trained.folder)
    encoder.load_state_dict(Run(trained.folder, {}).load_encoder_state())
    assert torch.equal(encoder[1].weight, trained.encoder[1].weight)


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
