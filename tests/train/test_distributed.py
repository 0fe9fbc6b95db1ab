"""Several processes compute what one does. Run as a script by torchrun, this file is their work."""

import functools
import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import torch.nn as nn
import twins

from simlab.augment import RECIPES, Normalize, two_views
from simlab.compute import distributed
from simlab.compute.distributed import with_global_batch_norm
from simlab.config import PretrainConfig, SupervisedConfig
from simlab.data import Dataset, from_arrays, load_data
from simlab.methods.simclr import nt_xent
from simlab.methods.simsiam import SimSiamModule
from simlab.runs import Run
from simlab.train import pretrain, train_supervised, untrained
from simlab.train.launch import flags_of, launch

ROOT = Path(__file__).parents[2]
SMALL = {
    "encoder": "tiny", "view_size": 8, "epochs": 2, "batch_size": 12, "lr": 0.2, "momentum": 0.9,
    "precision": "float32", "device": "cpu", "threads": 1, "optimizer": "sgd",
}  # fmt: skip
HEADS = {
    "method": "simsiam proj_dim=16 pred_dim=8 pred_lr=2", "knn_k": 5, "monitor_every": 1,
}  # fmt: skip
SIMCLR = "simclr proj_dim=16"
PRETRAINING = {
    "simsiam": {},
    "simclr": {"method": SIMCLR},
    "accumulated": {"accumulate": 2, "method": SIMCLR, "batch_size": 24},
    # (on a map of one position SIM compares images, those of one process)
    "sim": {"sim_layers": "blocks.0", "sim_tokens": 8.0, "sim_loss": "mse"},
    "lars": {"optimizer": "lars", "lr": 20.0},
}
# float32: of the way that the weights went in ten steps, how far several processes may end from one
TOLERANCE = 5e-4  # measured: 2e-6 to 2e-5
SEEDS = range(3)
FEW = {"number": 480, "epochs": 1}


