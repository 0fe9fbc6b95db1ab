"""Every method runs on one interface, also those that simlab does not have: a file, a line each."""

import os
import subprocess
import sys

import pytest
import torch
from interface_runs import (
    FAMILY,
    ROOT,
    RUNS,
    SKETCHES,
    SMALL,
    STOPPED,
    UNUSUAL,
    SpareLayer,
    data,
    stop,
    train,
)
from torch import nn

from simlab import methods
from simlab.config import PretrainConfig
from simlab.evaluate import WARN_STD_RATIO, diagnose
from simlab.methods.base import (
    Crops,
    MethodModule,
    Views,
    frozen_copy,
    random_masks,
    update_teacher,
)
from simlab.runs import config_of
from simlab.sim import attach_sim
from simlab.train import build_task, load_module, loss_terms, pretrain

pytestmark = pytest.mark.long

WORK = str(ROOT / "tests" / "methods" / "interface_runs.py")


@pytest.fixture(scope="module", autouse=True)
def registry():
    with pytest.MonkeyPatch.context() as patch:
        for name, entry in SKETCHES.items():
            patch.setitem(methods.METHODS, name, entry)
        yield


def outcome(run):
    """What training left: the rows but for the time, and every stored tensor."""
    state = run.load_checkpoint()
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in state["history"]]
    return rows, state["network"]


class Alone(dict):
    """One process' runs by their names, each trained when it is first asked for."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def __missing__(self, name):
        self[name] = train(name, self.folder)
        return self[name]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return Alone(tmp_path_factory.mktemp("alone"))


@pytest.mark.parametrize("name", RUNS)
def test_it_trains_is_stored_and_is_loaded_again(name, alone):
    run = alone[name]
    assert run.finished and len(run.history) == 2
    assert {"loss", "std_ratio", "knn"} <= set(run.history)
    again = train(name, alone.folder)
    assert again.folder == run.folder
    log = (run.folder / "train.log").read_text()
    assert log.count("starts with") == 1
    weights = run.encoder.state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in again.encoder.state_dict().items())


@pytest.mark.parametrize("name", RUNS)
def test_a_stopped_run_ends_in_the_same_bits(name, alone, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(name, tmp_path, on_epoch=stop)
    rows, network = outcome(train(name, tmp_path))
    rows_of_one, network_of_one = outcome(alone[name])
    assert rows == rows_of_one
    assert network.keys() == network_of_one.keys()
    assert all(torch.equal(value, network_of_one[key]) for key, value in network.items())


def in_processes(what, folder):
    """Let processes of their own train runs into a folder."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, WORK, what, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.long
def test_a_run_that_is_killed_within_an_epoch_ends_in_the_same_bits(alone, tmp_path):
    in_processes("killed", tmp_path)
    for name in FAMILY:
        one = alone[name]
        resumed = type(one)(tmp_path / one.folder.name, {})
        assert "resumes after epoch 1" in (resumed.folder / "train.log").read_text()
        rows, network = outcome(resumed)
        rows_of_one, network_of_one = outcome(one)
        assert rows == rows_of_one
        assert all(torch.equal(value, network_of_one[key]) for key, value in network.items())


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The folder in which two processes have trained all runs, unusual ones by torch as well."""
    folder = tmp_path_factory.mktemp("together")
    in_processes("together", folder)
    return folder


@pytest.fixture(scope="module")
def others(together):
    """The same folder, once torch's exchange of gradients was tried on the other runs too."""
    in_processes("others", together)
    return together


def run_in(folder, one):
    run = type(one)(folder / one.folder.name, {})
    assert run.finished, "the same configuration is the same run"
    assert run.result["environment"]["processes"] == 2
    return run


