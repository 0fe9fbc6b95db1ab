"""simtorch's API as its README shows it, and that its defects are gone."""

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from simlab.similarity import (
    CCA,
    CKA,
    BaseSimilarity,
    DeltaCKA,
    Procrustes,
    SimilarityModel,
    cca_similarity,
    cka_similarity,
    deconfounded_cka_similarity,
    procrustes_distance,
)

torch.manual_seed(0)
X = torch.randn(64, 3, 8, 8)
LOADER = DataLoader(TensorDataset(X, torch.arange(64)), batch_size=16)


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3),
        nn.BatchNorm2d(5),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(180, 7),
    )


def wrapped(seeds=(0, 1), layers=("0", "4")):
    return [SimilarityModel(net(s), f"net {s}", list(layers)) for s in seeds]


def features(model, x, at):
    with torch.no_grad():
        return model.model.eval()[: at + 1](x).flatten(1).double()


@pytest.mark.long
def test_the_readme_example_densenet121_and_resnet101():
    model1 = torchvision.models.densenet121()
    model2 = torchvision.models.resnet101()
    sim_model1 = SimilarityModel(
        model1, model_name="DenseNet 121", layers_to_include=["conv", "classifier"]
    )
    sim_model2 = SimilarityModel(model2, model_name="ResNet 101", layers_to_include=["conv", "fc"])
    dataloader = DataLoader(TensorDataset(torch.randn(12, 3, 32, 32), torch.zeros(12)), 6)
    sim_cka = CKA(sim_model1, sim_model2, device="cpu")
    cka_matrix = sim_cka.compute(dataloader)
    one = [n for n, _ in model1.named_modules() if "conv" in n or "classifier" in n]
    two = [n for n, _ in model2.named_modules() if "conv" in n or "fc" in n]
    assert cka_matrix.shape == (len(one), len(two)) == (121, 101)
    assert cka_matrix.dtype == np.float64 and cka_matrix is sim_cka.sim_matrix
    assert np.isfinite(cka_matrix).all() and (cka_matrix >= 0).all() and (cka_matrix <= 1).all()
    assert sim_model1.n_layers == 121 and sim_model2.model_name == "ResNet 101"
    assert list(sim_model2.model_activations) == [
        o.name for o in sim_cka.result.layers_of("ResNet 101")
    ]
    ax = sim_cka.plot_similarity()
    assert ax.get_title() == "CKA: DenseNet 121 vs ResNet 101"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("ResNet 101", "DenseNet 121")
    assert ax.images[0].get_cmap().name == "magma"


def test_unbiased_means_unbiased_and_published_means_biased_and_averaged():
    a, b = wrapped()
    at = (0, 4)

    def mean(**options):
        return np.mean(
            [
                [
                    [cka_similarity(features(a, x, i), features(b, x, j), **options) for j in at]
                    for i in at
                ]
                for x in X.split(16)
            ],
            axis=0,
        )

    published = CKA(a, b, published=True).compute(LOADER)
    assert np.allclose(published, mean(debiased=False), atol=1e-6)
    values = {
        name: CKA(a, b, **options).compute(LOADER)
        for name, options in {"biased": {}, "unbiased": {"unbiased": True}}.items()
    }
    assert values["biased"].min() > values["unbiased"].max() - 1 + 0.1
    assert not np.allclose(values["biased"], values["unbiased"], atol=0.05)
    loader = DataLoader(X, 64)
    for unbiased in (False, True):
        exact = [
            [cka_similarity(features(a, X, i), features(b, X, j), debiased=unbiased) for j in at]
            for i in at
        ]
        assert np.allclose(CKA(a, b, unbiased=unbiased).compute(loader), exact, atol=1e-6)
    with pytest.raises(ValueError, match="exclude each other"):
        CKA(a, b, unbiased=True, published=True)


@pytest.mark.parametrize("n, bias", [(8, 0.97), (32, 0.89), (128, 0.67), (512, 0.33)])
def test_noise_is_alike_for_the_published_estimator_and_not_for_the_unbiased_one(n, bias):
    class Half(nn.Module):
        def __init__(self, half):
            super().__init__()
            self.half, self.out = half, nn.Identity()

        def forward(self, x):
            return self.out(x.chunk(2, 1)[self.half])

    loader = DataLoader(torch.randn(1024, 512, generator=torch.Generator().manual_seed(n)), n)
    models = [SimilarityModel(Half(half), f"half {half}", ["out"]) for half in (0, 1)]
    assert CKA(*models, published=True).compute(loader)[0, 0] == pytest.approx(bias, abs=0.01)
    assert abs(CKA(*models, unbiased=True).compute(loader)[0, 0]) < 0.05


def test_a_layer_with_itself_is_one_however_many_layers_and_batches_there_are():
    """The PyPI release divides by the number of layers: its diagonal was 0.05."""
    a, _ = wrapped()
    for options in ({}, {"unbiased": True}, {"published": True}):
        assert np.allclose(CKA(a, a, **options).compute(LOADER).diagonal(), 1)


def test_the_order_of_models_is_not_transposed():
    a = SimilarityModel(net(0), "a", ["0", "2", "4"])
    b = SimilarityModel(net(1), "b", ["4"])
    for kind in (CKA, DeltaCKA, Procrustes, CCA):
        assert kind(a, b).compute(LOADER).shape == (3, 1)


