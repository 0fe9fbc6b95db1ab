"""Sweeps of the commands that train: no notebook, real processes, GPUs dealt out."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import simlab
from simlab import cli
from simlab.sweeps import collect, find_program, parse_grid, point, sweep
from simlab.sweeps.gpus import Dealer, deal, visible_gpus
from simlab.sweeps.launchers import here, run_all

CLUSTER = Path(__file__).parents[2] / "docs" / "cluster.md"
# two steps on the images of `workplace`
TINY = ["data=images", "view_size=8", "batch_size=8", "epochs=1", "knn_k=2"]
TINY += ["device=cpu", "encoder=tiny", "threads=1"]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """The current folder, with a few images in it and a place for runs."""
    generator = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(10):
            image = generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(image).save(tmp_path / "images" / name / f"{i}.png")
    monkeypatch.setenv("SIMLAB_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def grid_of(*words: str, program: str = "pretrain") -> dict:
    return parse_grid(words, find_program(program).parameters)


# ------------------------------------------------------------------- what is refused, what is planned


@pytest.mark.parametrize(
    "program, word, says",
    [
        ("pretrain", "lrr=.1", "did you mean 'lr'"),
        ("pretrain", "lr=-1", "lr"),
        ("pretrain", "method=simsian", "did you mean 'simsiam'"),
        ("pretrain", "augment=simcrl", "did you mean 'simclr'"),
        ("pretrain", "stem=tiny", "stem"),
        ("pretrain", "epochs=1.5", "epochs"),
        ("supervised", "knn_k=5", "no parameter 'knn_k'"),
        ("pretrian", "lr=1", "did you mean 'pretrain'"),
    ],
)
def test_what_no_training_takes_is_refused_before_anything_is_written(
    program, word, says, tmp_path, capsys
):
    assert cli.main(["sweep", program, word, "seed=0:2", "--out", str(tmp_path / "out")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_notebook_takes_no_recipe_and_a_recipe_and_a_callback_have_to_exist(tmp_path, capsys):
    out = ["--out", str(tmp_path / "out"), "--dry-run"]
    assert cli.main(["sweep", "pretrain", "seed=0", "--recipe", "cifar-papr", *out]) == 2
    assert "did you mean 'cifar-paper'" in capsys.readouterr().err
    assert cli.main(["sweep", "pretrain", "seed=0", "--callback", "tensorbord", *out]) == 2
    assert "did you mean 'tensorboard'" in capsys.readouterr().err
    assert cli.main(["sweep", "book.ipynb", "seed=0", "--recipe", "cifar-paper", *out]) == 2
    assert "takes no recipe" in capsys.readouterr().err


def test_a_point_is_a_command_that_can_be_copied(tmp_path, capsys):
    words = ["method=simclr,byol", "method.proj_dim=16", "lr_encoder=-1", "seed=3", "download=true"]
    options = ["--out", str(tmp_path / "out"), "--recipe", "cifar-paper", "--dry-run"]
    assert cli.main(["sweep", "pretrain", *words, *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and f"cd {Path.cwd()} " in lines[0]
    assert (
        "-m simlab pretrain --recipe=cifar-paper '--method=simclr proj_dim=16' --lr-encoder=-1.0 "
        "--seed=3 --download" in lines[0]
    )
    table = collect(tmp_path / "out")
    assert list(table["method"]) == ["simclr proj_dim=16", "byol proj_dim=16"]
    assert set(table["batch_size"]) == {512} and set(table["status"]) == {"unfinished"}
    plan = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert "--recipe=cifar-paper" in plan["command"]
    with pytest.raises(ValueError, match="is a sweep of pretrain"):
        sweep("supervised", {"seed": 0}, tmp_path / "out", dry_run=True)
    with pytest.raises(ValueError, match="recipe of pretrain changed"):
        sweep("pretrain", {"seed": 0}, tmp_path / "out", dry_run=True)


def test_two_hundred_points_are_planned_in_a_second(tmp_path, capsys):
    point.versions()  # reads simlab's own code, once
    start = time.process_time()
    sweep("pretrain", grid_of("lr=.1,.2", "seed=0:100"), tmp_path / "out", dry_run=True)
    seconds = time.process_time() - start
    assert len(capsys.readouterr().out.splitlines()) == 200
    assert seconds < 5  # one on a quiet machine: a plan that grows with the square takes minutes


def test_one_way_of_running_is_chosen(tmp_path):
    with pytest.raises(ValueError, match="dry_run and slurm: expected one"):
        sweep("pretrain", {"seed": 0}, tmp_path / "out", dry_run=True, slurm="partition=a")


@pytest.mark.long
def test_a_scheduler_that_does_not_answer_is_named_before_anything_is_written(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("simlab.sweeps.launchers.SECONDS_FOR_A_SCHEDULER", 0.5)
    for address in ("tcp://127.0.0.1:9", "nonsense://x", 7):
        with pytest.raises(RuntimeError, match="no Dask scheduler answers"):
            sweep("pretrain", {"seed": 0}, tmp_path / "out", scheduler=address)
    assert not (tmp_path / "out").exists()


# -------------------------------------------------------------------------------------- the GPUs


def test_every_gpu_gets_its_share_of_the_points():
    assert deal(8, list("01234567")) == list("01234567")
    assert deal(5, ["2", "3"]) == ["2", "3", "2", "3", "2"]
    assert deal(2, list("0123")) == ["0", "1"]
    assert deal(3, []) == ["", "", ""]


def test_the_gpus_are_those_that_the_user_left_visible(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 3")
    assert visible_gpus() == ["2", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8932f937")
    assert visible_gpus() == ["GPU-8932f937"]
    for nothing in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", nothing)
        assert visible_gpus() == []


def task(folder: Path, name: str, **parameters) -> point.Task:
    """A point whose program stores what it sees of the environment."""
    (folder / "points").mkdir(exist_ok=True)
    (folder / "show_environment.py").write_text(
        "import json, os, pathlib, time\n"
        "time.sleep(0.3)\n"
        "gpu = os.environ.get('CUDA_VISIBLE_DEVICES')\n"
        "pathlib.Path(os.environ['SIMLAB_OUT'], 'metrics.json').write_text("
        "json.dumps({'gpu': gpu}))\n"
    )
    place = folder / "points" / name
    environment = point.environment_of(place, threads=1)
    return point.Task(str(place), "show_environment", [], str(folder), parameters, environment)


@pytest.mark.long
def test_points_that_run_at_once_see_a_gpu_each(tmp_path, monkeypatch):
    """Real processes; the GPUs need not be there, since nothing uses them."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    tasks = [task(tmp_path, f"p{i}") for i in range(4)]
    tasks.append(task(tmp_path, "chosen", device="cuda:1"))  # sees all, and takes the second
    with here(jobs=2, threads=1) as launch:
        launch(tasks)
    seen = {}
    for path in tmp_path.glob("points/*/metrics.json"):
        seen[path.parent.name] = json.loads(path.read_text())["gpu"]
    assert seen.pop("chosen") == "4,6"
    assert set(seen.values()) == {"4", "6"} and len(seen) == 4


