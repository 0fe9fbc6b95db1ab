"""A run with SIM and its twin without it share whatever isn't SIM's; and SIM within a run."""

import dataclasses

import pytest
import torch
import twins
from torch import nn

from simlab.config import SupervisedConfig
from simlab.methods.simsiam import SimSiamModule
from simlab.methods.supervised import SupervisedModule
from simlab.sim import collapse
from simlab.train import build_task, resolve, train_supervised
from simlab.train.run import settled
from simlab.train.with_sim import with_sim

CPU = torch.device("cpu")


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.long
def test_with_weight_zero_twins_are_equal_to_the_last_bit_in_spite_of_dropout(tmp_path):
    states = twins.twin_states(tmp_path)
    for plain, regularised in (states[:2], states[2:]):
        assert equal(plain, regularised)
    with_heads = {name.split(".")[0] for state in states for name in state}
    assert {"classifier", "projector", "predictor"} <= with_heads


@pytest.mark.parametrize("kind", twins.KINDS)
def test_with_a_weight_above_zero_first_weights_and_all_views_are_equal(
    kind, tmp_path, monkeypatch
):
    network = SimSiamModule if kind == "simsiam" else SupervisedModule
    original = network.loss
    seen: list = []

    def spy(self, views, generator, progress):
        state = twins.without_sim(self.state_dict()) if not seen else {}
        seen.append(({name: value.clone() for name, value in state.items()}, *views))
        if views.labels is not None:
            seen.append(({}, views.labels))
        return original(self, views, generator, progress)

    monkeypatch.setattr(network, "loss", spy)
    runs = []
    for name, changes in (("plain", {}), ("sim", twins.WITH_SIM | {"sim_beta": 0.5})):
        seen.clear()
        runs.append((twins.train(kind, tmp_path / name, changes), list(seen)))
    (plain, seen_plain), (regularised, seen_regularised) = runs
    assert equal(seen_plain[0][0], seen_regularised[0][0]), "first weights"
    assert len(seen_plain) == len(seen_regularised) >= 6
    for (_, *views), (_, *others) in zip(seen_plain, seen_regularised, strict=True):
        assert all(map(torch.equal, views, others)), "views, their order, or labels"
    assert not equal(plain.encoder.state_dict(), regularised.encoder.state_dict()), "SIM trains"


@pytest.mark.long
@pytest.mark.parametrize("sampling", ["v0", "v2"])
def test_a_stopped_run_with_sim_goes_on_to_the_last_bit(sampling, tmp_path):
    changes = twins.WITH_SIM | {"sim_beta": 0.5, "sim_sampling": sampling}
    reference = twins.train("supervised", tmp_path / "reference", changes)

    def stop(history):
        if len(history) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        twins.train("supervised", tmp_path / "stopped", changes, on_epoch=stop)
    resumed = twins.train("supervised", tmp_path / "stopped", changes)
    assert "resumes after epoch 1" in (resumed.folder / "train.log").read_text()
    for run in (reference, resumed):
        assert set(run.load_checkpoint()["sim"]) == {"blocks.0", "blocks.1"}
    assert resumed.load_checkpoint()["sim"] == reference.load_checkpoint()["sim"]
    assert equal(twins.last_network(reference), twins.last_network(resumed))
    columns = ["loss", "sim_loss", "sim_collapsed"]
    assert reference.history[columns].equals(resumed.history[columns])


def test_a_collapsed_projector_is_logged_and_counted_in_the_history(tmp_path, monkeypatch, capsys):
    run = twins.train("supervised", tmp_path, twins.WITH_SIM)
    assert (run.history["sim_collapsed"] == 0).all()
    monkeypatch.setattr(collapse, "COLLAPSED_LOSS", 100.0)  # whatever it is now is so little
    monkeypatch.setattr(collapse, "COLLAPSED_COSINE", -1.0)
    run = twins.train("supervised", tmp_path / "collapsed", twins.WITH_SIM)
    assert (run.history["sim_collapsed"] == 2).all()
    said = "SIM's projector has collapsed on 'blocks.0'"
    log = (run.folder / "train.log").read_text()
    assert log.count(said) == 1, "once, and not after every epoch"
    assert said in capsys.readouterr().out


def test_the_log_names_the_blocks_and_the_warning_those_left_out(tmp_path):
    config = SupervisedConfig(**twins.SHARED | {"encoder": "tiny", "epochs": 1})
    config = dataclasses.replace(config, sim_layers="blocks.*")
    with pytest.warns(UserWarning, match="left off 2 of 3 blocks.*stays on 1: 'blocks.0'"):
        run = train_supervised(config, twins.data(), folder=str(tmp_path), progress=False)
    assert "SIM is on blocks.0\n" in (run.folder / "train.log").read_text()
    with pytest.raises(ValueError, match="every block that was chosen.*sim_small"):
        train_supervised(dataclasses.replace(config, sim_layers="blocks.2"), twins.data())


def test_sim_on_a_frozen_encoder_is_refused():
    config = twins.config_of("supervised", **twins.WITH_SIM, lr_encoder=0.0)
    with pytest.raises(ValueError, match="lr_encoder=0: a frozen encoder learns nothing from SIM"):
        with_sim(config, twins.data(), twins.encoder())


def test_the_width_of_sims_projection_is_an_option():
    config = twins.config_of("supervised", **twins.WITH_SIM, sim_hidden=20, sim_dim=12)
    data, encoder = twins.data(), twins.encoder()
    with settled(config, CPU):
        task = build_task(resolve(config, data, encoder), data, encoder=encoder)
    sim = task.network.encoder.blocks[0].sim
    widths = [layer.weight.shape for layer in sim.proj_x if isinstance(layer, nn.Linear)]
    assert widths == [(20, 1), (12, 20), (12, 12)]
