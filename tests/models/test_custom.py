"""Modules of the user's: what can't be an encoder is refused, what may be meant is pointed out."""

import copy
import functools
import types

import numpy as np
import pytest
import torch
import torch.nn as nn
import torchvision

from simlab.compute import distributed
from simlab.config import PretrainConfig
from simlab.data import from_arrays
from simlab.evaluate import features, knn
from simlab.models import build_encoder, check_module, copy_module, keep_frozen
from simlab.train import pretrain


def small(channels=3, *more):
    layers = [nn.Conv2d(channels, 5, 3), nn.BatchNorm2d(5), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, *more)


# --------------------------------------------------------------------------- what can't be an encoder


class KeepsItsActivation(nn.Module):
    def __init__(self, in_a_list=False):
        super().__init__()
        self.layer = small()
        self.kept = [] if in_a_list else None

    def forward(self, x):
        y = self.layer(x)
        if isinstance(self.kept, list):
            self.kept.append(y)
        else:
            self.kept = y
        return y


class HasMoreThanTensors(nn.Linear):
    def get_extra_state(self):
        return {"calls": 1}

    def set_extra_state(self, state):
        pass


def after_a_forward_pass(module):
    module(torch.zeros(2, 3, 8, 8))
    return module


def make(name):
    """Modules that are made when they are needed: some take torch seconds."""
    if name == "activation":
        return after_a_forward_pass(KeepsItsActivation())
    if name == "activations in a list":
        return after_a_forward_pass(KeepsItsActivation(in_a_list=True))
    if name == "old weight_norm":
        return nn.Sequential(nn.Flatten(), nn.utils.weight_norm(nn.Linear(192, 4)), nn.ReLU())
    if name == "extra state":
        return nn.Sequential(nn.Flatten(), HasMoreThanTensors(192, 4))
    if name == "script":
        return torch.jit.script(small())
    return nn.Sequential(nn.LazyConv2d(5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
@pytest.mark.parametrize(
    "name, message",
    [
        ("activation", r"encoder\.kept is a tensor with a history.* keep x\.detach\(\)"),
        ("activations in a list", r"encoder\.kept is a tensor with a history"),
        ("old weight_norm", r"encoder\.1\.weight is .*parametrizations\.weight_norm"),
        ("extra state", r"encoder\.1 \(HasMoreThanTensors\) has a state beyond tensors"),
        ("script", r"compiled by torch\.jit, which hides its code"),
        ("lazy", r"encoder\.0 \(LazyConv2d\) has no weights yet: run the encoder once"),
    ],
)
def test_what_can_not_be_trained_or_stored_is_refused_with_a_remedy(name, message):
    with pytest.raises(ValueError, match=message):
        build_encoder(make(name), 3, 8)


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_each_remedy_helps():
    lazy = make("lazy")
    lazy(torch.zeros(1, 3, 8, 8))
    keeper = after_a_forward_pass(KeepsItsActivation())
    keeper.kept = keeper.kept.detach()
    norm = nn.utils.parametrizations.weight_norm(nn.Linear(192, 4))
    for module in (lazy, keeper, nn.Sequential(nn.Flatten(), norm, nn.ReLU())):
        check_module(copy.deepcopy(module))
        build_encoder(module, 3, 8)


class Features(nn.Module):
    """As torchvision's and timm's models: features and a head."""

    def __init__(self):
        super().__init__()
        self.features, self.head = small(), nn.Linear(5, 2)

    def forward(self, x):
        return self.head(self.features(x))


def of_a_closure():
    net = Features()
    net.forward = lambda x: net.features(x)
    return net


def of_a_method():
    net = Features()
    forward = net.forward
    net.forward = lambda x: forward(x).relu()
    return net


def of_a_default():
    net = Features()
    net.forward = functools.partial(lambda x, layers=net.features: layers(x))
    return net


def of_a_global():
    global patched
    patched = Features()
    patched.forward = lambda x: patched.features(x)
    return patched


def of_a_hook():
    net = Features()
    net.head.register_forward_hook(lambda head, x, out: net.features[0].weight.mean() + out)
    return net


@pytest.mark.parametrize("make", [of_a_closure, of_a_method, of_a_default, of_a_global, of_a_hook])
def test_a_function_that_holds_the_encoder_is_refused_since_a_copy_would_run_the_original(make):
    with pytest.raises(ValueError, match=r"encoder\..* holds the encoder itself.*MethodType"):
        check_module(make())


def test_a_method_put_into_an_encoder_runs_the_copy():
    net = Features()
    net.forward = types.MethodType(lambda self, x: self.features(x), net)
    check_module(net)
    copied = copy_module(net)
    x = torch.rand(2, 3, 8, 8)
    before = net.eval()(x)
    copied.eval().features[0].weight.data.zero_()
    assert torch.equal(net(x), before) and not torch.equal(copied(x), before)


def test_what_is_compiled_around_an_encoder_is_looked_into_and_a_copy_runs_itself():
    net = torch.compile(Features(), backend="eager")
    check_module(net)
    copied = copy_module(net)
    x = torch.rand(2, 3, 8, 8)
    before = net.eval()(x)
    copied.eval()._orig_mod.features[0].weight.data.zero_()
    assert torch.equal(net(x), before) and not torch.equal(copied(x), before)
    with pytest.raises(ValueError, match=r"encoder\._orig_mod\.forward is a function that holds"):
        check_module(torch.compile(of_a_closure(), backend="eager"))


def test_a_compiled_encoder_trains_as_the_same_one_uncompiled(tmp_path):
    def losses(wrap):
        torch.manual_seed(5)
        config = PretrainConfig(
            view_size=8, epochs=2, batch_size=8, device="cpu", precision="float32", threads=1
        )
        encoder = wrap(nn.Sequential(small(), nn.BatchNorm1d(5)))
        return pretrain(
            config, data, encoder=encoder, folder=str(tmp_path), progress=False, fresh=True
        ).history["loss"]

    images = torch.randint(0, 256, (24, 3, 8, 8), dtype=torch.uint8)
    data = from_arrays(images[:16], None, images[16:])
    plain = losses(lambda encoder: encoder)
    compiled = losses(lambda encoder: torch.compile(encoder, backend="eager"))
    assert plain.tolist() == pytest.approx(compiled.tolist(), rel=1e-5)


def clear(weight):
    weight.grad.zero_()


def test_a_copy_keeps_hooks_on_gradients():
    net = nn.Linear(3, 2)
    net.weight.register_hook(torch.zeros_like)
    net.bias.register_post_accumulate_grad_hook(clear)
    copied = copy_module(net)
    copied(torch.ones(1, 3)).sum().backward()
    assert not copied.weight.grad.any() and not copied.bias.grad.any()


def build_network():
    return small()


@pytest.mark.parametrize(
    "encoder, message",
    [
        (
            KeepsItsActivation,
            r"the class KeepsItsActivation: did you mean KeepsItsActivation\(\)\?",
        ),
        (
            build_network,
            r"the function build_network: expected a torch\.nn\.Module; what build_netw",
        ),
        (3, r"encoder is a int: expected a torch\.nn\.Module"),
    ],
)
def test_what_is_no_module_is_refused_by_what_it_is(encoder, message):
    with pytest.raises(TypeError, match=message):
        build_encoder(encoder, 3, 8)


class Gives(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x):
        return self.output


@pytest.mark.parametrize(
    "output, got, remedy",
    [
        (torch.zeros(1, 5, 2, 2), r"\(1, 5, 2, 2\)", r"pooling and nn\.Flatten\(\)"),
        (torch.zeros(1, 7, 5), r"\(1, 7, 5\)", "one token, or the mean over the tokens"),
        (torch.zeros(5), r"\(5,\)", "keep the dimension of the images"),
        ((torch.zeros(1, 5),), "tuple", "let forward return the features alone"),
        ({"out": torch.zeros(1, 5)}, "dict", "let forward return the features alone"),
        ([torch.zeros(1, 5)], "list", "let forward return the features alone"),
    ],
)
def test_the_remedy_is_one_for_what_the_module_gives(output, got, remedy):
    with pytest.raises(ValueError, match=rf"gives {got} for one image .*; .*{remedy}"):
        build_encoder(Gives(output), 3, 8)


# ------------------------------------------------------------------------------ a classifier's head


@pytest.mark.parametrize(
    "name, head, dim",
    [("resnet18", "fc", 512), ("efficientnet_b0", "classifier.1", 1280)],
)
def test_a_classifiers_head_is_pointed_out_and_the_advice_removes_it(name, head, dim, recwarn):
    with torch.device("meta"):
        network = torchvision.models.get_model(name, weights=None)
        with pytest.warns(UserWarning, match=rf"ends in '{head}', Linear\({dim}, 1000\).*set_sub"):
            assert build_encoder(network, 3, 64)[1] == 1000
        network.set_submodule(head, nn.Identity())
        recwarn.clear()
        assert build_encoder(network, 3, 64)[1] == dim
    assert not recwarn.list


@pytest.mark.parametrize(
    "more", [(), (nn.Linear(5, 4), nn.ReLU()), (nn.Linear(5, 4), nn.LayerNorm(4))]
)
def test_a_network_without_a_head_is_left_in_peace(more, recwarn):
    build_encoder(small(3, *more), 3, 8)
    build_encoder(small(3, nn.Linear(5, 9), nn.Identity(), nn.Dropout()), 3, 8)
    assert [str(w.message)[:22] for w in recwarn.list] == ["the encoder ends in '4'"[:22]]


# ------------------------------------------------------------------------------------- grey images


def grey_data():
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8), np.uint8)
    return from_arrays(images, np.arange(30) % 2)


