"""What a run is known by: whatever may change what an encoder learns gives another digest.

Run as a script, this file prints the digests of its golden objects, for another process to compare.
"""

import functools
import importlib
import importlib.util
import json
import math
import os
import random
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.nn.utils import parametrizations

from simlab.runs import canonical, module_digest, object_digest, sources, structure_digest
from simlab.sim import attach_sim

FACTOR = 2.0


def helper(x):
    return x * FACTOR


class Net(nn.Module):
    """What the rows below change one thing of."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.power = 1
        self.register_buffer("scale", torch.ones(2), persistent=False)
        self.activation = torch.relu
        self.options = {"sizes": [1, 2]}

    def forward(self, x):
        y = self.activation(helper(self.norm(self.conv(x)))) ** self.power
        return y.mean((2, 3)) * self.scale


def net() -> Net:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return Net()


def shift(module, arguments, output):
    return output + 1


CHANGES = {
    "frozen": lambda net: net.conv.requires_grad_(False),
    "one frozen weight": lambda net: net.conv.bias.requires_grad_(False),
    "weight": lambda net: net.conv.weight.data.add_(1e-6),
    "evaluation mode": lambda net: net.norm.eval(),
    "attribute": lambda net: setattr(net, "power", 3),
    "attribute within": lambda net: net.options["sizes"].append(3),
    "new attribute": lambda net: setattr(net.conv, "extra", 1),
    "activation": lambda net: setattr(net, "activation", torch.tanh),
    "activation with arguments": lambda net: setattr(
        net, "activation", functools.partial(F.leaky_relu, negative_slope=0.2)
    ),
    "lambda": lambda net: setattr(net, "activation", lambda x: x * 2),
    "buffer": lambda net: net.norm.running_mean.add_(1e-6),
    "passing buffer": lambda net: net.scale.add_(1e-6),
    "persistence": lambda net: net._non_persistent_buffers_set.clear(),
    "forward hook": lambda net: net.norm.register_forward_hook(shift),
    "hook before": lambda net: net.norm.register_forward_pre_hook(lambda module, x: None),
    "hook on a gradient": lambda net: net.conv.weight.register_hook(lambda gradient: gradient * 2),
    "hook after a gradient": lambda net: net.conv.bias.register_post_accumulate_grad_hook(print),
    "backward hook": lambda net: net.conv.register_full_backward_hook(lambda *args: None),
    "forward of one's own": lambda net: setattr(net.norm, "forward", torch.nn.Identity().forward),
    "setting": lambda net: setattr(net.norm, "momentum", 0.2),
    "precision": lambda net: net.double(),
    "another class": lambda net: setattr(net, "norm", nn.SyncBatchNorm(2)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_may_change_the_result_changes_the_digest(change):
    changed = net()
    CHANGES[change](changed)
    assert module_digest(changed) != module_digest(net())


def test_a_digest_is_that_of_what_the_module_is():
    assert module_digest(net()) == module_digest(net())


def test_a_global_and_a_function_that_forward_uses_count(monkeypatch):
    digests = [module_digest(net())]
    with monkeypatch.context() as patched:
        patched.setitem(globals(), "FACTOR", 3.0)
        digests.append(module_digest(net()))
    with monkeypatch.context() as patched:
        patched.setitem(globals(), "helper", shift)
        digests.append(module_digest(net()))
    assert len(set(digests)) == 3 and module_digest(net()) == digests[0]


FILES = {
    "house/__init__.py": "from . import ops",
    "house/ops.py": "FACTOR = 2\ndef act(x):\n    return x * FACTOR\ndef other(x):\n    return x",
    "house/net.py": """
import house
from house import ops


def by_path(x):
    return house.ops.act(x)


def by_import(x):
    from house.ops import act

    return act(x)


def by_relative_import(x):
    from . import ops as operations

    return operations.act(x)


def by_name(x):
    return ops.act(x)
