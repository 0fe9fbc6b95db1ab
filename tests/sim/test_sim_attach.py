"""SIM on a finished model, and off again."""

import ast
import math
import re
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from sim_models import (
    decorated,
)
from torch import nn
from torchvision.models.convnext import CNBlock
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.vision_transformer import EncoderBlock

import simlab.sim
from simlab.layers import contains
from simlab.sim import (
    SIM,
    attach_sim,
    compute_loss_sim,
    detach_sim,
)


def test_detaching_leaves_outputs_and_state_bit_for_bit_as_before():
    torch.manual_seed(0)
    model = torchvision.models.resnet18().eval()
    x = torch.randn(1, 3, 32, 32)
    before, keys = model(x), {k: v.clone() for k, v in model.state_dict().items()}
    attributes = {n: sorted(vars(m)) for n, m in model.named_modules()}
    names = attach_sim(model, ["layer?", "layer1.*", "", BasicBlock])  # Sequentials and root too
    assert names[0] == "" and len(names) == 1 + 4 + 8
    assert torch.equal(model(x), before)
    assert any("sim" in k for k in model.state_dict())
    assert detach_sim(model) == names
    assert torch.equal(model(x), before)
    after = model.state_dict()
    assert list(after) == list(keys) and all(torch.equal(after[k], keys[k]) for k in keys)
    assert {n: sorted(vars(m)) for n, m in model.named_modules()} == attributes
    assert not any(m._forward_hooks or m._forward_hooks_with_kwargs for m in model.modules())
    with pytest.raises(ValueError, match="nothing is attached"):
        detach_sim(model)


def test_attached_sim_is_the_decorated_one_for_equal_random_state():
    torch.manual_seed(0)
    a = decorated(lambda: nn.Conv2d(6, 9, 3, 1, 1), 6, 9)
    x = torch.randn(2, 6, 8, 8)
    a(x)
    torch.manual_seed(0)
    b = nn.Conv2d(6, 9, 3, 1, 1)
    attach_sim(b, "")
    b(torch.randn(2, 6, 8, 8))
    assert torch.equal(compute_loss_sim(a), compute_loss_sim(b))


@pytest.mark.long
def test_layers_are_chosen_by_name_glob_type_type_name_regex_or_predicate():
    def chosen(layers):
        return attach_sim(torchvision.models.resnet18(), layers)

    assert chosen("layer3.1") == ["layer3.1"]
    assert chosen("layer[12].*") == ["layer1.0", "layer1.1", "layer2.0", "layer2.1"]
    assert (
        chosen(BasicBlock)
        == chosen("BasicBlock")
        == chosen(lambda name, module: isinstance(module, BasicBlock))
        == chosen("layer?.?")
        == chosen("layer?.*")
        == chosen(re.compile(r"^layer\d\.\d$"))
    )
    assert chosen(contains("conv1")) == ["conv1", *(f"{name}.conv1" for name in chosen("layer?.*"))]
    assert "" not in chosen(["layer?", "fc"]), "only the empty name is the model itself"
    assert chosen(["layer4.0", "layer1.1"]) == ["layer1.1", "layer4.0"]