def test_no_gpu_is_held_by_two_points_at_once(tmp_path):
    dealer = Dealer(["0", "1"])
    with (
        dealer.with_gpu(task(tmp_path, "a")) as first,
        dealer.with_gpu(task(tmp_path, "b")) as second,
    ):
        gpus = {each.environment["CUDA_VISIBLE_DEVICES"] for each in (first, second)}
        assert gpus == {"0", "1"} and dealer.free.empty()
    assert dealer.free.qsize() == 2


@pytest.mark.long
def test_a_module_beside_the_sweeps_own_files_is_not_mistaken_for_another(tmp_path, monkeypatch):
    """The process of a point doesn't see simlab/sweeps/table.py as the module `table`."""
    from concurrent.futures import ThreadPoolExecutor

    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    it = task(tmp_path, "p")
    (tmp_path / "table.py").write_text("")
    with open(tmp_path / "show_environment.py", "a") as file:
        file.write(f"import table\nassert table.__file__ == {str(tmp_path / 'table.py')!r}\n")
    with ThreadPoolExecutor(1) as executor:
        run_all(executor, point.run_point, [it])
    assert json.loads((tmp_path / "points/p/status.json").read_text())["status"] == "done"


# -------------------------------------------------------------------------------------- training

LOGGER = """
import json
import simlab

class Lines(simlab.Callback):
    def on_epoch(self, run, row):
        print("callback", json.dumps([run.name, row["epoch"]]))
"""


