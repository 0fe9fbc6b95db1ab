"""What `layers=None` chooses, what it leaves out and says so, and models whose layers can't run."""

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrizations

from simlab.layers import left_out_layers, select_layers
from simlab.similarity import Result, compare

torch.manual_seed(0)
X = torch.randn(12, 6)


def names_of(model):
    return list(select_layers(model))


def test_parametrized_layers_are_chosen_and_what_parametrizes_them_is_not():
    net = nn.Sequential(
        parametrizations.weight_norm(nn.Conv2d(3, 4, 3)),
        parametrizations.spectral_norm(nn.Conv2d(4, 4, 3)),
        parametrizations.orthogonal(nn.Linear(4, 4)),
        nn.Linear(4, 2),
    )
    assert names_of(net) == ["0", "1", "2", "3"] and left_out_layers(net) == {}
    result = compare(net[:2], torch.randn(8, 3, 8, 8))
    assert [layer.name for layer in result.layers] == ["0", "1"] and result.reasons == {}


def test_modules_with_weights_and_children_are_chosen():
    class Dropped(nn.Linear):
        def __init__(self):
            super().__init__(6, 6)
            self.dropout = nn.Dropout()

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.inner = nn.Parameter(torch.ones(1, 6)), nn.Linear(6, 6)

        def forward(self, x):
            return self.inner(x) * self.scale

    net = nn.Sequential(Dropped(), Scaled(), nn.LayerNorm(6), nn.ReLU())
    assert names_of(net) == ["0", "1", "1.inner"]
    assert left_out_layers(net) == {
        "0.dropout": "no parameters",
        "2": "its parameters are vectors",
        "3": "no parameters",
    }
    assert names_of(nn.Sequential(nn.ReLU(), nn.Tanh())) == ["0", "1"]  # where none has weights


def test_weights_in_lists_of_parameters_are_their_modules():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = nn.ParameterList([nn.Parameter(torch.randn(6, 6)) for _ in range(2)])

        def forward(self, x):
            return x @ self.experts[0] + x @ self.experts[1]

    net = nn.Sequential(Experts(), nn.Linear(6, 3))
    assert names_of(net) == ["0", "1"]
    result = compare(net, torch.randn(8, 6))
    assert [layer.name for layer in result.layers] == ["0", "1"] and result.reasons == {}
    assert result.left_out == {"Sequential/0.experts": "not called: '0' reads its weights"}


def test_attention_of_transformers_is_chosen_without_a_flood_of_reasons():
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, enable_nested_tensor=False
    )
    result = compare(encoder, torch.randn(6, 5, 8))
    chosen = [layer.name for layer in result.layers]
    assert chosen[:3] == ["layers.0.self_attn", "layers.0.linear1", "layers.0.linear2"]
    assert result.reasons == {}
    reason = "not called: 'layers.0.self_attn' reads its weights"
    assert result.left_out["TransformerEncoder/layers.0.self_attn.out_proj"] == reason
    assert f"{len(result.left_out)} modules left out (result.left_out)" in repr(result)
    swin = torchvision.models.SwinTransformer([4, 4], 16, [1, 1], [2, 2], [2, 2], num_classes=4)
    result = compare(swin, torch.randn(4, 3, 16, 16))
    assert "features.1.0.attn" in [layer.name for layer in result.layers]
    assert not any("attn" in name for name in result.reasons)
    assert "not called" in result.left_out["SwinTransformer/features.1.0.attn.qkv"]


def test_chosen_by_name_a_layer_that_never_runs_has_a_reason():
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder.self_attn = attention
    result = compare(encoder, torch.randn(6, 5, 8), ["linear1", "self_attn.out_proj"])
    assert (
        "'self_attn' reads its weights"
        in result.reasons["TransformerEncoderLayer/self_attn.out_proj"]
    )
    assert result.left_out == {}


def test_what_is_left_out_is_saved_with_the_result(tmp_path):
    result = compare(nn.Sequential(nn.Linear(6, 4), nn.ReLU()), X)
    assert Result.load(result.save(tmp_path / "result.npz")).left_out == {
        "Sequential/1": "no parameters"
    }


def test_dynamically_quantised_layers_are_chosen():
    float_net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)).eval()
    try:
        net = torch.ao.quantization.quantize_dynamic(float_net, dtype=torch.qint8)
    except RuntimeError as error:  # this build of torch has no engine for it
        pytest.skip(str(error))
    result = compare(net, X)
    assert [layer.name for layer in result.layers] == ["0", "2"] and result.reasons == {}


def test_models_whose_layers_do_not_run_as_modules_are_refused_by_name():
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU())
    for compiled in (torch.jit.trace(net, X), torch.jit.script(net)):
        with pytest.raises(ValueError, match="'0' is TorchScript.*give the Python model"):
            compare(compiled, X)
    exported = torch.export.export(net, (X,)).module()
    with pytest.raises(ValueError, match=r"comes from torch.export.*give the model"):
        compare(exported, X)
    mixed = nn.Sequential(nn.Linear(6, 6), torch.jit.script(net))
    result = compare(mixed, X)
    assert [layer.name for layer in result.layers] == ["0"]
    assert "TorchScript" in result.left_out["Sequential/1.0"]


def test_containers_that_are_never_called_say_what_to_name():
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([nn.Linear(6, 6)])

        def forward(self, x):
            return self.blocks[0](x)

    with pytest.raises(ValueError, match=r"'blocks': not called: a ModuleList.*'blocks\.\*'"):
        compare(Listed(), X, "blocks")
    graph = torch.fx.symbolic_trace(nn.Sequential(nn.Sequential(nn.Linear(6, 6)), nn.ReLU()))
    with pytest.raises(ValueError, match=r"'0': not called: an fx graph.*'0\.\*'"):
        compare(graph, X, "0")
    assert len(compare(graph, X, "0.*").layers) == 1


def test_a_models_home_is_its_first_parameters_device():
    net = nn.Linear(6, 4)
    net.register_buffer("spare", torch.empty(2, device="meta"))
    assert compare(net, X).matrix == pytest.approx(1)