""",
}


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A package of the user's, of which an encoder uses something."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("house.net")
    for name in [name for name in sys.modules if name.partition(".")[0] == "house"]:
        del sys.modules[name]


@pytest.mark.parametrize("way", ["by_path", "by_import", "by_relative_import", "by_name"])
def test_what_is_used_of_a_package_of_the_users_counts(house, way, monkeypatch):
    function = getattr(house, way)
    digests = [object_digest(function, "f")]
    monkeypatch.setattr(house.ops, "other", helper)
    assert object_digest(function, "f") == digests[0], "it is not used"
    monkeypatch.setattr(house.ops, "FACTOR", 3)
    digests.append(object_digest(function, "f"))
    monkeypatch.setattr(house.ops, "act", helper)
    digests.append(object_digest(function, "f"))
    assert len(set(digests)) == 3


def test_a_module_of_the_users_that_is_kept_counts_with_all_that_is_in_it(house, monkeypatch):
    module = net()
    module.operations = house.ops
    before = module_digest(module)
    monkeypatch.setattr(house.ops, "FACTOR", 3)
    assert module_digest(module) != before


def transformer(**changes):
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return nn.TransformerEncoderLayer(
            **{"d_model": 8, "nhead": 1, "dim_feedforward": 8} | changes
        )


def vit(heads, dropout=0.0):
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return torchvision.models.VisionTransformer(
            8, 4, 1, heads, 8, 8, attention_dropout=dropout, num_classes=2
        )


def test_settings_that_no_weight_shows_count():
    made = [transformer(), transformer(nhead=8), transformer(norm_first=True)]
    made += [transformer(activation="gelu"), vit(1), vit(2), vit(1, dropout=0.1)]
    assert len({module_digest(module) for module in made}) == len(made)


def test_the_variables_around_a_function_count():
    def times(factor):
        return lambda x: x * factor

    def default(x, factor=2):
        return x * factor

    other_default = functools.wraps(default)(lambda x, factor=3: x * factor)
    functions = [times(2), times(3), default, other_default, math.sin, math.cos]
    functions += [lambda x: (x, [y for y in x]), lambda x: (x, [y for y in x if y])]
    assert len({object_digest(f, "f") for f in functions}) == len(functions)
    assert object_digest(times(2), "f") == object_digest(times(2), "f")


def test_of_two_lambdas_in_a_line_each_has_its_own_digest():
    # fmt: off
    one, two = [lambda x: x + 1, lambda x: x - 1]
    # fmt: on
    assert object_digest(one, "f") != object_digest(two, "f")
    assert object_digest([lambda x: x + 1][0], "f") == object_digest(one, "f")


def test_a_decorated_function_of_a_library_is_the_users():
    @functools.wraps(F.relu)
    def relu(x):
        return F.relu(x) + 1

    @torch.no_grad()
    def without_gradients(x):
        return F.relu(x) + 2

    plain = {object_digest(f, "f") for f in (F.relu, relu, without_gradients)}
    assert len(plain) == 3


def test_a_class_that_an_installed_function_makes_is_known_by_its_code(tmp_path, monkeypatch):
    """By its name and the package's version two of them would be one."""
    source = """
def make(power):
    class Power:
        def __call__(self, x):
            return x ** power
    return Power
"""
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "maker.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path / "site-packages"))
    maker = importlib.import_module("maker")
    squares, same, cubes = maker.make(2), maker.make(2), maker.make(3)
    assert object_digest(squares(), "f") == object_digest(same(), "f")
    assert object_digest(squares(), "f") != object_digest(cubes(), "f")


class Point:
    digest_ignores = ("calls",)

    def __init__(self, x):
        self.x, self.calls = x, 0

    def __call__(self, y):
        return y + self.x


def test_an_object_counts_by_its_class_and_state_and_a_stated_cache_does_not():
    point = Point(1)
    before = object_digest(point, "f")
    point.calls = 7
    assert object_digest(point, "f") == before != object_digest(Point(2), "f")
    module = net()
    module.last, type(module).digest_ignores = torch.rand(3), ("last",)
    try:
        assert module_digest(module) == module_digest(net())
    finally:
        del Net.digest_ignores