@pytest.mark.distributed
def test_two_processes_train_as_one(alone, together):
    far = {}
    for name in RUNS:
        one = alone[name]
        two = run_in(together / "ours", one)
        for column in ("loss", "std_ratio"):
            values = one.history[column].to_numpy()
            difference = (two.history[column].to_numpy() - values) / (abs(values) + 0.1)
            # rounding, which grows with every step, to .0001 at most with AVX-512; without the
            # gather of a method that has one the first epoch differs by .02 at least
            if abs(difference[0]) > 2e-3 or abs(difference[1]) > 0.01:
                far[name, column] = difference.tolist()
        ours, theirs = (run.load_checkpoint()["network"] for run in (one, two))
        for key in ours:
            if key.endswith(("center", "rows")):  # kept from step to step, of all images
                difference = (ours[key] - theirs[key]).norm() / ours[key].norm()
                if difference > 0.05:
                    far[name, key] = float(difference)
    assert not far


def differs_by_torchs_exchange(folder, one):
    rows, network = outcome(run_in(folder / "ours", one))
    rows_of_ddp, network_of_ddp = outcome(run_in(folder / "ddp", one))
    if rows != rows_of_ddp or network.keys() != network_of_ddp.keys():
        return True
    return not all(torch.equal(network[key], network_of_ddp[key]) for key in network)


@pytest.mark.distributed
def test_torchs_exchange_of_gradients_gives_the_bits_of_ours(alone, together):
    """In two processes, since the mean of two numbers is the same in any order."""
    assert not {name for name in UNUSUAL if differs_by_torchs_exchange(together, alone[name])}
    assert (together / "ours" / "classes").read_text() == "Loss"
    assert (together / "ddp" / "classes").read_text() == "DistributedDataParallel"


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("name", [name for name in RUNS if name not in UNUSUAL])
def test_torchs_exchange_gives_the_bits_of_ours_with_the_other_methods(name, alone, others):
    assert not differs_by_torchs_exchange(others, alone[name])


@pytest.mark.distributed
def test_two_processes_with_torchs_exchange_resume_in_the_same_bits(alone, together):
    for name in STOPPED:
        rows, network = outcome(run_in(together / "ddp", alone[name]))
        stopped = run_in(together / "stopped", alone[name])
        log = (stopped.folder / "train.log").read_text()
        assert "resumes after epoch 1" in log
        rows_of_stopped, network_of_stopped = outcome(stopped)
        assert rows == rows_of_stopped
        assert all(torch.equal(network[key], network_of_stopped[key]) for key in network)


@pytest.mark.distributed
def test_what_has_no_gradient_stays_as_it_was(alone, together):
    """Weight decay included: of a layer that is left out, and of a frozen encoder."""
    spare = SpareLayer().state_dict()
    for folder in (alone.folder, together / "ours", together / "ddp"):
        one = alone["simsiam, a layer unused"]
        weights = type(one)(folder / one.folder.name, {}).load_encoder_state()
        assert torch.equal(weights["spare.weight"], spare["spare.weight"])
        assert not torch.equal(weights["conv.weight"], spare["conv.weight"])
    frozen = alone["simsiam, frozen"]
    paths = sorted((frozen.folder / "checkpoints").glob("epoch-*.pt"))
    first, *_, last = (torch.load(path, weights_only=True)["network"] for path in paths)
    encoder = [key for key in first if key.startswith("encoder.")]
    assert all(torch.equal(first[key], last[key]) for key in encoder)
    assert not torch.equal(first["predictor.0.weight"], last["predictor.0.weight"])


def test_the_terms_of_a_loss_are_recorded_and_their_sum_is_the_loss(alone):
    history = alone["the README's"].history
    torch.testing.assert_close(
        torch.tensor(history["agree"] + history["spread"]), torch.tensor(history["loss"])
    )
    with_sim = alone["byol with SIM"].history
    assert (with_sim["sim_loss"] > 0).all() and (with_sim["loss"].abs() <= 4).all()


