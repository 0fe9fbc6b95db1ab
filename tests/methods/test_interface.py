"""Methods that simlab does not have run on its interface: a file and a line each.

Run as a script by torchrun, this file is the training of its tests.
"""

import linecache
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from simlab import methods
from simlab.config import PretrainConfig
from simlab.data import from_arrays
from simlab.methods.base import (
    Crops,
    MethodModule,
    Views,
    frozen_copy,
    random_masks,
    update_teacher,
)
from simlab.sim import attach_sim
from simlab.train import pretrain

ROOT = Path(__file__).parents[2]
# the line that each of them is
SKETCHES = {
    "masked": methods.Entry("sketch_masked", "Masked", "hidden pixels are predicted"),
}
SMALL = {
    "encoder": "tiny", "view_size": 8, "epochs": 3, "batch_size": 16,
    "lr": 0.05, "precision": "float32", "device": "cpu", "threads": 1, "monitor_every": 3,
    "knn_k": 5,
}  # fmt: skip
HEADS = "hidden_dim=16 proj_dim=8"
FAMILY = {
    "barlow_twins": f"barlow_twins {HEADS}",
    "byol": f"byol {HEADS} momentum=0.5",
    "dino": "dino hidden_dim=16 bottleneck_dim=8 outputs=12 momentum=0.5 local_views=2 freeze=0.2"
    " student_temperature=0.5 teacher_temperature=0.2",
    "emp_ssl": f"emp_ssl {HEADS} views=3 weight=2",
    "lejepa": f"lejepa {HEADS} directions=16",
    "ijepa": "ijepa targets=2 predictor_width=12 predictor_depth=1 momentum=0.5",
    "mae": "mae decoder_width=12 decoder_depth=1 ratio=0.5",
    "moco": f"moco {HEADS} queue=24 momentum=0.5",
    "rotation": "rotation",
    "simclr": "simclr proj_dim=8 head_bn=hidden",
    "simmim": "simmim hidden_dim=16 patch=2",
    "swav": f"swav {HEADS} prototypes=12 local_views=1 queue=20 freeze=0.2",
    "vicreg": f"vicreg {HEADS}",
    "w_mse": "w_mse hidden_dim=16 proj_dim=2 epsilon=0.1",
}
VIT = {"encoder": "vit_tiny", "view_size": 16}  # in 4 x 4 patches
RUNS = {name: {"method": text} for name, text in FAMILY.items()} | {
    "ijepa": {"method": FAMILY["ijepa"]} | VIT,
    "mae": {"method": FAMILY["mae"]} | VIT,
    # (few standardised tokens are little more than signs: rounding would change them)
    "byol with SIM": {
        "method": FAMILY["byol"], "sim_layers": "blocks.0", "sim_tokens": 8.0, "sim_loss": "mse",
    },
    "byol in parts": {"method": FAMILY["byol"], "accumulate": 2},
    "dino in parts": {"method": FAMILY["dino"], "accumulate": 2},
    "moco in parts": {"method": FAMILY["moco"] + " symmetric=true", "accumulate": 2},
    "swav in parts": {"method": FAMILY["swav"], "accumulate": 2},
    "masked": {"method": "masked ratio=0.25"},
    "the README's": {},
    "the README's view": {"method": "simsiam proj_dim=16 pred_dim=8"},
    "the README's loss": {},
}  # fmt: skip


def data():
    """Images so uneven that a loss which loses those of the other process is another one."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (56, 3, 8, 8), generator=generator)
    brightness = torch.rand(56, 1, 1, 1, generator=generator)
    images = (images * brightness).to(torch.uint8)
    labels = torch.arange(56) % 4
    return from_arrays(images[:48], labels[:48], images[48:], labels[48:])


def of_the_readme(heading, name):
    """What a block of the README's section defines, as if it stood in a file of its own."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## A method, a view")[1]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (block,) = [text for text in blocks if heading in text]
    definitions = block.split("\nimages = load_data")[0]
    scope = {"__name__": "readme"}
    file = f"<{heading}>"
    # where inspect finds the source, as it finds that of a notebook's cell
    linecache.cache[file] = (len(definitions), None, definitions.splitlines(keepends=True), file)
    exec(compile(definitions, file, "exec"), scope)
    return scope[name]