def data():
    """67 images, of which the 60 of an epoch are never quite the same, and 15 to test on."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (82, 3, 8, 8), generator=generator, dtype=torch.uint8)
    images[:, 0] //= torch.arange(82)[:, None, None] % 4 + 1  # four classes differ in their red
    labels = torch.arange(82) % 4
    return from_arrays(images[:67], labels[:67], images[67:], labels[67:])


def config_of(name):
    if name == "supervised":
        return SupervisedConfig(**SMALL)
    return PretrainConfig(**SMALL | HEADS | PRETRAINING[name])


def train(name, folder, **options):
    entry = train_supervised if name == "supervised" else pretrain
    return entry(config_of(name), data(), folder=str(folder), progress=False, **options)


def learned(seed, folder, number=2000, epochs=2):
    """The run on some of the images that come along, half as many others to test on."""
    d = load_data("fashion-scattered")
    train, test = d.train.subset(torch.arange(number)), d.test.subset(torch.arange(number // 2))
    config = PretrainConfig(
        encoder="tiny", epochs=epochs, batch_size=80, precision="float32", device="cpu", threads=1,
        monitor_every=epochs, seed=seed,
    )  # fmt: skip
    return pretrain(config, Dataset("some", train, test), folder=str(folder), progress=False)


def norms():
    """Layers of every kind, in training, and the [12, ...] that they are asked for."""
    generator = torch.Generator().manual_seed(1)
    x = 3 * torch.randn(12, 5, 4, 4, generator=generator) + 7
    layers = {
        "2d": (nn.BatchNorm2d(5), x), "1d": (nn.BatchNorm1d(5, affine=False), x[..., 0, 0]),
        "average": (nn.BatchNorm2d(5, momentum=None), x),
        "untracked": (nn.BatchNorm2d(5, track_running_stats=False), x),
        "evaluated": (nn.BatchNorm2d(5).eval(), x), "bfloat16": (nn.BatchNorm2d(5), x.bfloat16()),
    }  # fmt: skip
    for layer, _ in layers.values():
        if layer.affine:
            nn.init.normal_(layer.weight, generator=generator)
    return layers


def passed(layer, x):
    """Two passes forwards and one backwards: outputs, gradients and running statistics."""
    x = x.detach().clone().requires_grad_()
    weight = torch.linspace(-1, 1, x[0].numel()).view(x.shape[1:])
    layer(x)
    y = layer(x)
    (y.float() * weight).square().mean().backward()
    own = {name: p.grad for name, p in layer.named_parameters()}
    buffers = {name: b.clone() for name, b in layer.named_buffers()}
    return {"y": y.detach(), "x": x.grad, "own": own, "buffers": buffers}


def worker(folder, names=(*PRETRAINING, "supervised")):
    distributed.start()
    rank, own, found = distributed.rank(), distributed.rows(12), {}
    for name, (layer, x) in norms().items():
        layer = with_global_batch_norm(layer, torch.device("cpu"))
        found[name] = passed(layer, x[own])
    z = [torch.arange(36.0).view(12, 3).sin()[own].requires_grad_() for _ in range(2)]
    nt_xent(distributed.gather(z[0]), distributed.gather(z[1].cos())).backward()
    found["gathered"] = [part.grad for part in z]
    for name in names:
        run = train(name, folder)
        found[f"encoder {name}"] = run.encoder.state_dict()
        found[f"read-only {name}"] = run.read_only
    if distributed.world() == 2:
        states = twins.twin_states(folder)
        found["twins"] = states if distributed.rank() == 0 else []
        found["learned"] = learned(0, f"{folder}/real", **FEW).folder.name
    torch.save(found, f"{folder}/{rank}.pt")


def learned_with_every_seed(folder):
    distributed.start()
    for seed in SEEDS:
        learned(seed, folder)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def as_rank(rank, processes, port, folder):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(processes), "LOCAL_RANK": str(rank),
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
    if processes == 2:
        worker(folder)
    else:
        worker(folder, names=["simsiam"])


def fork(processes, folder):
    """Be the processes that torchrun would start, with one import of everything for all of them."""
    start, port = multiprocessing.get_context("fork").Process, free_port()
    ranks = [start(target=as_rank, args=(i, processes, port, folder)) for i in range(processes)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    sys.exit(any(process.exitcode for process in ranks))


def python(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "SIMLAB_RUNS": ""}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]


def torchrun(*arguments, restarts=0, processes=2):
    python("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}",
           f"--max-restarts={restarts}", *arguments)  # fmt: skip


def found_by_each(folder):
    return [torch.load(path, weights_only=True) for path in sorted(folder.glob("?.pt"))]


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def several(request, tmp_path_factory):
    """What each of two, or three, processes found, and the folder of their runs."""
    folder = tmp_path_factory.mktemp("several")
    if request.param == 2:  # those that torchrun starts are below: killed, stopped, on two machines
        python(__file__, "--fork", "2", str(folder))
    else:
        torchrun(__file__, str(folder), processes=3)
    return found_by_each(folder), folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process' run of a name, trained once."""
    folder = tmp_path_factory.mktemp("alone")
    return functools.cache(lambda name: train(name, folder))


@pytest.mark.distributed
def test_in_two_processes_twins_with_and_without_sim_are_equal_to_the_last_bit(several):
    states = several[0][0].get("twins")
    if states is None:
        pytest.skip("in two processes alone")
    for plain, with_sim in (states[:2], states[2:]):
        assert plain.keys() == with_sim.keys()
        assert all(torch.equal(plain[name], with_sim[name]) for name in plain)


def run_in(folder, one):
    return type(one)(folder / one.folder.name, {})


# ------------------------------------------------------------------------------------ the parts


@pytest.mark.parametrize("recipe", ["simsiam-imagenet", "scattered", "simclr"])
@pytest.mark.parametrize("processes", [2, 3])
def test_a_processs_views_are_the_whole_batchs(recipe, processes):
    number = 6 * processes
    images = torch.randint(0, 256, (number, 3, 24, 24), dtype=torch.uint8)
    normalize = Normalize(torch.full((3,), 0.5), torch.full((3,), 0.2))

    def views(part, share=None):
        generator = torch.Generator().manual_seed(3)
        return two_views(part, RECIPES[recipe], normalize, 16, generator, share)

    whole = views(images)
    parts = [views(images[i : i + 6], (i, number)) for i in range(0, number, 6)]
    for view in range(2):
        assert torch.equal(torch.cat([part[view] for part in parts]), whole[view])


