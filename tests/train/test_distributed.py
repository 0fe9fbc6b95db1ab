"""Several processes compute what one does, whichever way their gradients are averaged."""

import functools
import json
import os
import subprocess
import sys

import pytest
import torch
from distributed_runs import (
    FEW,
    HEADS,
    PRETRAINING,
    ROOT,
    SEEDS,
    SMALL,
    TOLERANCE,
    WORK,
    config_of,
    data,
    found_by_each,
    free_port,
    learned,
    norms,
    passed,
    python,
    torchrun,
    train,
)

from simlab.augment import RECIPES, Normalize, two_views
from simlab.compute import distributed, gradients
from simlab.config import PretrainConfig
from simlab.methods.simclr import nt_xent
from simlab.methods.simsiam import SimSiamModule
from simlab.runs import Run
from simlab.train import pretrain, untrained


@pytest.fixture(scope="module")
def forked(tmp_path_factory):
    """A folder with what two processes found and trained, and then three in small."""
    folder = tmp_path_factory.mktemp("forked")
    for processes in ("2", "3"):
        (folder / processes).mkdir()
    python(WORK, "--fork", str(folder))
    return folder


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def several(request, forked, tmp_path_factory):
    """What each of two, or three, processes found, and the folder of their runs."""
    if request.param == 2:  # those that torchrun starts are below: killed, stopped, on two machines
        folder = forked / "2"
    else:
        folder = tmp_path_factory.mktemp("several")
        torchrun(WORK, str(folder), processes=3)
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

    def views(batch, share=None):
        generator = torch.Generator().manual_seed(3)
        return two_views(batch, RECIPES[recipe], normalize, 16, generator, share)

    expected = views(images)
    shards = [views(images[i : i + 6], (i, number)) for i in range(0, number, 6)]
    for view in range(2):
        assert torch.equal(torch.cat([shard[view] for shard in shards]), expected[view])


def test_shards_of_an_epoch_do_not_overlap_and_make_up_each_batch(monkeypatch):
    order, shards = torch.randperm(48), []
    for rank in range(3):
        monkeypatch.setattr(distributed, "world", lambda: 3)
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shards.append(distributed.shard(order, 12))
    together = torch.cat([shard.view(4, 4) for shard in shards], dim=1)
    assert torch.equal(together, order.view(4, 12))


def check_batch_norm(name, outcomes):
    layer, x = norms()[name]
    one = passed(layer, x)
    shares = [outcome[name] for outcome in outcomes]
    close = {"rtol": 2e-2, "atol": 2e-2} if name == "bfloat16" else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(torch.cat([share["y"] for share in shares]), one["y"], **close)
    # each process' loss is the mean over its share of the images
    gradient = torch.cat([share["x"] for share in shares]) / len(shares)
    torch.testing.assert_close(gradient, one["x"], **close)
    for key, gradient in one["gradients"].items():
        mean = sum(share["gradients"][key] for share in shares) / len(shares)
        torch.testing.assert_close(mean, gradient, **close)
    for key, value in one["buffers"].items():
        torch.testing.assert_close(shares[0]["buffers"][key], value, **close)
        assert all(
            torch.equal(share["buffers"][key], shares[0]["buffers"][key]) for share in shares
        )


def check_negatives(outcomes):
    z = [torch.arange(36.0).sin().view(12, 3).requires_grad_() for _ in range(2)]
    nt_xent(z[0], z[1].cos()).backward()
    for view in range(2):
        together = torch.cat([outcome["gathered"][view] for outcome in outcomes])
        torch.testing.assert_close(together / len(outcomes), z[view].grad)


@pytest.mark.distributed
@pytest.mark.parametrize("name", norms())
def test_batch_norm_is_that_of_all_processes_images(name, several):
    check_batch_norm(name, several[0])


@pytest.mark.distributed
def test_simclrs_negatives_are_everybodys_and_carry_gradients(several):
    check_negatives(several[0])


# ---------------------------------------------------------------------------------------- whole runs


def check_trained_as_one(name, outcomes, folder, one):
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
        weights = [outcome[f"encoder {name}"][key] for outcome in outcomes]
        theirs = weights[0]
        assert all(torch.equal(theirs, weight) for weight in weights), key
        moved += float((value.detach() - start.get_parameter(key).detach()).square().sum())
        apart += float((value.detach() - theirs).square().sum())
    print("RATIO", name, (apart / moved) ** 0.5)
    assert moved > 0 and (apart / moved) ** 0.5 < TOLERANCE, (apart / moved) ** 0.5


@pytest.mark.distributed
@pytest.mark.parametrize("name", [*PRETRAINING, "supervised"])
def test_several_processes_train_as_one_at_the_same_batch(name, several, alone):
    check_trained_as_one(name, *several, alone(name))


@pytest.mark.distributed
def test_three_processes_do_the_same_in_small(forked, alone):
    """All the layers, the negatives and one run; the slow tests have every run."""
    folder = forked / "3"
    outcomes = found_by_each(folder)
    assert len(outcomes) == 3
    for name in norms():
        check_batch_norm(name, outcomes)
    check_negatives(outcomes)
    check_trained_as_one("simsiam", outcomes, folder, alone("simsiam"))