def test_a_z_that_shrinks_behind_its_directions_is_warned_of_and_diagnosed(tmp_path, alone):
    """Of VICReg without its variance term, whose normalised z looks healthy all the way down."""

    def vicreg(**changes):
        options = SMALL | {"augment": "simsiam-cifar", "lr": 1.0, "epochs": 12} | changes
        config = PretrainConfig(**options)
        return pretrain(config, data(), folder=str(tmp_path), progress=False)

    without = vicreg(method=f"{FAMILY['vicreg']} variance=0")
    last = without.history.iloc[-1]
    assert last["std_ratio"] > WARN_STD_RATIO and last["scale_ratio"] < 0.05
    assert "and z is nearly a point" in (without.folder / "train.log").read_text()
    assert diagnose(without).kind == "complete"
    assert (without.history["loss_at_collapse"] == 0).all()
    healthy = alone["vicreg"]  # whose z is small because it has yet to grow
    assert healthy.history["scale_ratio"].iloc[0] < WARN_STD_RATIO
    assert "nearly a point" not in (healthy.folder / "train.log").read_text()
    assert diagnose(healthy).kind != "complete"
    assert "scale_ratio" not in alone["simclr"].history, "whose loss sees directions alone"


@pytest.mark.parametrize("name", ["byol", "mae"])  # with a teacher, and on a transformer
def test_a_run_exports_the_encoder_that_it_trained(name, alone, tmp_path):
    """Its weights, and the program for those who have torch alone."""
    run = alone[name]
    folder = run.export(tmp_path)
    stored = torch.load(folder / "encoder.pt", weights_only=True)
    weights = run.encoder.state_dict()
    assert stored.keys() == weights.keys()
    assert all(torch.equal(value, weights[key]) for key, value in stored.items())
    assert not any("teacher" in key or "projector" in key for key in stored)


@pytest.mark.parametrize("name", ["byol", "swav", "mae", "byol with SIM"])
def test_a_stored_module_is_loaded_with_all_that_it_keeps(name, alone):
    run = alone[name]
    module = load_module(run, data())
    stored = run.load_checkpoint()["network"]
    assert not module.training
    assert module.state_dict().keys() == stored.keys()
    assert all(torch.equal(value, stored[key]) for key, value in module.state_dict().items())
    first = load_module(run, data(), epoch=1).state_dict()
    assert any(not torch.equal(value, stored[key]) for key, value in first.items())
    with pytest.raises(ValueError, match="epoch=9: .* has checkpoints of 1, 2; keep_checkpoints"):
        load_module(run, data(), epoch=9)


