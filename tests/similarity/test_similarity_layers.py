"""Choosing layers, and watching them without leaving a trace in the model."""

import re

import pytest
import torch
import torchvision
from torch import nn

from simlab.layers import SamplesAsTimeError, contains, select_layers, tapped, unwrap
from simlab.similarity import preview


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 5)
        self.spare = nn.Linear(2, 2)

    def forward(self, x):
        x = self.relu(self.conv1(x))
        x = self.relu(x + self.block(x))
        return self.head(self.drop(x).mean((2, 3)))


def names_of(model, layers=None, **options):
    return list(select_layers(model, layers, **options))


def watch(model, names, x, **options):
    seen = {}
    with tapped(
        model, names, lambda name, _, out, axes: seen.update({name: out}), **options
    ) as forward:
        forward(x)
    return seen


@pytest.mark.parametrize(
    "spec, names",
    [
        ("conv1", ["conv1"]),
        ("block", ["block"]),
        ("Conv2d", ["conv1", "block.0"]),
        ("block.*", ["block.0", "block.1"]),
        ("b*.?", ["block.0", "block.1"]),
        (nn.Conv2d, ["conv1", "block.0"]),
        ([nn.Linear, "conv1"], ["conv1", "head", "spare"]),
        (contains("o"), ["conv1", "block", "block.0", "block.1", "drop"]),
        (re.compile(r"\.\d$"), ["block.0", "block.1"]),
        (lambda name, module: getattr(module, "out_features", 0) == 5, ["head"]),
        (None, ["conv1", "block.0", "head", "spare"]),
    ],
)
def test_layers_are_chosen_by_name_glob_type_substring_regex_or_predicate(spec, names):
    assert names_of(Net(), spec) == names


@pytest.mark.parametrize(
    "spec, near",
    [
        ("conv2", "conv1"),
        ("hed", "head"),
        ("block.?x", "block"),
        (contains("cnov1"), "conv1"),
        (nn.LSTM, "Conv2d"),
        (re.compile("^con1$"), "conv1"),
        ("blo", r'contains\("blo"\)'),
        (["conv1", "haed"], "head"),
    ],
)
def test_what_matches_nothing_is_an_error_with_the_nearest_names(spec, near):
    with pytest.raises(ValueError, match=near):
        names_of(Net(), spec)


def test_impossible_selectors_are_refused():
    with pytest.raises(TypeError, match="3 selects nothing; expected a module's name, a glob"):
        names_of(Net(), [3])
    net = Net()
    with pytest.raises(TypeError, match="got a module, a Sequential: give its name, 'block'"):
        names_of(net, net.block)
    with pytest.raises(ValueError, match="empty"):
        names_of(net, [])
    with pytest.raises(ValueError, match="lambda.* matches nothing in this Net.*blocks are block"):
        names_of(net, lambda name, module: False)


def test_a_glob_stops_at_a_dot_and_never_means_the_model_itself():
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    resnet = torchvision.models.resnet18()
    assert names_of(resnet, "layer?.*") == names_of(resnet, "BasicBlock") == blocks
    assert names_of(resnet, "module.layer?.*") == blocks  # as it is called in a wrapper
    assert names_of(Net(), "*") == ["conv1", "block", "relu", "drop", "head", "spare"]
    assert "" not in names_of(Net(), re.compile(""))


def test_the_model_itself_is_chosen_by_its_name_its_type_or_a_predicate():
    for spec in ("", Net, "Net", lambda name, module: name == ""):
        assert names_of(Net(), spec) == [""]


def test_a_child_called_module_is_no_wrapper():
    net = nn.Sequential()
    net.module = Net()
    assert names_of(net, "module.block.?") == ["module.block.0", "module.block.1"]
    assert "module" not in names_of(net, "module.*")


def test_excluded_modules_are_never_chosen():
    def in_block(name, module):
        return name.startswith("block")

    assert names_of(Net(), nn.Conv2d, exclude=in_block) == ["conv1"]
    assert names_of(Net(), exclude=in_block) == ["conv1", "head", "spare"]
    with pytest.raises(ValueError, match="'block.0' matches nothing"):
        names_of(Net(), "block.0", exclude=in_block)