def test_delta_cka_regresses_the_images_out_and_can_clamp():
    a, b = wrapped()
    exact = deconfounded_cka_similarity(
        features(a, X, 0), features(b, X, 0), X.flatten(1), debiased=False
    )
    loader = DataLoader(X, 64)
    assert DeltaCKA(a, b).compute(loader)[0, 0] == pytest.approx(exact, abs=1e-5)
    clamped = deconfounded_cka_similarity(
        features(a, X, 0), features(b, X, 0), X.flatten(1), debiased=False, clamp=True
    )
    value = DeltaCKA(a, b, remove_negative_eig=True).compute(loader)[0, 0]
    assert value == pytest.approx(clamped, abs=1e-4) and abs(clamped - exact) > 1e-4


def test_procrustes_and_cca_are_finished():
    a, b = wrapped()
    x, y = features(a, X, 4), features(b, X, 4)
    assert Procrustes(a, b).compute(LOADER)[1, 1] == pytest.approx(
        procrustes_distance(x, y) / 2, abs=1e-5
    )  # 1 - |X'Y|_*, as simtorch reports it
    assert CCA(a, b).compute(LOADER)[1, 1] == pytest.approx(cca_similarity(x, y), abs=1e-5)


def test_a_new_measure_is_a_subclass_with_one_method():
    class Ratio(BaseSimilarity):
        def measure(self, x, y):
            assert x.shape == (64, x.shape[1]) and abs(x.mean(0)).max() < 1e-5
            return x.norm() / y.norm()

    a, b = wrapped()
    value = Ratio(a, b).compute(LOADER)
    x, y = (v - v.mean(0) for v in (features(a, X, 0), features(b, X, 4)))
    assert value[0, 1] == pytest.approx((x.norm() / y.norm()).item(), rel=1e-5)
    with pytest.raises(NotImplementedError, match="measure"):
        BaseSimilarity(a, b).compute(LOADER)


def test_a_batch_of_one_makes_no_nan():
    a, b = wrapped()
    loader = DataLoader(TensorDataset(X[:33]), 16)  # 16, 16, 1
    for options in ({}, {"unbiased": True}, {"published": True}):
        assert np.isfinite(CKA(a, b, **options).compute(loader)).all()


def test_channels_last_models_are_compared():
    a, b = wrapped()
    expected = CKA(a, b).compute(LOADER)
    for sm in (a, b):
        sm.model.to(memory_format=torch.channels_last)
    loader = [x.to(memory_format=torch.channels_last) for x in X.split(16)]
    assert np.allclose(CKA(a, b).compute(loader), expected, atol=1e-6)


def test_hooks_do_not_stay_or_double_and_no_graph_is_kept():
    model = net().train()
    first = SimilarityModel(model, layers_to_include=["0"])
    again = SimilarityModel(model, layers_to_include=["0"])
    CKA(first, again).compute(LOADER)
    assert not any(m._forward_hooks for m in model.modules()) and model.training
    activations = again(X[:4])
    assert list(activations) == ["0"] and not activations["0"].requires_grad


def test_activations_are_what_the_layer_gave_before_in_place_edits():
    model = net().eval()
    activations = SimilarityModel(model, layers_to_include=["1"])(X[:4])["1"]
    assert activations.min() < 0  # the ReLU after it works in place


def test_layers_that_match_nothing_are_an_error_and_no_layers_mean_all_with_weights():
    with pytest.raises(ValueError, match="cnov"):
        SimilarityModel(torchvision.models.resnet18(), layers_to_include=["cnov"])
    assert SimilarityModel(net()).layer_names == ["0", "4"]


def test_the_number_of_layers_is_zero_with_a_warning_before_anything_ran():
    sm = SimilarityModel(net(), layers_to_include=["0"])
    with pytest.warns(UserWarning, match="no activations yet"):
        assert sm.n_layers == 0


def test_tuple_outputs_are_compared():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(8, 5, batch_first=True)

        def forward(self, x):
            return self.lstm(x.flatten(1, 2))[0]

    sm = SimilarityModel(Reads(), layers_to_include=["lstm"])
    assert CKA(sm, sm).compute(LOADER) == pytest.approx(1)


def test_the_figure_is_saved_under_its_title_and_leaves_the_style_alone(tmp_path):
    import matplotlib as mpl

    a, b = wrapped()
    cka = CKA(a, b)
    with pytest.raises(RuntimeError, match="compute"):
        cka.plot_similarity()
    cka.compute(LOADER)
    before = dict(mpl.rcParams)
    ax = cka.plot_similarity(
        title="My title",
        xlabel="x",
        ylabel="y",
        savefig=True,
        save_path=tmp_path / "new",
        plot_cmap="viridis",
    )
    assert (tmp_path / "new" / "My_title.png").stat().st_size > 1000
    assert dict(mpl.rcParams) == before
    assert ax.get_xlabel() == "x" and ax.get_ylabel() == "y"
    assert ax.images[0].get_cmap().name == "viridis"
    usual = cka.plot_similarity()
    assert usual.get_xlabel() == b.model_name and usual.get_ylabel() == a.model_name
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0", "4"]