def test_values_are_told_apart_by_type_order_and_place():
    values = [
        1, 1.0, True, "1", b"1", None, -0.0, 0.0, [1, 2], [2, 1], (1, 2), {"a": 1, "b": 2},
        {"a": 2, "b": 1}, {1, 2}, {1, 3}, [[1], 2], [1, [2]], ["ab", "c"], ["a", "bc"], slice(1, 2),
        int | None, int | str, list[int], list[str], MappingProxyType({1: 2}), MappingProxyType({1: 3}),
        torch.float32, torch.device("cpu"), np.float32(1), np.ones(2), np.ones((1, 2)), torch.ones(2),
        torch.ones(2).int(), Path("a"), Path("b"), random.Random(1), random.Random(2), range(3),
        torch.Generator().manual_seed(1), torch.Generator().manual_seed(2), int, float,
    ]  # fmt: skip
    assert len({object_digest(value, "value") for value in values}) == len(values)
    shared = [1]
    assert object_digest([shared, shared], "v") != object_digest([[1], [1]], "v")
    cycle: list = []
    cycle.append(cycle)
    assert object_digest(cycle, "v") == object_digest(cycle, "v")


# ------------------------------------------------------------------ no name needed, or asked for


def old_weight_norm():
    return torch.nn.utils.weight_norm(nn.Linear(3, 4))


def with_sim():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())
    attach_sim(model, "0", torch.zeros(1, 1, 8, 8))
    return model


ORDINARY = {
    "weight_norm": (old_weight_norm, torch.ones(2, 3)),
    "parametrised": (lambda: parametrizations.weight_norm(nn.Linear(3, 4)), torch.ones(2, 3)),
    "DataParallel": (lambda: nn.DataParallel(nn.Linear(3, 4)), torch.ones(2, 3)),
    "compiled": (lambda: torch.compile(nn.Linear(3, 4), backend="eager"), torch.ones(2, 3)),
    "SIM": (with_sim, torch.ones(2, 1, 8, 8)),
}


@pytest.mark.parametrize("kind", ORDINARY)
def test_a_pass_through_an_ordinary_module_leaves_its_digest(kind):
    make, x = ORDINARY[kind]
    module = make().eval()
    before = module_digest(module)
    module(x)
    with torch.no_grad():
        module(x)
    assert module_digest(module) == before
    weight = next(module.parameters())
    weight.data.mul_(2)
    assert module_digest(module) != before


@pytest.mark.parametrize(
    "name",
    [
        "vit_b_16", "swin_t", "convnext_tiny", "efficientnet_b0", "mobilenet_v3_small",
        "densenet121", "maxvit_t", "shufflenet_v2_x0_5", "squeezenet1_0", "mnasnet0_5", "vgg11_bn",
        "resnet50",
    ],
)  # fmt: skip
def test_models_of_torchvision_need_no_name(name):
    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None)
    first = module_digest(model)
    next(model.children()).requires_grad_(False)
    assert module_digest(model) != first


@pytest.mark.skipif(not importlib.util.find_spec("timm"), reason="timm is not installed")
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("vit_tiny_patch16_224", {"num_heads": 6}),
        ("vit_tiny_patch16_224", {"global_pool": "avg"}),
        ("resnet18", {"drop_rate": 0.3}),
    ],
)
def test_models_of_timm_need_no_name(name, settings):
    import timm

    made = []
    for changes in ({}, settings):
        torch.manual_seed(0)
        made.append(timm.create_model(name, pretrained=False, num_classes=0, **changes))
    assert module_digest(made[0]) != module_digest(made[1])


@pytest.mark.skipif(not importlib.util.find_spec("transformers"), reason="no transformers")
def test_models_of_hugging_face_need_no_name():
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 8, "image_size": 8}
    made = []
    for heads in (1, 2):
        torch.manual_seed(0)
        made.append(ViTModel(ViTConfig(**sizes, patch_size=4, num_attention_heads=heads)))
    assert module_digest(made[0]) != module_digest(made[1])


def a_lock(module):
    module.lock = threading.Lock()


def an_exec(module):
    made: dict = {}
    exec("def act(x):\n    return x", made)
    module.activation = made["act"]


