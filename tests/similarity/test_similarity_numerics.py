"""No scale or number type changes what a measure says."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.efficientnet import EfficientNet, MBConvConfig

from simlab.similarity import (
    CKA,
    MEASURES,
    SimilarityModel,
    cca_similarity,
    cka_similarity,
    compare,
    deconfounded_cka_similarity,
    gram,
    mutual_knn_similarity,
    procrustes_distance,
    pwcca_similarity,
    rbf_cka_similarity,
    regression_similarity,
    rsa_similarity,
    svcca_similarity,
)
from simlab.similarity.nulls import permuted_products
from simlab.similarity.representation import normalised_rows

ROWS = torch.randn(48, 8, generator=torch.Generator().manual_seed(0))
CONFOUNDER = torch.randn(48, 2, generator=torch.Generator().manual_seed(1))
SCALES = (1e-30, 1e-18, 1e18, 1e30)
# all but those that need logits
ANY_LAYER = [name for name in MEASURES if name not in ("disagreement", "jensen_shannon")]
STREAMED = ["cka", "rbf_cka", "deconfounded_cka"]
PLAIN = [
    cka_similarity,
    rbf_cka_similarity,
    procrustes_distance,
    cca_similarity,
    svcca_similarity,
    pwcca_similarity,
    regression_similarity,
    rsa_similarity,
    mutual_knn_similarity,
]


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


def network(width, factor=1.0):
    torch.manual_seed(width)
    return nn.Sequential(nn.Linear(8, width), nn.Tanh(), Times(factor)).eval()


def compared(dtype, factor=1.0, **options):
    models = {"a": network(12, factor).to(dtype), "b": network(5).to(dtype)}
    data = ROWS.to(dtype)
    return compare(models, data, ["0", "2"], confounder=CONFOUNDER, batch_size=24, **options)


# ------------------------------------------------------------------------------------------ scale


@pytest.mark.parametrize("samples", [None, 48])
@pytest.mark.parametrize("factor", SCALES)
def test_compare_in_float32_does_not_depend_on_the_scale_of_a_layer(factor, samples):
    measures = STREAMED if samples is None else ANY_LAYER
    result = compared(torch.float32, factor, measures=measures, samples=samples)
    exact = compared(torch.float64, measures=measures, samples=samples)
    for name in measures:
        assert np.allclose(result.block(measure=name), exact.block(measure=name), atol=1e-5), name
    assert result.reasons == {}


@pytest.mark.parametrize("measure", PLAIN)
def test_functions_do_not_depend_on_the_scale_of_float32(measure):
    x, y = ROWS, (ROWS[:, :5] @ ROWS[:5, :6]).tanh()
    variants = [{}]
    if measure in (rsa_similarity, mutual_knn_similarity):
        variants += [{"metric": "cosine"}, {"metric": "correlation"}]
    for options, factor in itertools.product(variants, SCALES):
        expected = measure(x, y, **options)
        assert measure(x * factor, y, **options) == pytest.approx(expected, abs=1e-5)
        assert measure(x, y * factor, **options) == pytest.approx(
            measure(x, y, **options), abs=1e-5
        )


def test_deconfounded_cka_does_not_depend_on_scale():
    x, y = ROWS, (ROWS[:, :5] @ ROWS[:5, :6]).tanh()
    expected = deconfounded_cka_similarity(x, y, CONFOUNDER)
    for factor in SCALES:
        value = deconfounded_cka_similarity(x * factor, y, CONFOUNDER)
        assert value == pytest.approx(expected, abs=1e-5)
        value = deconfounded_cka_similarity(x, y, CONFOUNDER * factor)
        assert value == pytest.approx(expected, abs=1e-5)


def test_batches_of_different_scale_weigh_as_their_features_do():
    """The second batch is a million times larger, so it alone counts."""
    stretched = torch.cat([ROWS[:24] * 1e-12, ROWS[24:] * 1e-6])
    a, b = nn.Linear(8, 6), nn.Linear(8, 4)
    models = nn.Sequential(nn.Identity(), a), nn.Sequential(nn.Identity(), b)
    with torch.no_grad():
        a.bias.zero_(), b.bias.zero_()
    both = compare(models, stretched, "1", batch_size=24).matrix
    assert np.allclose(both, compare(models, ROWS[24:], "1").matrix, atol=1e-6)


def test_the_gram_comes_in_a_unit_that_is_a_power_of_two():
    for factor in (1, *SCALES):
        scaled, unit = gram.centred_gram(ROWS * factor)
        rows = (ROWS * factor).double() / unit
        rows = rows - rows.mean(0)
        assert np.log2(unit) == round(np.log2(unit))
        centred = gram.centre(scaled.double(), debiased=False)
        assert torch.allclose(centred, rows @ rows.T, atol=1e-5)


def test_the_sigma_of_a_scaled_layer_is_its_own():
    plain = compared(torch.float32, measures="rbf_cka").info.sigma["a/2"]
    scaled = compared(torch.float32, 1e-30, measures="rbf_cka").info.sigma["a/2"]
    assert scaled == pytest.approx(plain * 1e-30, rel=1e-5)


def untrained_efficientnet():
    """As EfficientNet-B0, whose features shrink from block to block before it is trained."""
    torch.manual_seed(0)
    widths = [8, 12] * 6
    blocks = [MBConvConfig(4, 3, 1, a, b, 1) for a, b in itertools.pairwise(widths)]
    return EfficientNet(blocks, dropout=0, num_classes=4, norm_layer=nn.BatchNorm2d).eval()


@pytest.mark.long
def test_no_layer_of_an_untrained_efficientnet_is_undefined_but_in_float64():
    images = torch.randn(16, 3, 16, 16)
    model = untrained_efficientnet()
    measures = ["cka", "rsa", "procrustes_distance", "mutual_knn"]
    single = compare(model, images, "features.*", measures, samples=16)
    double = compare(model.double(), images.double(), "features.*", measures, samples=16)
    assert single.reasons == double.reasons == {}
    for name in measures:
        assert np.allclose(single.block(measure=name), double.block(measure=name), atol=1e-4)


@pytest.mark.long
def test_no_layer_of_the_real_untrained_efficientnet_is_undefined():
    from torchvision.models import efficientnet_b0

    torch.manual_seed(0)
    model, images = efficientnet_b0().eval(), torch.randn(16, 3, 64, 64)
    single = compare(model, images)
    double = compare(model.double(), images.double())
    assert len(single.layers) == 82 and single.reasons == double.reasons == {}
    assert np.allclose(single.matrix, double.matrix, atol=1e-4)


# -------------------------------------------------------------------------------------- number type


@pytest.mark.parametrize("samples", [None, 48])
@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float64, 1e-5), (torch.float16, 0.02), (torch.bfloat16, 0.15)]
)
def test_models_of_every_float_type_are_compared(dtype, tolerance, samples):
    measures = STREAMED if samples is None else ["cka", "procrustes_distance", "pwcca", "rsa"]
    result = compared(dtype, measures=measures, samples=samples)
    exact = compared(torch.float32, measures=measures, samples=samples)
    for name in measures:
        difference = abs(result.block(measure=name) - exact.block(measure=name))
        assert difference.max() < tolerance, name


def test_one_float64_layer_in_a_float32_network():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.single, self.double_ = nn.Linear(8, 6), nn.Linear(6, 5).double()

        def forward(self, x):
            return self.double_(self.single(x).double())

    model = Mixed()
    result = compare(model, ROWS)
    features = model.single(ROWS).detach()
    expected = cka_similarity(features, model.double_(features.double()).detach())
    assert [layer.name for layer in result.layers] == ["single", "double_"]
    assert compare(model, ROWS, batch_size=48).matrix[0, 1] == pytest.approx(expected, abs=1e-6)


def test_the_simtorch_classes_take_float64_models():
    models = [SimilarityModel(network(w).double(), layers_to_include=["0"]) for w in (12, 5)]
    assert np.isfinite(CKA(*models).compute(ROWS.double())).all()


def test_float64_as_the_default_type():
    torch.set_default_dtype(torch.float64)
    try:
        assert np.isfinite(compare(nn.Linear(8, 4), torch.randn(32, 8)).matrix).all()
    finally:
        torch.set_default_dtype(torch.float32)


def test_data_of_another_float_type_are_converted_to_the_models():
    model = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 5))
    expected = compare(model, ROWS).matrix
    assert np.allclose(compare(model, ROWS.double()).matrix, expected)
    assert np.allclose(compare({"a": model.bfloat16()}, ROWS).matrix, expected, atol=0.05)


# ----------------------------------------------------------------------------------------- reasons


def test_reasons_are_true():
    apart, near = torch.eye(40), torch.randn(40, 40)
    result = compare(nn.Identity(), apart, measures=["cka", "rbf_cka", "rsa"], samples=40)
    assert set(result.reasons.values()) == {"its samples are all equally far apart"}
    result = compare(
        nn.Identity(), near, measures=["cka", "deconfounded_cka"], confounder=apart, batch_size=40
    )
    assert result.reasons == {
        "Identity/ (deconfounded_cka)": "the confounder's samples are all equally far apart"
    }
    one_feature = compare(nn.Identity(), near[:, :1], measures="rsa_correlation", samples=40)
    (reason,) = one_feature.reasons.values()
    assert reason == "its samples are all equally far apart by their correlation distance"
    undefined = compare(nn.Identity(), near, measures=lambda x, y: float("nan"), samples=40)
    (reason,) = undefined.reasons.values()
    assert reason == "the measure is NaN with every other layer"


# ------------------------------------------------------------------------------------------- nulls


@pytest.mark.parametrize("symmetric", [True, False])
def test_products_with_permuted_samples_are_those_of_permuted_matrices(symmetric):
    matrices = torch.randn(3, 20, 20)
    matrices[0] *= torch.rand(20, 20) < 0.1
    if symmetric:
        matrices = matrices + matrices.mT
    matrices = torch.cat([matrices, torch.full((1, 20, 20), torch.nan)])
    orders = [torch.randperm(20) for _ in range(2)]
    for cosine in (True, False):
        values = permuted_products(matrices, orders, cosine)
        for value, order in zip(values, orders, strict=True):
            permuted = matrices[:, order][:, :, order]
            expected = torch.einsum("aij,bij->ab", matrices, permuted)
            if cosine:
                norms = torch.linalg.matrix_norm(matrices)
                expected = expected / norms[:, None] / norms
            assert np.allclose(value, expected, atol=1e-5, equal_nan=True)


# ------------------------------------------------------------------------------------------ memory

MEMORY = """
import resource, torch
from torch import nn
from simlab.similarity import compare


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MB