@pytest.mark.long
def test_a_sweep_of_pretrain_trains_and_becomes_a_table_and_a_page(workplace, capsys):
    """One real training, one that fails, and the page of what is there."""
    tmp_path = workplace
    (tmp_path / "loggers.py").write_text(LOGGER)
    # a batch of 8 can't be cut into seven parts
    command = ["sweep", "pretrain", *TINY, "accumulate=1,7", "--out", "out"]
    assert cli.main([*command, "--callback", "loggers:Lines"]) == 1
    table = collect("out").set_index("accumulate")
    assert table.loc[1, "status"] == "done" and table.loc[7, "status"] == "failed"
    assert "accumulate" in table.loc[7, "error"]
    assert 0 <= table.loc[1, "knn"] <= 1 and table.loc[1, "epoch"] == 1
    assert (tmp_path / "runs" / table.loc[1, "run"] / "encoder.pt").exists()
    log = (tmp_path / "out" / "points" / table.loc[1, "point"] / "log").read_text()
    assert f'callback ["{table.loc[1, "run"]}", 1' in log
    capsys.readouterr()
    assert cli.main(["report", "out"]) == 0
    page = (tmp_path / "out" / "report" / "index.html").read_text()
    assert "out: knn against accumulate" in page and "1 of 2 points are done" in page


@pytest.fixture
def slurm() -> None:
    """Skip the test where no Slurm answers."""
    try:
        is_here = not subprocess.run(["sinfo"], capture_output=True, timeout=20).returncode
    except (OSError, subprocess.TimeoutExpired):
        is_here = False
    if not is_here:
        pytest.skip("no Slurm answers here: docs/cluster.md sets one up")


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.usefixtures("slurm")
def test_a_slurm_array_runs_a_real_sweep_to_its_table(workplace, capsys):
    out = workplace / "a sweep"
    command = ["sweep", "pretrain", *TINY, "accumulate=1,7", "--out", str(out)]
    assert cli.main([*command, "--slurm", "time=60"]) == 0
    words = shlex.split(capsys.readouterr().out)
    assert words == ["sbatch", str(out / "slurm.sh")]
    subprocess.run([*words[:1], "--wait", *words[1:]], timeout=900, check=False)
    table = collect(out)
    assert list(table["status"]) == ["done", "failed"]
    assert table["knn"].notna().tolist() == [True, False]
    assert cli.main([*command, "--slurm", "time=60"]) == 0
    script = (out / "slurm.sh").read_text()
    assert "--array=0-0\n" in script and script.count("accumulate=7") == 1