def a_generator(module):
    module.activation = (x for x in ())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (a_lock, "encoder.lock is a lock"),
        (an_exec, "encoder.activation is the function act, a function whose source"),
        (a_generator, "encoder.activation is the generator"),
    ],
)
def test_what_can_not_be_digested_asks_for_a_name(change, says):
    module = net()
    change(module)
    with pytest.raises(ValueError, match=f"{says}.*name="):
        module_digest(module)
    named = [module_digest(module, name) for name in ("a", "b", "a")]
    assert named[0] == named[2] != named[1]
    module.power = 3
    assert module_digest(module, "a") != named[0], "the rest still counts"


def test_a_scripted_module_asks_for_a_name():
    with pytest.raises(ValueError, match="a scripted module.*name="):
        module_digest(torch.jit.script(nn.Linear(2, 2)))


# ---------------------------------------------------------------------------- the same everywhere


def make_block(name):
    """Two classes of one qualified name, told apart by their code alone."""
    if name == "encode":

        class Block(nn.Module):
            def forward(self, x):
                return x + 1
    else:

        class Block(nn.Module):
            def forward(self, x):
                return x - 1

    return Block()


@dataclass
class Options:
    width: int = 3
    names: set = field(default_factory=lambda: {"b", "a", "c"})


def golden_function(x, *, scale=2.0):
    """Not counted."""
    # nor is this
    label = f"{x!r:>{scale}} ü {f'{FACTOR}'}end"
    return [y for y in (x, label) if y], lambda z: helper(z)


class Golden:
    limit = (1, 2.5)

    def __init__(self):
        self.options, self.functions = Options(), [golden_function, lambda x: x @ 2, math.sin]
        self.words = {"left", "right", "up", "down"}

    @property
    def width(self):
        return self.options.width

    @staticmethod
    def twice(x):
        return 2 * x


def golden_network():
    model = nn.Sequential(net(), make_block("encode"), make_block("decode"))
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.arange(weight.numel()).view_as(weight))
    return model


def golden_digests() -> dict[str, str]:
    """Digests that no process, folder or order of sets may change."""
    return {
        "function": object_digest(golden_function, "f"),
        "object": object_digest(Golden(), "f"),
        "network": module_digest(golden_network()),
    }


# The same with Python 3.11, 3.12 and 3.13. A network of torch's layers counts torch's version.
WRITTEN_DOWN = {"function": "562ae9841a7ceaa3", "object": "8c2a09bb85093438"}


def test_digests_are_those_that_were_written_down():
    assert golden_digests().items() >= WRITTEN_DOWN.items()


@pytest.mark.long
def test_digests_are_the_same_in_another_process_with_another_order_of_sets(tmp_path):
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    done = subprocess.run(
        [sys.executable, __file__], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONHASHSEED": seed},
    )  # fmt: skip
    assert json.loads(done.stdout) == golden_digests(), done.stderr


def test_a_package_counts_by_its_version(monkeypatch):
    before = module_digest(nn.Linear(2, 2).requires_grad_(False).eval().apply(zero))
    monkeypatch.setattr(sources, "package_version", lambda package: "0.0")
    assert module_digest(nn.Linear(2, 2).requires_grad_(False).eval().apply(zero)) != before
    assert sources.package_version.__name__ == "<lambda>"


def zero(module):
    for weight in module.parameters():
        weight.data.zero_()


def test_the_structure_is_that_of_any_weights_modes_and_versions(monkeypatch):
    first, second = net(), Net().eval().requires_grad_(False)
    first.conv.weight.register_hook(torch.zeros_like)
    before = structure_digest(first)
    monkeypatch.setattr(sources, "package_version", lambda package: "0.0")
    assert structure_digest(second) == before
    second.activation = torch.tanh
    assert structure_digest(second) != before


def test_the_core_needs_no_torch():
    """So that it can be tried on versions of Python for which there is no torch yet."""
    for module in (canonical, sources):
        assert "import torch" not in Path(module.__file__).read_text()


if __name__ == "__main__":
    print(json.dumps(golden_digests()))
