"""SIM is never silently off: its loss is there with its graph, or somebody says why not."""

import copy
import pickle
import warnings

import pytest
import torch
from sim_models import Model, small
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock, ResNet

from simlab.sim import LossSimTracker, attach_sim, compute_loss_sim, detach_sim


class Net(nn.Module):
    """A model that its tests compile; dynamo reuses code among all of its instances."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(8, 5)

    def forward(self, x):  # [B, 3, H, W] -> [B, 5]
        return self.head(self.block(self.first(x)).mean((2, 3)))


X = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def with_sim(model=None):
    model = model or Net()
    attach_sim(model, "block")
    return model


def compiled(model):
    return torch.compile(model, backend="eager")


def expect_a_loss(model, block=lambda m: m.block):
    loss = compute_loss_sim(model)
    loss.backward()
    assert loss > 0
    assert all(p.grad is not None for p in block(model).sim.parameters())


@pytest.fixture(autouse=True)
def no_code_of_earlier_tests():
    torch._dynamo.reset()


# ------------------------------------------------------------------------------------ torch.compile


@pytest.mark.long
def test_a_compiled_model_of_the_same_class_ran_before():
    compiled(Net())(X)
    model = compiled(with_sim())
    model(X)
    expect_a_loss(model)


@pytest.mark.long
def test_a_resnet_of_the_same_class_ran_before():
    build = lambda: ResNet(BasicBlock, [1, 1, 1, 1], num_classes=4)  # noqa: E731
    x = torch.randn(2, 3, 32, 32)
    compiled(build())(x)
    model = build()
    attach_sim(model, "layer2.*")
    model = compiled(model)
    model(x)
    expect_a_loss(model, lambda m: m.layer2[0])


def test_sim_is_attached_after_a_compiled_run_in_the_model_or_in_place():
    wrapped, in_place = compiled(Net()), Net()
    in_place.compile(backend="eager")
    for model in (wrapped, in_place):
        model(X)
        attach_sim(model, "block", X)
        model(X)
        expect_a_loss(model)


def test_a_compiled_baseline_runs_between_attaching_and_the_first_run():
    model = compiled(with_sim())
    compiled(Net())(X)
    model(X)
    expect_a_loss(model)


@pytest.mark.long
def test_eval_mode_runs_first():
    model = compiled(with_sim()).eval()
    model(X)
    model.train()
    model(X)
    expect_a_loss(model)


@pytest.mark.long
def test_inner_blocks_are_compiled_with_and_without_sim():
    plain, model = Net(), Net()
    plain.block.compile(backend="eager")
    plain(X)
    with_sim(model).block.compile(backend="eager")
    model(X)
    expect_a_loss(model)
    wrapped = Net()
    wrapped.block = compiled(wrapped.block)
    wrapped(X)
    with_sim(wrapped)(X)
    expect_a_loss(wrapped)


@pytest.mark.long
def test_decorated_blocks_and_steps_that_are_compiled_as_a_whole():
    model = Model()
    compiled(model)(X)
    assert compute_loss_sim(model).requires_grad
    attached = with_sim()
    step = compiled(lambda x: attached(x).square().mean() + compute_loss_sim(attached))
    for _ in range(2):
        attached.zero_grad()
        step(X).backward()
        assert attached.block.sim.predictor[0].weight.grad.abs().sum() > 0


@pytest.mark.long
def test_copies_of_an_attached_model_are_told_from_a_compiled_baseline():
    model = with_sim()
    compiled(Net())(X)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(copied.block).__name__ == "Sequential"
        copied = compiled(copied)
        copied(X)
        expect_a_loss(copied)


def test_code_compiled_with_sim_is_not_run_by_a_model_without():
    model = compiled(with_sim())
    model(X)
    compute_loss_sim(model)
    plain = Net()
    assert torch.equal(compiled(plain)(X), plain(X))
    detach_sim(model)
    assert type(model.block) is nn.Sequential
    before = torch.random.get_rng_state()
    model(X)
    assert torch.equal(torch.random.get_rng_state(), before), "SIM still draws positions"


def test_many_models_share_compiled_code():
    torch._dynamo.utils.counters.clear()
    for _ in range(12):  # torch stops compiling after eight versions of one code
        model = compiled(with_sim())
        model(X)
        expect_a_loss(model)
    assert torch._dynamo.utils.counters["frames"]["ok"] < 12


def test_fullgraph_is_refused_with_what_to_do():
    with pytest.raises(Exception, match="(?s)SIM keeps its loss.*fullgraph=False.*detach_sim"):
        torch.compile(with_sim(), backend="eager", fullgraph=True)(X)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_scripts_are_refused_with_what_to_do_and_work_after_detaching():
    model = with_sim()
    with pytest.raises(RuntimeError, match=r"detach_sim\(model\) first"):
        torch.jit.script(model)
    detach_sim(model)
    scripted = torch.jit.script(model)
    with pytest.raises(ValueError, match="'block' is TorchScript.*made from"):
        attach_sim(scripted, "block")


# ------------------------------------------------------------------------------ blocks that never ran


def test_a_loss_taken_before_any_block_ran_is_an_error():
    model = with_sim()
    with pytest.raises(RuntimeError, match=r"no block with SIM has run yet, of \['block'\]"):
        compute_loss_sim(model)
    root = Net()
    attach_sim(root, "", X)
    root.forward(X)
    with pytest.raises(RuntimeError, match=r"model.forward\(x\) skips"):
        compute_loss_sim(root)


def test_a_block_that_never_ran_beside_others_is_named():
    model = small()
    model[0](torch.randn(2, 6, 8, 8))
    with pytest.warns(UserWarning, match=r"no part of \['1'\].*never run"):
        compute_loss_sim(model)


# ---------------------------------------------------------------------------------------- the graph


def test_reentrant_checkpointing_leaves_no_graph_and_says_so():
    class Checkpointed(Net):
        def forward(self, x):
            return checkpoint(self.block, self.first(x), use_reentrant=True)

    model = with_sim(Checkpointed())
    model(X)
    with pytest.warns(UserWarning, match=r"\['block'\] has no graph.*use_reentrant=False"):
        assert not compute_loss_sim(model).requires_grad


def test_no_graph_is_no_fault_without_gradients_or_where_all_is_frozen():
    model = with_sim()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with torch.no_grad():
            model(X)
            compute_loss_sim(model)
        model.requires_grad_(False)
        model(X)
        compute_loss_sim(model)


@pytest.mark.parametrize("build", [Model, with_sim])
def test_the_number_for_logging_refuses_to_be_trained_with(build):
    block = build()
    y = block(X)
    sim = block.block.sim if build is with_sim else block.backbone[0]
    assert sim.loss_sim.item() > 0
    with pytest.raises(RuntimeError, match=r"add compute_loss_sim\(model\) to the loss"):
        (y.mean() + sim.loss_sim).backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pickle.loads(pickle.dumps(copy.deepcopy(block)))


def test_passes_that_pile_up_are_said():
    model, x = small(), torch.randn(2, 6, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(16):
            model[0](x)
    with pytest.warns(UserWarning, match="16 forward passes.*keeps its graph.*no_grad"):
        model[0](x)
    compute_loss_sim(model[0])
    assert len(model[0]._sim_pending) == 0


def test_functional_gradients_work_and_leave_nothing_behind():
    model = with_sim()
    parameters = dict(model.named_parameters())

    def loss(parameters, x):
        y = torch.func.functional_call(model, parameters, (x[None],))
        return y.square().mean() + compute_loss_sim(model)

    per_sample = torch.func.vmap(torch.func.grad(loss), (None, 0), randomness="different")
    grads = per_sample(parameters, X)
    name = "block.sim.predictor.0.weight"
    assert grads[name].flatten(1).abs().sum(1).gt(0).all()
    assert LossSimTracker(model).report() == {}
    model(X)
    assert compute_loss_sim(model) > 0 and LossSimTracker(model).report()["block"] > 0


# --------------------------------------------------------------------------------------- collapse


def test_a_projector_that_collapsed_is_reported():
    torch.manual_seed(0)
    model = Net()
    attach_sim(model, "block", loss_type="cos")
    tracker = LossSimTracker(model)
    model(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tracker.report()["block"] > 0
    assert tracker.collapsed() == {} and tracker.collapse_warning() is None
    with torch.no_grad():  # every token onto one direction, and the predictor leaves it there
        model.block.sim.proj_x[-1].weight.mul_(1e-4)
        model.block.sim.proj_x[-1].bias.fill_(1)
        nn.init.eye_(model.block.sim.predictor[0].weight)
        nn.init.zeros_(model.block.sim.predictor[0].bias)
    model(X)
    with pytest.warns(UserWarning, match=r"collapsed on 'block' \(cosine 1.000\).*does nothing"):
        tracker.report()
    assert tracker.collapsed()["block"] > 0.99


def test_a_small_loss_of_different_projections_is_no_collapse():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False))
    nn.init.dirac_(model[0].weight)  # the identity
    attach_sim(model, "0", loss_type="mse", proj_dim=64)
    tracker = LossSimTracker(model)
    model(X)
    compute_loss_sim(model)
    with torch.no_grad():  # the prediction is the target itself
        model[0].sim.proj_x[-1].bias.zero_()
        nn.init.eye_(model[0].sim.predictor[0].weight)
        nn.init.zeros_(model[0].sim.predictor[0].bias)
        for layer in model[0].sim.proj_x[::2]:
            layer.bias.zero_()
    model(X)
    assert compute_loss_sim(model) < 1e-10 and tracker.collapsed() == {}