def test_shards_of_an_epoch_do_not_overlap_and_make_up_each_batch(monkeypatch):
    order, parts = torch.randperm(48), []
    for rank in range(3):
        monkeypatch.setattr(distributed, "world", lambda: 3)
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        parts.append(distributed.shard(order, 12))
    together = torch.cat([part.view(4, 4) for part in parts], dim=1)
    assert torch.equal(together, order.view(4, 12))


def check_batch_norm(name, found):
    layer, x = norms()[name]
    one = passed(layer, x)
    parts = [own[name] for own in found]
    close = {"rtol": 2e-2, "atol": 2e-2} if name == "bfloat16" else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(torch.cat([part["y"] for part in parts]), one["y"], **close)
    # each process' loss is the mean over its share of the images
    gradient = torch.cat([part["x"] for part in parts]) / len(parts)
    torch.testing.assert_close(gradient, one["x"], **close)
    for key, gradient in one["own"].items():
        mean = sum(part["own"][key] for part in parts) / len(parts)
        torch.testing.assert_close(mean, gradient, **close)
    for key, value in one["buffers"].items():
        torch.testing.assert_close(parts[0]["buffers"][key], value, **close)
        assert all(torch.equal(part["buffers"][key], parts[0]["buffers"][key]) for part in parts)


def check_negatives(found):
    z = [torch.arange(36.0).sin().view(12, 3).requires_grad_() for _ in range(2)]
    nt_xent(z[0], z[1].cos()).backward()
    for which in range(2):
        together = torch.cat([own["gathered"][which] for own in found])
        torch.testing.assert_close(together / len(found), z[which].grad)


@pytest.mark.distributed
@pytest.mark.parametrize("name", norms())
def test_batch_norm_is_that_of_all_processes_images(name, several):
    check_batch_norm(name, several[0])


@pytest.mark.distributed
def test_simclrs_negatives_are_everybodys_and_carry_gradients(several):
    check_negatives(several[0])


# ---------------------------------------------------------------------------------------- whole runs


def check_trained_as_one(name, found, folder, one):
    together = run_in(folder, one)
    assert together.finished, "the same configuration is the same run"
    assert list(one.history.columns) == list(together.history.columns)
    for column in {"loss", "sim_loss", "std_ratio", "knn"} & set(one.history):
        # one image of the fifteen may come to lie on the other side
        close = (
            {"atol": 1 / 15 + 1e-6, "rtol": 0} if column == "knn" else {"rtol": 1e-3, "atol": 1e-4}
        )
        mine, theirs = (torch.tensor(run.history[column]) for run in (one, together))
        torch.testing.assert_close(mine, theirs, **close, msg=lambda m, c=column: f"{c}: {m}")
    start = untrained(config_of(name), data())
    moved = apart = 0.0
    for key, value in one.encoder.named_parameters():
        theirs = found[0][f"encoder {name}"][key]
        assert all(torch.equal(theirs, own[f"encoder {name}"][key]) for own in found), key
        moved += float((value.detach() - start.get_parameter(key).detach()).square().sum())
        apart += float((value.detach() - theirs).square().sum())
    print("RATIO", name, (apart / moved) ** 0.5)
    assert moved > 0 and (apart / moved) ** 0.5 < TOLERANCE, (apart / moved) ** 0.5


@pytest.mark.distributed
@pytest.mark.parametrize("name", [*PRETRAINING, "supervised"])
def test_several_processes_train_as_one_at_the_same_batch(name, several, alone):
    check_trained_as_one(name, *several, alone(name))


@pytest.mark.distributed
@pytest.mark.xdist_group("three processes")
def test_three_processes_do_the_same_in_small(tmp_path, alone):
    """All the layers, the negatives and one run; the slow tests have every run."""
    python(__file__, "--fork", "3", str(tmp_path))
    found = found_by_each(tmp_path)
    assert len(found) == 3
    for name in norms():
        check_batch_norm(name, found)
    check_negatives(found)
    check_trained_as_one("simsiam", found, tmp_path, alone("simsiam"))


@pytest.mark.distributed
@pytest.mark.parametrize("several", [2], indirect=True)
def test_after_an_epoch_of_real_images_two_processes_know_as_much_as_one(several, tmp_path):
    """kNN of one seed, within the noise of 240 images. With three seeds and more images: below."""
    found, folder = several
    both = Run(folder / "real" / found[0]["learned"], {}).result["final"]["knn"]
    one = learned(0, tmp_path, **FEW).result["final"]["knn"]
    print("KNN", one, both)
    assert min(one, both) > 0.15, "more than guessing gives"
    assert abs(one - both) < 2 * (0.3 * 0.7 / 240) ** 0.5