class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList(nn.Identity() for _ in range(4))
    def forward(self, x):
        for index, part in enumerate(self.parts):
            part(x.repeat(1, 1000) + index)
        return x

x = torch.randn(96, 40)
options = dict(samples=96, batch_size=16, memory=62 << 20)
for measures in ("cka", lambda a, b: float(a[0, 0] * b[0, 0]), "pwcca"):
    compare(Wide(), x[:, :1], "parts.*", measures, **options)
    before = peak()
    compare(Wide(), x, "parts.0" if measures == "pwcca" else "parts.*", measures, **options)
    print(peak() - before)
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux")
def test_a_set_of_samples_holds_no_more_features_than_memory_says():
    """59 MB of features in four layers, and room for chunks."""
    command = [sys.executable, "-c", MEMORY]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert max(map(float, done.stdout.split())) < 62 + 45, done.stdout


@pytest.mark.parametrize("scale", [1e-20, 0.1, 1e20])
def test_a_row_that_is_constant_but_for_rounding_has_no_direction(scale):
    last_bits = 1 + torch.finfo(torch.float32).eps * (torch.arange(300) % 2)
    rows = scale * torch.stack([last_bits, torch.ones(300), 100 + torch.arange(300.0).sin()])
    assert normalised_rows(rows, "correlation").norm(dim=1).tolist() == pytest.approx([0, 0, 1])