def test_grey_images_are_repeated_for_a_network_of_colour_images_and_that_is_said():
    data = grey_data()
    encoder = small(3).eval()
    wanted = encoder(data.normalize(data.train.images).repeat(1, 3, 1, 1)).detach()
    with pytest.warns(UserWarning, match="grey images are repeated over the three channels"):
        outputs = features(encoder, data.train)
    torch.testing.assert_close(outputs, wanted)
    with pytest.raises(RuntimeError):  # the module itself is as it was
        encoder(data.normalize(data.train.images))
    with pytest.warns(UserWarning, match="grey images are repeated"):
        built, dim = build_encoder(copy.deepcopy(encoder), 1, 8)
    assert dim == 5
    torch.testing.assert_close(built(data.normalize(data.train.images)), wanted)
    assert list(built.state_dict()) == list(encoder.state_dict())


class RepeatsByItself(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = small()

    def forward(self, x):
        return self.layer(x.repeat(1, 3, 1, 1))


def test_a_network_that_takes_grey_images_gets_them_as_they_are(recwarn):
    data = grey_data()
    assert features(RepeatsByItself(), data.train).shape == (24, 5)
    assert build_encoder(RepeatsByItself(), 1, 8)[1] == 5
    assert 0 <= knn(small(1), data, k=3) <= 1
    assert not recwarn.list


def test_grey_images_do_not_hide_what_else_is_wrong(recwarn):
    with pytest.raises(ValueError, match=r"does not take an image \[1, 1, 8, 8\]"):
        build_encoder(nn.Sequential(small(3), nn.Linear(7, 2)), 1, 8)
    with pytest.raises(ValueError, match=r"does not take an image \[1, 3, 8, 8\]"):
        build_encoder(small(1), 3, 8)
    assert not recwarn.list


# ------------------------------------------------------------------------------------ frozen parts


def test_frozen_parts_are_in_evaluation_mode_and_the_others_train():
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(), nn.BatchNorm2d(4, affine=False))
    network = nn.Sequential(
        body, nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Dropout()
    )
    body.requires_grad_(False)
    network[3].requires_grad_(False)
    network.train()
    keep_frozen(network)
    assert [module.training for module in body.modules()] == [False] * 4
    assert [layer.training for layer in network] == [False, True, True, False, True]
    assert network.training


def test_a_frozen_batchnorm_normalises_by_its_statistics_beside_other_processes(monkeypatch):
    """With several processes BatchNorm exchanges its batch's statistics; a frozen one does not."""
    monkeypatch.setattr(distributed, "world", lambda: 2)
    network = small(3).requires_grad_(False)
    distributed.with_global_batch_norm(network, torch.device("cpu"))
    network.train()
    keep_frozen(network)
    before = copy.deepcopy(network[1].state_dict())
    x = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(network(x)[:2], network(x[:2]))
    assert all(torch.equal(value, before[name]) for name, value in network[1].state_dict().items())