@pytest.mark.slow
@pytest.mark.distributed
def test_after_training_two_processes_know_as_much_as_one(tmp_path):
    """kNN of three seeds: the means differ by less than the noise of 1,000 images and of a seed."""
    torchrun(__file__, "--learned", str(tmp_path / "both"))
    both, one = (
        [learned(seed, tmp_path / name).result["final"]["knn"] for seed in SEEDS]
        for name in ("both", "one")
    )  # of both: loaded
    print("KNN", one, both)
    both, one = torch.tensor(both), torch.tensor(one)
    assert min(one.min(), both.min()) > 0.2, "twice what guessing gives"
    error = ((one.var() + both.var()) / 3).sqrt() + (0.3 * 0.7 / 1000) ** 0.5
    assert abs(one.mean() - both.mean()) < 2 * error


@pytest.mark.distributed
def test_the_first_process_alone_writes(several):
    found, folder = several
    assert [own["read-only simsiam"] for own in found] == [False, *[True] * (len(found) - 1)]
    for log in folder.glob("*/train.log"):
        lines = log.read_text().splitlines()
        assert sum("  starts with " in line for line in lines) == 1
        assert sum("  epoch " in line for line in lines) == 2
        assert f"'processes': {len(found)}" in lines[0]
    result = json.loads(next(folder.glob("pretrain-*/metrics.json")).read_text())
    assert result["environment"]["processes"] == len(found)


def test_a_batch_that_can_not_be_cut_is_refused(tmp_path, monkeypatch):
    config = PretrainConfig(**SMALL | HEADS | {"accumulate": 5})
    with pytest.raises(ValueError, match=r"batch_size=12 can't be cut into 5"):
        pretrain(config, data(), folder=str(tmp_path), progress=False)
    monkeypatch.setattr(SimSiamModule, "loss", None)
    config = PretrainConfig(**SMALL | HEADS | {"accumulate": 12})
    with pytest.raises(ValueError, match="at least two images"):
        pretrain(config, data(), folder=str(tmp_path), progress=False)


# --------------------------------------------------------------------- started from elsewhere, killed


def test_flags_say_what_differs_from_the_defaults():
    config = PretrainConfig(
        epochs=3, method="simclr proj_dim=8", sim_layers="blocks.*", download=True
    )
    assert flags_of(PretrainConfig()) == []
    assert flags_of(config) == [
        "--download", "--epochs", "3", "--sim-layers", "blocks.*", "--method", "simclr proj_dim=8",
    ]  # fmt: skip


@pytest.mark.parametrize("processes", [0, -1, 1.0, "2", True, None])
def test_a_number_of_processes_that_makes_no_sense_is_refused(processes):
    with pytest.raises(ValueError, match=f"^processes={processes!r}: expected a whole number"):
        launch(PretrainConfig(), processes)


def save_images(folder):
    from PIL import Image

    images = data().train
    for i, (image, label) in enumerate(zip(images.images, images.labels, strict=True)):
        (folder / str(int(label))).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / str(int(label)) / f"{i}.png")


@pytest.mark.distributed
def test_a_notebook_starts_processes_sees_their_progress_and_gets_their_run(tmp_path, capsys):
    save_images(tmp_path / "images")
    changes = {"data": str(tmp_path / "images"), "epochs": 1, "batch_size": 500, "accumulate": 4}
    config = PretrainConfig(**SMALL | HEADS | changes)
    with pytest.warns(UserWarning, match="batch_size=500 is more than the 5. images to train on"):
        run = launch(config, 2, folder=str(tmp_path / "runs"))
    assert run.config["batch_size"] == 48, "8 parts; one process alone would take 52"
    assert run.finished and run.result["environment"]["processes"] == 2
    assert not run.encoder.training
    assert len(list((tmp_path / "runs").glob("*/config.json"))) == 1, "one process finds it"
    assert "images" in capsys.readouterr().err, "the first process' bar"
    with pytest.raises(RuntimeError, match=r"batch_size=15 can't be cut into 1 .* x 2"):
        wrong = PretrainConfig(**SMALL | HEADS | {"data": config.data, "batch_size": 15})
        launch(wrong, 2, folder=str(tmp_path / "runs"), restarts=0)


