"""Sweeps over notebooks: what is run, what survives, and the table that comes out."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from small_notebooks import BODY, DEFAULTS, ENV, main, stamps, write_notebook

from simlab.stats import interval_table
from simlab.sweeps import collect, parse_grid, point, runner, sweep


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Three points run by Python, two at once, in a folder whose name needs care."""
    folder = tmp_path_factory.mktemp("sweep")
    book = write_notebook(folder / "study.ipynb")
    grid, out = {"lr": [1, 1e-05], "seed": range(2)}, folder / "it's {a} $folder"
    return book, out, grid, sweep(book, grid, out, jobs=2, threads=3)


@pytest.mark.notebook
def test_a_point_gets_typed_values_its_threads_and_the_notebooks_folder(finished):
    book, _, _, table = finished
    assert list(table["status"]) == ["done"] * 4
    got = [json.loads(text) for text in table["got"]]
    expected = [DEFAULTS | {"lr": lr, "seed": seed} for lr in (1.0, 1e-05) for seed in (0, 1)]
    assert [repr(g) for g in got] == [repr(e) for e in expected]
    assert set(table["threads"]) == {"3"} and set(table["where"]) == {str(book.parent)}


@pytest.mark.notebook
def test_the_table_has_parameters_metrics_versions_and_durations(finished):
    _, out, _, table = finished
    assert list(table["score"]) == [5.0, 6.0, 5e-05, 1.00005] and set(table["deep.rank"]) == {7.5}
    assert list(table["seed"]) == [0, 1, 0, 1] and set(table["metric.seed"]) == {99}
    assert set(table["epochs"]) == {5} and (table["duration"] > 0).all()
    assert set(table["version.python"]) == {sys.version.split()[0]}
    assert table["version.papermill"].notna().all()
    assert list(pd.read_csv(out / "table.csv")["score"]) == list(table["score"])
    plan = json.loads((out / "sweep.json").read_text())
    words = shlex.split(plan["command"])[3:5]
    assert parse_grid(words, DEFAULTS) == {"lr": [1.0, 1e-05], "seed": [0, 1]}
    names = {"parameters.json", "notebook.ipynb", "metrics.json", "status.json", "log"}
    assert all({p.name for p in folder.iterdir()} == names for folder in (out / "points").iterdir())


@pytest.mark.notebook
def test_two_jobs_run_at_the_same_time(finished):
    _, out, _, _ = finished
    states = [json.loads(path.read_text()) for path in out.glob("points/*/status.json")]
    spans = sorted((s["started"], s["started"] + s["duration"]) for s in states)
    assert spans[1][0] < spans[0][1] and len(spans) == 4
    for start, _ in spans:  # never three
        assert sum(a <= start < b - 0.2 for a, b in spans) <= 2


@pytest.mark.notebook
def test_finished_points_are_not_run_again(finished, monkeypatch):
    book, out, grid, table = finished
    versions = json.loads((out / "sweep.json").read_text())["versions"]
    monkeypatch.setattr(runner, "versions", lambda: versions)
    monkeypatch.setattr(point, "start_process", lambda task: pytest.fail(f"started {task}"))
    before = stamps(out)
    assert sweep(book, grid, out)["score"].equals(table["score"])
    assert len(sweep(book, {"lr": [1.0], "seed": 1}, out)) == 1 and len(collect(out)) == 4
    write_notebook(book, text="A better title")  # words are not code
    sweep(book, grid, out)
    assert stamps(out) == before


@pytest.mark.notebook
def test_changed_code_in_the_same_folder_is_refused(finished, monkeypatch):
    book, out, grid, _ = finished
    write_notebook(book, body=BODY + "\nprint(1)")
    with pytest.raises(ValueError, match="changed since"):
        sweep(book, grid, out)
    with pytest.raises(ValueError, match="changed since"):
        sweep(book, grid, out, dry_run=True)
    write_notebook(book)
    assert len(stamps(out)) == 4


@pytest.mark.notebook
def test_other_versions_are_warned_of(finished, monkeypatch):
    book, out, grid, _ = finished
    monkeypatch.setattr(runner, "versions", lambda: {"python": "0"})
    with pytest.warns(UserWarning, match="other versions"):
        sweep(book, grid, out)