def test_each_term_and_its_gradient_are_measured_at_every_checkpoint(alone):
    run = alone["vicreg"]
    state = torch.get_rng_state()
    table = loss_terms(run, data(), batches=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert table["epoch"].tolist() == [1, 1, 1, 2, 2, 2]
    assert table["term"].tolist() == ["invariance", "variance", "covariance"] * 2
    assert (table["value"] > 0).all() and (table["gradient"] > 0).all()
    (row,) = table[(table["epoch"] == 2) & (table["term"] == "variance")].itertuples()
    module = load_module(run, data()).train()
    config = config_of(run)
    task = build_task(config, data())
    views = task.views.epoch(task.seed_epoch(config, 0, torch.device("cpu")))
    values, lengths = [], []
    for _ in range(2):
        term = module.loss(next(views), torch.Generator(), 1.0)["variance"]
        values.append(float(term.detach()))
        gradients = torch.autograd.grad(term, list(module.encoder.parameters()))
        lengths.append(torch.cat([g.flatten() for g in gradients]).norm().item())
    assert row.value == pytest.approx(sum(values) / 2, rel=1e-4)
    assert row.gradient == pytest.approx(sum(lengths) / 2, rel=1e-3)


@pytest.mark.long
def test_a_teacher_is_evaluated_beside_its_student(alone):
    for name in FAMILY:
        row = alone[name].history.iloc[-1]
        has_teacher = name in ("byol", "dino", "ijepa", "moco")
        assert ("knn_teacher" in row) == has_teacher
        assert not has_teacher or 0 <= row["knn_teacher"] <= 1


def test_the_teacher_follows_after_each_step_and_never_learns(monkeypatch, alone):
    from simlab.methods.byol import BYOLModule

    calls = []
    after_step = BYOLModule.after_step

    def spy(self, progress):
        assert not torch.is_grad_enabled()
        assert all(p.grad is None for p in self.teacher_encoder.parameters())
        calls.append(progress)
        after_step(self, progress)

    monkeypatch.setattr(BYOLModule, "after_step", spy)
    train("byol in parts", alone.folder, fresh=True)
    steps = 2 * 2  # and not twice as many: a batch of two parts is one step
    assert calls == [pytest.approx((i + 1) / steps) for i in range(steps)]


def test_the_loss_gets_the_progress_of_its_step_and_the_masks_it_asked_for(monkeypatch, tmp_path):
    from sketch_masked import MaskedModule

    seen = []
    loss = MaskedModule.loss

    def spy(self, views, generator, progress):
        assert views.masks.shape == (24, 4, 4) and views.labels is None
        assert views.masks.sum((1, 2)).tolist() == [4] * 24  # a quarter of 16
        seen.append((progress, views.masks))
        return loss(self, views, generator, progress)

    monkeypatch.setattr(MaskedModule, "loss", spy)
    train("masked", tmp_path)
    assert [progress for progress, _ in seen] == [pytest.approx(i / 4) for i in range(4)]
    assert len({masks.numpy().tobytes() for _, masks in seen}) == 4


def test_a_frozen_copy_has_no_sim_and_follows_by_name():
    encoder = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sequential(nn.Conv2d(4, 4, 3)), nn.Flatten())
    attach_sim(encoder, ["1"], torch.zeros(1, 1, 8, 8))
    teacher = frozen_copy(encoder)
    plain = {name for name, _ in encoder.named_parameters() if ".sim." not in name}
    assert {name for name, _ in teacher.named_parameters()} == plain
    assert not any(p.requires_grad for p in teacher.parameters())
    with torch.no_grad():
        encoder[0].weight.add_(1.0)
    before = teacher[0].weight.clone()
    update_teacher(teacher, encoder, 0.75)
    torch.testing.assert_close(teacher[0].weight, before + 0.25)
    assert any(".sim." in name for name, _ in encoder.named_parameters())


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.6, 1.0])
def test_masks_hide_the_same_number_of_patches_of_every_image(ratio):
    masks = random_masks(50, 5, ratio, torch.Generator().manual_seed(0))
    assert masks.shape == (50, 5, 5) and masks.dtype == torch.bool
    assert masks.sum((1, 2)).tolist() == [round(ratio * 25)] * 50
    if 0 < ratio < 1:
        assert 0.3 * ratio < masks.float().mean(0).min()  # every patch may be hidden
        assert len({mask.numpy().tobytes() for mask in masks}) > 40


# ------------------------------------------------------------------------------------ what is refused


def test_what_is_no_method_is_refused(tmp_path):
    config = PretrainConfig(**SMALL)

    def start(method):
        return pretrain(config, data(), method=method, folder=str(tmp_path), progress=False)

    class Bare(methods.Method):
        weight: float = 1.0

    with pytest.raises(TypeError, match=r"method is BYOL: .* did you mean BYOL\(\)\?"):
        start(methods.BYOL)
    with pytest.raises(TypeError, match="method is dict: expected an instance of a Method"):
        start({"name": "simsiam"})
    with pytest.raises(TypeError, match="Bare is no dataclass, so that weight would be no option"):
        start(Bare())
    with pytest.raises(NotImplementedError, match="Method has no build"):
        start(methods.Method())
    with pytest.raises(ValueError, match="config.method='simclr' and method='byol': give one"):
        pretrain(PretrainConfig(method="simclr"), data(), method="byol", folder=str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_module_without_a_loss_says_so():
    module = MethodModule(nn.Flatten())
    with pytest.raises(NotImplementedError, match=r"MethodModule has no loss\(views"):
        module.loss((), torch.Generator(), 0.0)
    assert module.embed(torch.zeros(2, 1, 2, 2)).shape == (2, 4)
    assert module.after_step(1.0) is None


def test_views_are_a_tuple_with_labels_and_masks():
    views = Views([torch.zeros(2, 1, 4, 4)], labels=torch.tensor([0, 1]))
    (x,) = views
    assert x.shape == (2, 1, 4, 4) and views.labels.tolist() == [0, 1] and views.masks is None
    assert Crops() == Crops(2, "", 1.0)