@pytest.mark.distributed
def test_stopping_the_notebook_stops_its_processes_and_the_same_cell_goes_on(tmp_path):
    save_images(tmp_path / "images")
    runs, many = tmp_path / "runs", 40
    # a job in the background inherits that Ctrl-C is ignored; a kernel hears it
    code = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]
from test_distributed import *
config = PretrainConfig(**SMALL | HEADS | {{"data": {str(tmp_path / "images")!r}, "epochs": {many}}})
launch(config, 2, folder={str(runs)!r})"""
    kernel = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 300
    while not (found := list(runs.glob("*/checkpoints/epoch-*.pt"))) and time.monotonic() < until:
        assert kernel.poll() is None
        time.sleep(0.1)
    own = psutil.Process(kernel.pid).children(recursive=True)
    kernel.send_signal(signal.SIGINT)
    assert kernel.wait(timeout=120) != 0 and found and len(own) >= 3
    assert not psutil.wait_procs(own, timeout=60)[1], "nobody is left"
    config = PretrainConfig(**SMALL | HEADS | {"data": str(tmp_path / "images"), "epochs": many})
    run = pretrain(config, folder=str(runs), progress=False)
    log = (run.folder / "train.log").read_text()
    assert run.finished and re.search(r"resumes after epoch \d", log)


def dies_once(folder):
    """Rank 1 dies by SIGKILL in the second epoch, the first time only."""
    inner, steps, mark = SimSiamModule.loss, [], Path(folder) / "died"

    def loss(*args):
        steps.append(1)
        if len(steps) == 7 and distributed.rank() == 1 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(*args)

    SimSiamModule.loss = loss
    train("simsiam", folder, fresh=True)


@pytest.mark.distributed
@pytest.mark.parametrize("several", [2, pytest.param(3, marks=pytest.mark.slow)], indirect=True)
def test_a_killed_process_is_started_again_and_goes_on_from_the_last_checkpoint(several, tmp_path):
    found, folder = several
    torchrun(__file__, "--dies", str(tmp_path), restarts=1, processes=len(found))
    assert (tmp_path / "died").exists()
    run = next(tmp_path.glob("pretrain-*"))
    assert "resumes after epoch 1" in (run / "train.log").read_text()
    never = folder / run.name
    for row, other in zip(*((f / "metrics.csv").read_text().splitlines() for f in (run, never)),
                          strict=True):  # fmt: skip
        assert row.rsplit(",", 1)[0] == other.rsplit(",", 1)[0] or "seconds" in row
    assert (run / "encoder.pt").read_bytes() == (never / "encoder.pt").read_bytes()


@pytest.mark.distributed
@pytest.mark.xdist_group(
    "two machines"
)  # not with the other runs of `alone`: it trains one of them
def test_two_machines_train_as_one_and_the_first_alone_needs_a_runs_folder(alone, tmp_path):
    address = f"127.0.0.1:{free_port()}"
    machines = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1",
             "--local_addr=127.0.0.1", "--rdzv_backend=c10d", f"--rdzv_endpoint={address}",
             __file__, "--machine", str(tmp_path / f"of {rank}")],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )
        for rank in range(2)
    ]  # fmt: skip
    assert [machine.wait(timeout=600) for machine in machines] == [0, 0]
    one = alone("simsiam")
    runs = list(tmp_path.glob("of */pretrain-*"))
    assert [run.name for run in runs] == [one.folder.name], "one of the two wrote"
    theirs = Run(runs[0], {})
    assert theirs.result["environment"]["processes"] == 2
    mine = torch.tensor(one.history["loss"])
    torch.testing.assert_close(torch.tensor(theirs.history["loss"]), mine, rtol=1e-3, atol=1e-4)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "--dies":
        dies_once(sys.argv[2])
    elif sys.argv[1] == "--machine":
        train("simsiam", sys.argv[2])
    elif sys.argv[1] == "--learned":
        learned_with_every_seed(sys.argv[2])
    elif sys.argv[1] == "--fork":
        fork(int(sys.argv[2]), sys.argv[3])
    else:
        worker(sys.argv[1])
