"""The snippets of docs/logging.md and docs/cluster.md, run with their packages where these are there."""

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

import simlab
from simlab import cli
from simlab.sweeps import find_program, parse_grid

DOCS = Path(__file__).parent.parent / "docs"
# a run of a second in place of the default one
SMALL = 'PretrainConfig(data="emoji", view_size=8, encoder="tiny", knn_k=5, '
SMALL += 'batch_size=512, device="cpu", '


def snippets(name: str) -> dict[str, str]:
    """The Python blocks of a page, by the heading above each; the second of a heading as "A 2"."""
    blocks = {}
    for section in (DOCS / f"{name}.md").read_text(encoding="utf-8").split("\n## "):
        heading = section.splitlines()[0].removeprefix("# ")
        for i, block in enumerate(re.findall(r"```python\n(.*?)```", section, re.DOTALL), 1):
            blocks[heading if i == 1 else f"{heading} {i}"] = block
    return blocks


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("SIMLAB_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(code: str) -> dict:
    names = {"simlab": simlab}
    exec(code.replace("PretrainConfig(", SMALL), names)
    return names


@pytest.mark.slow
def test_the_first_callback_prints(here, capsys):
    run(snippets("logging")["Looking on while a run is trained"])
    assert re.search(r"^1 -?0\.\d+$", capsys.readouterr().out, re.MULTILINE)


def small_run(callback):
    config = eval(SMALL + "epochs=2)", {"PretrainConfig": simlab.PretrainConfig})
    return simlab.pretrain(config, callbacks=[callback], progress=False)


@pytest.mark.slow
def test_weights_and_biases_gets_a_run_offline(here, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    names = run(snippets("logging")["Weights & Biases"])
    trained = small_run(names["WandB"]())
    (stored,) = (here / "wandb").glob("offline-run-*/*.wandb")
    assert trained.name.encode() in stored.read_bytes()


@pytest.mark.slow
def test_mlflow_keeps_the_history_of_a_stored_run_too(here, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (here / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((here / "mlruns").as_uri())
    callback = run(snippets("logging")["MLflow"])["MLflow"]()
    for _ in range(2):
        trained = small_run(callback)
    client = mlflow.MlflowClient()
    mlflow_runs = client.search_runs(["0"])
    assert [r.info.run_name for r in mlflow_runs] == [trained.name] * 2
    for r in mlflow_runs:
        losses = client.get_metric_history(r.info.run_id, "loss")
        assert [m.value for m in losses] == pytest.approx(list(trained.history["loss"]))
        assert r.data.params["batch_size"] == "512"


@pytest.mark.slow
def test_optuna_searches(here):
    pytest.importorskip("optuna")
    assert len(run(snippets("cluster")["A search in place of a grid"])["study"].trials) == 2


def test_every_snippet_compiles_and_what_needs_gpus_is_marked_untested():
    """That of dask-jobqueue is run in tests/sweeps/test_programs.py."""
    codes = snippets("cluster")
    for section, code in codes.items():
        compile(code, section, "exec")
        assert ("# untested" in code) == ("dask_cuda" in code), section
    assert sum("dask_cuda" in code for code in codes.values()) == 1
    assert sum("dask_jobqueue" in code for code in codes.values()) == 1


def test_the_statistics_of_the_page_run(here):
    (here / "sweeps/first").mkdir(parents=True)
    rows = []
    for method in ("a", "b"):
        for lr in (0.03, 0.1):
            for seed in range(3):
                knn = lr * seed + 0.1 * seed**2
                rows.append({"method": method, "lr": lr, "seed": seed, "knn": knn})
    pd.DataFrame(rows).to_csv("sweeps/first/table.csv", index=False)
    names = {}
    exec(snippets("cluster")["A sweep"], names)
    assert {"p_holm", "sd"} <= set(names["rows"].columns) and len(names["rows"]) == 2


def commands(name: str) -> list[list[str]]:
    text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("simlab sweep")]


@pytest.mark.parametrize("line", commands("cluster"))
def test_the_sweeps_of_the_page_can_be_planned(line, here, capsys):
    words = shlex.split(line)[1:]
    if ".ipynb" in words[1]:
        words[1] = str(DOCS.parent / words[1])
    if "--scheduler" in words:
        words = words[: words.index("--scheduler")]
    if "--slurm" not in words and "--dry-run" not in words:
        words.append("--dry-run")
    words = [word for word in words if word != "--tensorboard"]  # where the package is missing
    assert cli.main(words) == 0
    printed = capsys.readouterr().out.splitlines()
    grid = [word for word in words[2:] if "=" in word and not word.startswith(("-", "partition"))]
    count = 1
    for values in parse_grid(grid, find_program(words[1]).parameters).values():
        count *= len(values)
    assert len(printed) == (1 if "--slurm" in words else count)