@pytest.mark.distributed
@pytest.mark.parametrize("several", [2], indirect=True)
def test_after_an_epoch_of_real_images_two_processes_know_as_much_as_one(several, tmp_path):
    """kNN of one seed, within the noise of 240 images. With three seeds and more images: below."""
    outcomes, folder = several
    both = Run(folder / "real" / outcomes[0]["learned"], {}).result["final"]["knn"]
    one = learned(0, tmp_path, **FEW).result["final"]["knn"]
    print("KNN", one, both)
    assert min(one, both) > 0.15, "more than guessing gives"
    assert abs(one - both) < 2 * (0.3 * 0.7 / 240) ** 0.5


@pytest.mark.slow
@pytest.mark.distributed
def test_after_training_two_processes_know_as_much_as_one(tmp_path):
    """kNN of three seeds: the means differ by less than the noise of 1,000 images and of a seed."""
    torchrun(WORK, "--learned", str(tmp_path / "both"))
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
def test_of_a_folder_larger_than_memory_the_first_process_alone_reads_the_headers(several):
    outcomes, _ = several
    streamed = [outcome["streamed"][1] for outcome in outcomes]
    assert [record["calls"] for record in streamed] == [1, *[0] * (len(outcomes) - 1)]
    in_memory = [outcome["streamed"][2**20] for outcome in outcomes]
    assert [record["calls"] for record in in_memory] == [1] * len(outcomes)
    for kind, name, threads in ((streamed, "StreamedImages", 2), (in_memory, "Images", None)):
        for record in kind:
            assert (record["type"], record["threads"]) == (name, threads)
            assert record["digest"] == kind[0]["digest"]
            assert torch.equal(record["mean"], kind[0]["mean"])


@pytest.mark.distributed
def test_the_first_process_alone_digests_what_a_run_is_made_of(several):
    outcomes, _ = several
    trainings = outcomes[0]["trainings"]
    assert [outcome["digests"] for outcome in outcomes] == [trainings, *[0] * (len(outcomes) - 1)]


@pytest.mark.distributed
def test_the_first_process_alone_writes(several):
    outcomes, folder = several
    assert [outcome["read-only simsiam"] for outcome in outcomes] == [
        False,
        *[True] * (len(outcomes) - 1),
    ]
    for log in folder.glob("*/train.log"):
        lines = log.read_text().splitlines()
        assert sum("  starts with " in line for line in lines) == 1
        assert sum("  epoch " in line for line in lines) == 2
        assert f"'processes': {len(outcomes)}" in lines[0]
    result = json.loads(next(folder.glob("pretrain-*/metrics.json")).read_text())
    assert result["environment"]["processes"] == len(outcomes)


def test_a_batch_that_can_not_be_cut_is_refused(tmp_path, monkeypatch):
    config = PretrainConfig(**SMALL | HEADS | {"accumulate": 5})
    with pytest.raises(ValueError, match=r"batch_size=12 can't be cut into 5"):
        pretrain(config, data(), folder=str(tmp_path), progress=False)
    monkeypatch.setattr(SimSiamModule, "loss", None)
    config = PretrainConfig(**SMALL | HEADS | {"accumulate": 12})
    with pytest.raises(ValueError, match="at least two images"):
        pretrain(config, data(), folder=str(tmp_path), progress=False)


@pytest.mark.parametrize(
    ("switch", "device", "is_ddp"),
    [("", "cuda", True), ("", "cpu", False), ("1", "cpu", True), ("0", "cuda", False)],
)
def test_torch_carries_the_gradients_on_gpus_or_where_the_switch_says(
    switch, device, is_ddp, monkeypatch
):
    made = []
    monkeypatch.setattr(gradients, "DistributedDataParallel", lambda *a, **k: made.append(a))
    monkeypatch.setattr(distributed, "world", lambda: 2)
    monkeypatch.setenv("SIMLAB_DDP", switch)
    gradients.data_parallel(torch.nn.Linear(1, 1), sum, torch.device(device))
    assert len(made) == is_ddp


def test_a_switch_that_says_neither_is_refused(monkeypatch):
    monkeypatch.setenv("SIMLAB_DDP", "yes")
    with pytest.raises(ValueError, match="SIMLAB_DDP='yes': expected 1 .* or 0"):
        gradients.data_parallel(torch.nn.Linear(1, 1), sum, torch.device("cpu"))


# ------------------------------------------------------------------------------- killed, elsewhere


@pytest.mark.distributed
@pytest.mark.parametrize("several", [2, pytest.param(3, marks=pytest.mark.slow)], indirect=True)
def test_a_killed_process_is_started_again_and_goes_on_from_the_last_checkpoint(
    several, tmp_path, monkeypatch
):
    """Of two processes, with torch's exchange of gradients; those never killed had our own.

    Both give the same bits: a mean of two numbers is the same in any order.
    """
    outcomes, folder = several
    monkeypatch.setenv("SIMLAB_DDP", "1" if len(outcomes) == 2 else "0")
    torchrun(WORK, "--dies", str(tmp_path), restarts=1, processes=len(outcomes))
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
             WORK, "--machine", str(tmp_path / f"of {rank}")],
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