@pytest.mark.notebook
def test_a_failed_point_is_recorded_with_its_traceback_and_the_others_go_on(tmp_path, capsys):
    body = (
        "import os\nif seed == 3: os.environ['SIMLAB_OUT'] = '.'\n"
        "if seed == 2 and not os.path.exists('mended'): os._exit(3)\n"
        f"{BODY}\nif seed == 1: 1 / 0  # its metrics are there, but do not count"
    )
    book = write_notebook(tmp_path / "a.ipynb", body=body)
    options = ["--out", str(tmp_path / "out"), "--jobs", "2"]
    assert main([str(book), "seed=0:4", *options]) == 1
    table = collect(tmp_path / "out").set_index("seed")
    assert list(table["status"]) == ["done", "failed", "failed", "failed"]
    assert table.loc[1, "error"].startswith("ZeroDivisionError: division by zero")
    assert "Kernel died" in table.loc[2, "error"] and "no metrics.json" in table.loc[3, "error"]
    assert table["score"].notna().tolist() == [True, False, False, False]
    failed = tmp_path / "out" / "points" / table.loc[1, "point"]
    assert "1 / 0" in json.loads((failed / "status.json").read_text())["traceback"]
    assert "ZeroDivisionError" in (failed / "notebook.ipynb").read_text()
    assert "failed: ZeroDivisionError" in capsys.readouterr().err
    (tmp_path / "mended").touch()  # failed points are tried again, the finished one is not
    before = stamps(tmp_path / "out")
    assert main([str(book), "seed=0,2", *options]) == 0
    again = collect(tmp_path / "out").set_index("seed")
    assert list(again["status"]) == ["done", "failed", "done", "failed"]
    after = stamps(tmp_path / "out")
    assert [after[name] == before[name] for name in again["point"]] == [True, True, False, True]


def runs(folder: Path) -> list[tuple[int, int]]:
    """Seed and kernel of every time that the notebook was run."""
    path = folder / "runs.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return [tuple(map(int, line.split())) for line in lines]


def wait(condition, seconds: float = 300):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.fixture
def start(tmp_path):
    """`simlab sweep` in a process group of its own, as a shell starts it."""
    processes = []

    def run(*words: str) -> subprocess.Popen:
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "simlab", "sweep", *words],
                env=ENV,
                cwd=tmp_path,
                text=True,
                start_new_session=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                # tests that were started in the background have it ignored, and so would this
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        )
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.notebook
def test_ctrl_c_ends_every_process_and_the_same_command_goes_on(notebook, tmp_path, start):
    folder, out = notebook.parent, tmp_path / "out"
    (folder / "slow").touch()
    process = start(str(notebook), "seed=0:3", "--out", "out")
    wait(lambda: len(runs(folder)) == 2)  # seed 0 is done, seed 1 sleeps
    with pytest.raises(RuntimeError, match="another sweep is working"):
        sweep(notebook, {"seed": range(3)}, out)
    assert list(collect(out)["status"]) == ["done", "unfinished", "unfinished"]
    kernel = runs(folder)[1][1]
    assert alive(kernel)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: everything in the group
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "the same command resumes" in errors
    wait(lambda: not alive(kernel), 20)
    assert list(collect(out)["status"]) == ["done", "unfinished", "unfinished"]
    (folder / "slow").unlink()
    before = stamps(out)
    assert main([str(notebook), "seed=0:3", "--out", str(out)]) == 0
    assert list(collect(out)["score"]) == [0.5, 1.5, 2.5]
    assert [seed for seed, _ in runs(folder)] == [0, 1, 1, 2]
    assert stamps(out).items() > before.items()