def train(name, folder, **options):
    if name == "the README's":
        options["method"] = of_the_readme("class Spread", "Spread")(weight=2.0, dim=8)
    if name == "the README's view":
        options["augment"] = of_the_readme("def erase", "erase")
    if name == "the README's loss":
        smooth = of_the_readme("class Smooth", "SmoothSimSiam")
        options["method"] = smooth(beta=0.5, proj_dim=16, pred_dim=8)
    recipe = {} if "augment" in options else {"augment": "simsiam-cifar"}
    config = PretrainConfig(**SMALL | recipe | RUNS[name])
    return pretrain(config, data(), folder=str(folder), progress=False, **options)


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


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process' runs."""
    folder = tmp_path_factory.mktemp("alone")
    return {name: train(name, folder) for name in RUNS}


@pytest.mark.parametrize("name", RUNS)
def test_it_trains_is_stored_and_is_loaded_again(name, alone):
    run = alone[name]
    assert run.finished and len(run.history) == 3
    assert {"loss", "std_ratio", "knn"} <= set(run.history)
    again = train(name, run.folder.parent)
    assert again.folder == run.folder
    log = (run.folder / "train.log").read_text()
    assert log.count("starts with") == 1
    weights = run.encoder.state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in again.encoder.state_dict().items())


@pytest.mark.parametrize("name", RUNS)
def test_a_stopped_run_ends_in_the_same_bits(name, alone, tmp_path):
    def stop(history):
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(name, tmp_path, on_epoch=stop)
    rows, network = outcome(train(name, tmp_path))
    rows_of_one, network_of_one = outcome(alone[name])
    assert rows == rows_of_one
    assert network.keys() == network_of_one.keys()
    assert all(torch.equal(value, network_of_one[key]) for key, value in network.items())


@pytest.mark.distributed
def test_two_processes_train_as_one(alone, tmp_path):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
        __file__, str(tmp_path),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    far = {}
    for name, one in alone.items():
        together = type(one)(tmp_path / one.folder.name, {})
        assert together.finished, f"{name}: the same configuration is the same run"
        assert together.result["environment"]["processes"] == 2
        for column in ("loss", "std_ratio"):
            values = one.history[column].to_numpy()
            difference = (together.history[column].to_numpy() - values) / (abs(values) + 0.1)
            # rounding, which grows with every step; a lost gather changes far more
            if abs(difference[0]) > 2e-3 or abs(difference[1]) > 0.02:
                far[name, column] = difference.tolist()
        ours, theirs = (run.load_checkpoint()["network"] for run in (one, together))
        for key in ours:
            if key.endswith(("center", "rows")):  # kept from step to step, of all images
                difference = (ours[key] - theirs[key]).norm() / ours[key].norm()
                if difference > 0.05:
                    far[name, key] = float(difference)
    assert not far


def test_the_terms_of_a_loss_are_recorded_and_their_sum_is_the_loss(alone):
    history = alone["the README's"].history
    torch.testing.assert_close(
        torch.tensor(history["agree"] + history["spread"]), torch.tensor(history["loss"])
    )
    with_sim = alone["byol with SIM"].history
    assert (with_sim["sim_loss"] > 0).all() and (with_sim["loss"].abs() <= 4).all()


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
    train("byol in parts", alone["byol"].folder.parent, fresh=True)
    steps = 3 * 3  # and not twice as many: a batch of two parts is one step
    assert calls == [pytest.approx((i + 1) / steps) for i in range(steps)]


def test_the_loss_gets_the_progress_of_its_step_and_the_masks_it_asked_for(monkeypatch, tmp_path):
    from sketch_masked import MaskedModule

    seen = []
    loss = MaskedModule.loss

    def spy(self, views, generator, progress):
        assert views.masks.shape == (16, 4, 4) and views.labels is None
        assert views.masks.sum((1, 2)).tolist() == [4] * 16  # a quarter of 16
        seen.append((progress, views.masks))
        return loss(self, views, generator, progress)

    monkeypatch.setattr(MaskedModule, "loss", spy)
    train("masked", tmp_path)
    assert [progress for progress, _ in seen] == [pytest.approx(i / 9) for i in range(9)]
    assert len({masks.numpy().tobytes() for _, masks in seen}) == 9


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


if __name__ == "__main__":
    methods.METHODS.update(SKETCHES)
    torch.set_num_threads(1)
    for run_name in RUNS:
        train(run_name, sys.argv[1])