@pytest.mark.slow
@pytest.mark.distributed
def test_two_dask_workers_run_a_real_sweep_to_its_table(workplace):
    from dask import distributed

    grid = grid_of(*TINY, "seed=0,1")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        table = sweep("pretrain", grid, workplace / "out", scheduler=cluster.scheduler_address)
    assert list(table["status"]) == ["done", "done"] and table["knn"].notna().all()


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.usefixtures("slurm")
def test_dask_workers_that_are_jobs_of_slurm_run_a_real_sweep(workplace):
    """The lines of docs/cluster.md, on a node that has neither that queue nor as much memory."""
    pytest.importorskip("dask_jobqueue")
    blocks = re.findall(r"```python\n(.*?)```", CLUSTER.read_text(encoding="utf-8"), re.DOTALL)
    (lines,) = [block for block in blocks if "SLURMCluster" in block]
    lines = lines.replace('queue="gpu"', 'job_directives_skip=["--mem"]').replace("16GB", "2GB")
    lines = lines.replace('{"seed": range(5)}', "grid")
    names = {"simlab": simlab, "grid": grid_of(*TINY, "seed=0,1")}
    try:
        exec(lines, names)
    finally:
        names["cluster"].close()
    table = collect("DIR")
    assert list(table["status"]) == ["done", "done"] and table["knn"].notna().all()


@pytest.mark.long
def test_a_point_of_an_array_runs_once(tmp_path):
    """The array's task as Slurm starts it, without Slurm: a second task for it does nothing."""
    from simlab.sweeps import array_task, slurm

    it = task(tmp_path, "it's p")
    with slurm.slurm_script(tmp_path, "partition=a,gres=gpu:1", jobs=3, threads=2) as launch:
        launch([it])
    text = (tmp_path / "slurm.sh").read_text()
    assert "#SBATCH --partition=a\n#SBATCH --gres=gpu:1\n" in text and "--array=0-0%3\n" in text
    environment = os.environ | {"SLURM_ARRAY_TASK_ID": "0"}
    path = os.pathsep.join([str(tmp_path), str(Path(cli.__file__).parents[2])])
    environment["PYTHONPATH"] = path
    script = ["bash", str(tmp_path / "slurm.sh")]
    first = subprocess.run(script, env=environment, capture_output=True, text=True)
    assert first.returncode == 0 and first.stdout == "done\n", first.stderr
    assert not first.stderr
    status = (tmp_path / "points" / "it's p" / "status.json").read_text()
    assert array_task.main(str(tmp_path), "it's p") == 0
    assert (tmp_path / "points" / "it's p" / "status.json").read_text() == status


@pytest.mark.parametrize(
    "text, lines",
    [
        ("partition=a,time=1:00:00", ["partition=a", "time=1:00:00"]),
        ("mail-type=END,FAIL,gres=gpu:1", ["mail-type=END,FAIL", "gres=gpu:1"]),
        ("exclusive=,mem=4G", ["exclusive", "mem=4G"]),
    ],
)
def test_options_of_sbatch_may_have_commas_and_may_have_no_value(text, lines):
    from simlab.sweeps.slurm import parse_options

    assert parse_options(text) == [f"#SBATCH --{line}" for line in lines]


@pytest.mark.parametrize("text", ["gpu", "array=0-3", "time=1\n#SBATCH --x=1", "a b=1", "=1"])
def test_options_that_sbatch_would_misread_are_refused(text, tmp_path):
    with pytest.raises(ValueError, match="slurm="):
        sweep("pretrain", {"seed": 0}, tmp_path / "out", slurm=text)
    assert not (tmp_path / "out").exists()


def test_a_script_for_more_points_than_an_array_has_says_so(tmp_path, capsys, monkeypatch):
    from simlab.sweeps import slurm

    monkeypatch.setattr(slurm, "LONGEST_ARRAY", 3)
    sweep("pretrain", {"seed": range(5)}, tmp_path / "out", slurm="time=10")
    assert "--array=0-2\n" in (tmp_path / "out" / "slurm.sh").read_text()
    assert "the first 3 points" in capsys.readouterr().err


def test_the_python_of_the_script_is_this_one(tmp_path, capsys):
    sweep("pretrain", {"seed": 0}, tmp_path / "out", slurm="time=10")
    assert f"exec {sys.executable} -m simlab.sweeps.array_task" in (
        (tmp_path / "out" / "slurm.sh").read_text()
    )