@pytest.mark.notebook
def test_a_2_x_2_sweep_survives_kill_9_and_becomes_a_table(notebook, tmp_path, start):
    folder, out = notebook.parent, tmp_path / "out"
    words = ["my books/study.ipynb", "epochs=5,10", "seed=0:2", "--out", "out", "--jobs", "2"]
    (folder / "slow").touch()
    process = start(*words)
    # both points of seed 0 come to their end, those of seed 1 sleep
    wait(lambda: len(runs(folder)) == 4 and len(stamps(out)) == 2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    kernels, before = [pid for seed, pid in runs(folder) if seed == 1], stamps(out)
    (folder / "slow").unlink()
    process = start(*words)
    printed, errors = process.communicate(timeout=1800)
    assert process.returncode == 0 and "score" in printed, errors
    assert "4 points, 2 to run" in errors and "2/2" in errors
    assert not any(map(alive, kernels))
    assert len(runs(folder)) == 6 and len(set(stamps(out))) == 4
    assert stamps(out).items() > before.items()
    table = pd.read_csv(out / "table.csv")
    assert len(table) == 4 and (table["status"] == "done").all()
    assert np.allclose(table["score"], table["epochs"] * table["lr"] + table["seed"])
    rows = interval_table(table, "epochs", "score")
    assert len(rows) == 2 and set(rows["n"]) == {2}


@pytest.mark.notebook
def test_the_dry_runs_commands_give_in_bash_what_the_sweep_gives(finished, capsys):
    book, done, _, _ = finished
    out = done.with_name("dry 'run' {b} $HOME")
    grid = {
        "lr": 1e-05,
        "seed": range(2),
        "name": "q\"' $HOME\nyes",
        "layers": [["a b", {"c": None}]],
    }
    plan = sweep(book, grid, out, threads=2, dry_run=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and list(plan["status"]) == ["unfinished"] * 2
    assert not any((out / "points").iterdir())
    subprocess.run(["bash", "-c", lines[0]], check=True, cwd="/", capture_output=True, env=ENV)
    sweep(book, grid, out, threads=2, dry_run=True)  # what is left
    assert capsys.readouterr().out.splitlines() == lines[1:]
    table = sweep(book, grid, out, threads=2)  # runs the other one itself
    assert list(table["status"]) == ["done"] * 2 and (table["duration"] > 0).all()
    got = [json.loads(text) for text in table["got"]]
    for seed in range(2):
        changes = {"lr": 1e-05, "seed": seed, "name": grid["name"], "layers": grid["layers"][0]}
        assert repr(got[seed]) == repr(DEFAULTS | changes)
    assert set(table["threads"]) == {"2"} and set(table["where"]) == {str(book.parent)}


@pytest.mark.notebook
def test_dask_runs_the_same_points_in_its_workers(tmp_path, monkeypatch):
    """A scheduler and a worker in this process; with processes of their own: the next test."""
    from dask import distributed

    monkeypatch.setattr(runner, "here", None)
    book = write_notebook(tmp_path / "a.ipynb", body=BODY + "\nif seed == 3: 1 / 0")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
    ) as cluster:
        table = sweep(book, {"seed": [1, 3]}, tmp_path / "out", scheduler=cluster.scheduler_address)
        with distributed.Client(cluster) as client:  # a Client as well, which stays open
            again = sweep(book, {"seed": [1]}, tmp_path / "out", scheduler=client)
            assert client.status == "running" and list(again["status"]) == ["done"]
    assert list(table["status"]) == ["done", "failed"] and table["score"][0] == 1.5


@pytest.mark.slow
@pytest.mark.notebook
@pytest.mark.distributed
def test_dask_runs_the_same_points_on_two_worker_processes(tmp_path):
    from dask import distributed

    body = "import psutil\n" + BODY.replace("got =", "time.sleep(2)\nif seed == 3: 1 / 0\ngot =")
    book = write_notebook(
        tmp_path / "a.ipynb",
        body=body.replace('"threads"', '"worker": psutil.Process().parents()[1].pid, "threads"'),
    )
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        table = sweep(
            book, {"seed": [0, 1, 3]}, tmp_path / "out", scheduler=cluster.scheduler_address
        )
    assert list(table["status"]) == ["done", "done", "failed"]
    assert list(table["score"][:2]) == [0.5, 1.5]
    assert len(set(table["worker"].dropna())) == 2 and os.getpid() not in set(table["worker"])