def test_nothing_matched_is_an_error_with_near_misses_that_leaves_the_model_alone():
    model = torchvision.models.resnet18()
    for wrong, hint in (
        ("layer5.0", "did you mean 'layer"),
        ("BasicBlok", "'BasicBlock'"),
        (Bottleneck, "'Bottleneck' matches nothing.*BasicBlock"),
        (["layer1.0", "laier1.1"], "'laier1.1'.*'layer1.1'"),
        ([], "empty"),
        ("stages.*", "its blocks are layer1, layer1.0,"),
        (lambda n, m: False, "lambda.*matches nothing"),
    ):
        with pytest.raises(ValueError, match=hint):
            attach_sim(model, wrong)
    with pytest.raises(TypeError, match="3 selects nothing; expected a module's name, a glob"):
        attach_sim(model, 3)
    with pytest.raises(ValueError, match="no dims can be read off 'relu'.*sample_input"):
        attach_sim(model, ["layer1.0", "relu"])
    with pytest.raises(ValueError, match="no option 'betta'.*'beta'"):
        attach_sim(model, "layer1.0", sim_cfg={"betta": 1.0})
    with pytest.raises(ValueError, match="beta=nan, expected a finite number"):
        attach_sim(model, "layer1.0", beta=math.nan)
    with pytest.raises(ValueError, match="name its children"):
        attach_sim(nn.ModuleList([nn.Linear(2, 2)]), "")
    assert not any(isinstance(m, SIM) for m in model.modules())
    attach_sim(model, "layer1.0")
    with pytest.raises(ValueError, match="'layer1.0' has SIM"):
        attach_sim(model, "layer1.?")
    assert attach_sim(model, nn.Linear) == ["fc"]  # SIM's own layers are not among the matches


def test_one_sample_input_tells_the_dims_and_leaves_no_trace():
    class Gate(nn.Module):  # its first and last layer mislead
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.Conv2d(5, 9, 1), nn.Conv2d(6, 5, 1)
            self.norm = nn.BatchNorm2d(9)

        def forward(self, x, scale):
            return self.norm(self.last(self.first(x))) * scale

    torch.manual_seed(0)
    model = Gate()
    model.norm.eval()
    sample = (torch.randn(1, 6, 3, 3), 2.0)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    attach_sim(model, "", sample_input=sample)
    assert model.sim.sim_dims == (6, 9)
    assert model.training and not model.norm.training
    assert all(torch.equal(model.state_dict()[k], v) for k, v in state.items())
    assert len(model._forward_hooks) == 1
    model(torch.randn(2, 6, 4, 4), 1.0)
    assert compute_loss_sim(model) > 0
    wrong = Gate()
    attach_sim(wrong, "")
    with pytest.raises(ValueError, match="sample_input"):
        wrong(torch.randn(2, 6, 4, 4), 1.0)
    skipping = nn.Sequential(nn.Linear(6, 6))
    skipping[0].unused = nn.Linear(6, 6)
    with pytest.raises(ValueError, match=r"no floating tensors.*\['0.unused'\]"):
        attach_sim(skipping, "0.unused", sample_input=torch.randn(2, 6))


@pytest.mark.long
def test_dims_read_off_the_modules_are_those_of_a_run():
    for name, block in (
        ("resnet50", Bottleneck),
        ("convnext_tiny", CNBlock),
        ("vit_b_16", EncoderBlock),
    ):
        with torch.device("meta"):
            a, b = (getattr(torchvision.models, name)() for _ in range(2))
            attach_sim(a, block)
            attach_sim(b, block, sample_input=torch.empty(2, 3, 224, 224))
        dims = [[m.sim_dims for m in model.modules() if isinstance(m, SIM)] for model in (a, b)]
        assert dims[0] == dims[1]


def test_parameters_take_the_blocks_device_and_dtype_and_the_optimizer_sees_them():
    model = nn.Sequential(nn.Conv2d(3, 4, 1).double(), nn.Conv2d(4, 4, 1, device="meta"))
    attach_sim(model, nn.Conv2d)
    assert {p.dtype for p in model[0].sim.parameters()} == {torch.float64}
    assert {p.device.type for p in model[1].sim.parameters()} == {"meta"}
    assert {id(p) for p in model[0].sim.parameters()} <= {id(p) for p in model.parameters()}


def test_sim_imports_torch_the_standard_library_and_layers_alone():
    package = Path(simlab.sim.__file__).parent
    absolute, beside = set(), set()
    for path in [*package.glob("*.py"), *(package.parent / "layers").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                absolute |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                absolute.add(node.module.split(".")[0])
            elif isinstance(node, ast.ImportFrom) and node.level == 2:
                beside.add(node.module)
    assert "torch" in absolute and absolute - {"torch"} <= set(sys.stdlib_module_names)
    assert beside == {"layers"}