def test_a_model_that_is_one_layer_can_be_watched():
    assert names_of(nn.Linear(2, 3)) == [""]


def test_a_module_registered_twice_has_one_row():
    net = Net()
    net.alias = net.conv1
    assert names_of(net, ["alias", "conv1"]) == ["conv1"]
    assert names_of(net, "alias") == ["alias"]


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        lambda m: torch.compile(m, backend="eager"),
        lambda m: nn.DataParallel(torch.compile(m, backend="eager")),
    ],
)
def test_wrappers_are_looked_through(wrap):
    net, x = Net().eval(), torch.randn(4, 3, 8, 8)
    wrapped = wrap(net)
    assert unwrap(wrapped) is net
    assert names_of(wrapped, ["module.conv1", "_orig_mod.head", "block.0"]) == [
        "conv1",
        "block.0",
        "head",
    ]
    assert torch.equal(watch(wrapped, ["head"], x)["head"], net(x))


def test_distributed_data_parallel_is_looked_through(tmp_path):
    import torch.distributed as dist

    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        net = Net().eval()
        wrapped = nn.parallel.DistributedDataParallel(net)
        assert unwrap(wrapped) is net and names_of(wrapped, "module.conv1") == ["conv1"]
    finally:
        dist.destroy_process_group()


def test_compiled_parts_inside_a_model_are_watched_too_without_compiling_again():
    net, x, compiled = Net().eval(), torch.randn(4, 3, 8, 8), []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    names = names_of(net)
    expected = watch(net, names, x)
    net.block = torch.compile(net.block, backend=backend)
    net(x)  # compiled before the hooks come
    assert names_of(net) == names
    before = len(compiled)
    seen = watch(net, names, x)
    assert seen.keys() == expected.keys()
    assert all(torch.equal(seen[n], expected[n]) for n in seen)
    assert 0 < before == len(compiled)
    in_place = Net().eval()
    in_place.load_state_dict({k.replace("_orig_mod.", ""): v for k, v in net.state_dict().items()})
    in_place.head.compile(backend=backend)
    in_place(x)
    before = len(compiled)
    assert torch.equal(watch(in_place, ["head"], x)["head"], expected["head"])
    assert before == len(compiled)


def test_repeated_calls_of_a_module_are_kept_apart_in_every_pass():
    net, x = Net(), torch.randn(4, 3, 8, 8)
    seen = []
    with tapped(net, ["relu", "head"], lambda name, *_: seen.append(name)) as forward:
        forward(x)
        forward(x)
    assert seen == ["relu", "relu#2", "head"] * 2


def test_the_output_is_seen_before_a_later_in_place_edit():
    """torchvision adds the identity to bn2's output in place and applies ReLU in place."""
    net, x = torchvision.models.resnet18(num_classes=3).eval(), torch.randn(4, 3, 32, 32)
    outputs = {}
    with tapped(
        net, ["layer1.0.bn2"], lambda n, _, out, axes: outputs.update(a=out.clone(), b=out)
    ) as go:
        go(x)
    with torch.no_grad():
        truth = net.layer1[0].conv1(net.maxpool(net.relu(net.bn1(net.conv1(x)))))
        block = net.layer1[0]
        truth = block.bn2(block.conv2(block.relu(block.bn1(truth))))
    assert torch.equal(outputs["a"], truth)
    assert not torch.equal(outputs["b"], truth)  # the trap is real


def test_modes_hooks_statistics_and_gradients_are_left_alone():
    net, x = Net(), torch.randn(4, 3, 8, 8)
    net.block.eval()  # a part that is frozen stays frozen
    before = {k: v.clone() for k, v in net.state_dict().items()}
    seen = watch(net, names_of(net), x)
    assert net.training and not net.block.training and net.head.training
    assert not any(m._forward_hooks for m in net.modules())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not any(out.requires_grad for out in seen.values())
    net(x).sum().backward()


