"""History, result and log of a run."""

from tiny_runs import (
    pretrain_config,
    random_data,
)

from simlab.train import (
    loop,
    monitor,
    pretrain,
)


def test_history_result_and_log_tell_the_same_story(run_options):
    config = pretrain_config(epochs=3, monitor_every=2, knn_k=1000)
    run = pretrain(config, random_data(), **run_options)
    history = run.history
    assert list(history["epoch"]) == [1, 2, 3]
    assert list(history["knn"].notna()) == [False, True, True]  # every second epoch, and the last
    for name in ("loss", "lr", "std", "std_ratio", "rank", "rank_ratio", "seconds"):
        assert history[name].notna().all(), name
    assert history["seconds"].is_monotonic_increasing
    result = run.result
    assert result["final"] == {
        name: value for name, value in history.iloc[-1].items() if value == value
    }
    assert result["final"]["knn_k"] == 32  # the bank has no more
    assert result["final"]["knn_temperature"] == 0.1
    assert result["seconds"] == round(result["final"]["seconds"], 1)
    assert {"python", "torch", "device", "threads"} <= set(result["environment"])
    assert run.config["precision"] == "float32"
    log = (run.folder / "train.log").read_text()
    assert "PretrainConfig(" in log and "'torch'" in log
    assert [f"epoch {e} " in log for e in (1, 2, 3, 4)] == [True, True, True, False]


def test_best_is_told_apart_from_final(monkeypatch, run_options):
    accuracies = iter([0.5, 0.9, 0.7])
    monkeypatch.setattr(monitor, "knn_accuracy", lambda *args: next(accuracies))
    result = pretrain(pretrain_config(epochs=3), random_data(), **run_options).result
    assert (result["final"]["epoch"], result["final"]["knn"]) == (3, 0.7)
    assert (result["best"]["epoch"], result["best"]["knn"]) == (2, 0.9)
    assert result["best"]["knn_k"] == 5


def test_the_progress_bar_shows_loss_and_speed(capsys, tmp_path):
    seen = []
    pretrain(
        pretrain_config(epochs=2), random_data(), folder=str(tmp_path),
        on_epoch=lambda history: seen.append(len(history)),
    )  # fmt: skip
    bar = capsys.readouterr().err
    assert "loss" in bar and "images" in bar and seen == [1, 2]


def test_a_collapse_is_warned_of(monkeypatch, run_options, capsys):
    monkeypatch.setattr(loop, "collapse_warning", lambda *args: "it collapses")
    run = pretrain(pretrain_config(), random_data(), **run_options)
    assert "it collapses" in (run.folder / "train.log").read_text()
    assert "epoch 1: it collapses" in capsys.readouterr().out