@pytest.mark.parametrize("where", ["forward", "sink", "selection"])
def test_everything_is_restored_after_an_error(where):
    net = Net()

    def sink(name, module, out, axes):
        if where == "sink":
            raise RuntimeError("stop")

    names = ["conv1", "nowhere"] if where == "selection" else ["conv1"]
    with pytest.raises((RuntimeError, KeyError)), tapped(net, names, sink, device="cpu") as forward:
        forward(torch.randn(4, 7 if where == "forward" else 3, 8, 8))
    assert net.training and net.block.training
    assert not any(m._forward_hooks for m in net.modules())


def test_the_device_is_as_before():
    net = Net().to("meta")
    seen = []
    with tapped(net, ["conv1"], lambda n, _, out, axes: seen.append(out.device.type)) as forward:
        forward(torch.randn(4, 3, 8, 8))  # goes where the model is
    assert seen == ["meta"]
    split = Net()
    split.head.to("meta")
    with (
        pytest.raises(ValueError, match="spread over"),
        tapped(split, ["conv1"], lambda *_: None, device="cpu"),
    ):
        pass


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_comes_back_from_the_gpu():
    net = Net()
    assert watch(net, ["conv1"], torch.randn(4, 3, 8, 8), device="cuda")["conv1"].is_cuda
    assert net.conv1.weight.device.type == "cpu"


def test_tuples_lists_and_dicts_give_their_first_float_tensor_with_the_batch():
    class Nested(nn.Module):
        def forward(self, x):
            return None, torch.zeros(3, 2), {"a": [x.long(), x + 1]}, x

    x = torch.randn(6, 2)
    assert torch.equal(watch(nn.Sequential(Nested()), ["0"], x)["0"], x + 1)
    seen = watch(Reads(nn.LSTM(4, 5, num_layers=2)), ["inner"], torch.zeros(6, 7, 4))
    assert seen["inner"].shape == (6, 7, 5)  # time first inside
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    assert watch(Attends(attention), ["inner"], torch.zeros(6, 7, 4))["inner"].shape == (6, 7, 4)


def test_samples_that_a_layer_takes_for_the_time_are_refused():
    lstm = nn.LSTM(4, 5, num_layers=2)
    with pytest.raises(SamplesAsTimeError, match="'0', a LSTM with batch_first=False"):
        watch(nn.Sequential(lstm), ["0"], torch.zeros(7, 6, 4))
    with pytest.raises(SamplesAsTimeError, match="self_attn"):
        watch(nn.TransformerEncoderLayer(8, 2, 16), ["linear1"], torch.zeros(7, 6, 8))


class Reads(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):  # [N, T, D] in, time first inside
        return self.inner(x.transpose(0, 1))[0]


class Attends(Reads):
    def forward(self, x):
        return self.inner(x, x, x)[0]


def test_pick_chooses_another_part_of_the_output():
    net = Reads(nn.LSTM(4, 5))
    last = watch(net, ["inner"], torch.zeros(6, 7, 4), pick=lambda name, out: out[1][0][-1])
    assert last["inner"].shape == (6, 5)


def test_transformer_encoders_run_their_slow_path_so_that_hooks_fire():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    seen = watch(nn.Sequential(layer), ["0.linear1", "0.self_attn"], torch.randn(4, 5, 8))
    assert seen["0.linear1"].shape == (4, 5, 16) and seen["0.self_attn"].shape == (4, 5, 8)


def test_the_preview_lists_name_type_shape_and_size_in_order_of_execution():
    table = preview(Net(), torch.randn(2, 3, 8, 8), [nn.Linear, nn.Conv2d, nn.ReLU])
    assert list(table.columns) == ["name", "type", "shape", "size", "channels"]
    assert table["name"].tolist() == ["conv1", "relu", "block.0", "relu#2", "head", "spare"]
    assert table["shape"][0] == (4, 8, 8) and table["size"][0] == 256
    assert table["channels"].tolist()[:5] == [4, 4, 4, 4, 5]
    assert table["shape"][5] is None  # never called
