"""One pass of compare() gives what the formulas give."""

import numpy as np
import pytest
import torch
from small_models import LAYERS, A, B, Halves, X, features, small, truth
from torch import nn

from simlab import similarity as sim
from simlab.similarity import MEASURES, cka_similarity, compare, gram, sums


@pytest.mark.parametrize("estimator", ["debiased", "biased"])
def test_one_batch_gives_the_plain_functions_values(estimator):
    debiased = estimator == "debiased"
    result = compare(
        [A, B],
        X,
        estimator=estimator,
        batch_size=100,
        measures=["cka", "rbf_cka", "deconfounded_cka"],
    )
    assert np.allclose(
        result.block(measure="cka"), truth(cka_similarity, debiased=debiased), atol=1e-6
    )
    assert np.allclose(
        result.block(measure="rbf_cka"), truth(sim.rbf_cka_similarity, debiased=debiased), atol=1e-5
    )
    partial = truth(
        lambda x, y: sim.deconfounded_cka_similarity(x, y, X.flatten(1), debiased=debiased)
    )
    assert np.allclose(result.block(measure="deconfounded_cka"), partial, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("samples", [100, 64])
def test_one_set_of_samples_gives_every_measure_as_the_plain_functions_do(samples):
    plain = {
        "cka": cka_similarity,
        "rbf_cka": sim.rbf_cka_similarity,
        "procrustes_distance": sim.procrustes_distance,
        "cca": sim.cca_similarity,
        "procrustes_angle": lambda x, y: sim.procrustes_distance(x, y, form="angle"),
        "procrustes_complement": lambda x, y: sim.procrustes_distance(x, y, form="complement"),
        "svcca": sim.svcca_similarity,
        "pwcca": sim.pwcca_similarity,
        "regression": sim.regression_similarity,
        "rsa": sim.rsa_similarity,
        "rsa_correlation": lambda x, y: sim.rsa_similarity(x, y, metric="correlation"),
        "mutual_knn": sim.mutual_knn_similarity,
        "mutual_knn_cosine": lambda x, y: sim.mutual_knn_similarity(x, y, metric="cosine"),
        "cknna": sim.cknna_similarity,
        "predictivity": sim.predictivity,
        "predictivity_pearson": lambda x, y: sim.predictivity(x, y, score="pearson"),
        "rsa_pearson": lambda x, y: sim.rsa_similarity(x, y, comparison="pearson"),
        "rsa_kendall": lambda x, y: sim.rsa_similarity(x, y, comparison="kendall"),
        "deconfounded_cka": lambda x, y: sim.deconfounded_cka_similarity(
            x, y, X[:samples].flatten(1)
        ),
    }
    assert plain.keys() == MEASURES.keys() - {"disagreement", "jensen_shannon"}  # of logits
    result = compare([A, B], X, measures=list(plain), samples=samples, batch_size=30)
    assert result.info.samples == samples
    for name, measure in plain.items():
        expected = [
            [measure(features(A, X[:samples], i), features(B, X[:samples], j)) for j in LAYERS]
            for i in LAYERS
        ]
        assert np.allclose(result.block(measure=name), expected, atol=2e-5), name
        assert result.info.kinds[name] in ("similarity", "distance")


def test_batches_pool_as_the_cosine_of_concatenated_centred_grams():
    """Nguyen 2021: sums over batches are divided; it is not the CKA of all samples at once."""
    result = compare([A, B], X, batch_size=20)
    for i, a in enumerate(LAYERS):
        for j, b in enumerate(LAYERS):
            rows = [
                torch.cat(
                    [
                        gram.centre(f @ f.T).flatten()
                        for f in (features(m, x, at) for x in X.split(20))
                    ]
                )
                for m, at in ((A, a), (B, b))
            ]
            value = torch.nn.functional.cosine_similarity(*rows, dim=0).item()
            assert result.matrix[i, j] == pytest.approx(value, abs=1e-6)
    assert abs(result.matrix - truth(cka_similarity)).max() > 1e-3


def test_unequal_batches_weigh_n_times_n_minus_three():
    parts = [X[:50], X[50:58], X[58:]]
    result = compare([A, B], parts)
    f, h = ([features(m, x, 0) for x in parts] for m in (A, B))

    def weighted(p, q):
        return sum(len(x) * (len(x) - 3) * sim.hsic(x, y) for x, y in zip(p, q, strict=True))

    value = weighted(f, h) / np.sqrt(weighted(f, f) * weighted(h, h))
    assert result.matrix[0, 0] == pytest.approx(value, abs=1e-6)


def test_the_published_estimator_is_biased_in_each_batch_and_averaged():
    parts = [X[:50], X[50:62], X[62:]]
    result = compare([A, B], parts, estimator="published", measures=["cka", "deconfounded_cka"])
    mean = np.mean(
        [
            [
                [
                    cka_similarity(features(A, x, i), features(B, x, j), debiased=False)
                    for j in LAYERS
                ]
                for i in LAYERS
            ]
            for x in parts
        ],
        axis=0,
    )
    assert np.allclose(result.block(measure="cka"), mean, atol=1e-6)
    mean = np.mean(
        [
            [
                [
                    sim.deconfounded_cka_similarity(
                        features(A, x, i), features(B, x, j), x.flatten(1), debiased=False
                    )
                    for j in LAYERS
                ]
                for i in LAYERS
            ]
            for x in parts
        ],
        axis=0,
    )
    assert np.allclose(result.block(measure="deconfounded_cka"), mean, atol=1e-5)


def test_debiased_cka_of_independent_models_of_noise_is_zero_and_published_is_far_from_it():
    """The published one is about .97 at n = 8 whatever the models: the reason for the default."""
    x = torch.randn(400, 200)
    a, b = (nn.Sequential(Halves(half), nn.Linear(100, 100)) for half in (0, 1))
    near = compare([a, b], x, batch_size=8).matrix
    far = compare([a, b], x, batch_size=8, estimator="published").matrix
    assert abs(near).max() < 0.1 and far.min() > 0.85


def test_float32_grams_with_a_large_mean_agree_with_float64():
    class Offset(nn.Module):
        def __init__(self, mean):
            super().__init__()
            self.mean, self.lin = mean, nn.Identity()

        def forward(self, x):
            return self.lin(x.flatten(1) + self.mean)

    y = X.flatten(1)[:, :60] + 0.8 * torch.randn(100, 60)
    pair = torch.cat([X.flatten(1)[:, :60], y], 1)
    a, b = (nn.Sequential(Halves(p), Offset(1000.0)) for p in (0, 1))
    value = compare([a, b], pair, "1.lin", batch_size=100).matrix[0, 0]
    exact = cka_similarity((pair[:, :60] + 1000.0).double(), (pair[:, 60:] + 1000.0).double())
    assert value == pytest.approx(exact, abs=1e-6)


def test_channels_last_gives_the_same_without_a_copy():
    plain = compare([A, B], X, batch_size=50).matrix
    last = [
        small().to(memory_format=torch.channels_last),
        small(1, 9).to(memory_format=torch.channels_last),
    ]
    assert np.allclose(
        compare(last, X.to(memory_format=torch.channels_last), batch_size=50).matrix,
        plain,
        atol=1e-6,
    )
    out = torch.randn(4, 5, 6, 7).to(memory_format=torch.channels_last)
    assert gram.flatten(out).data_ptr() == out.data_ptr()


def test_a_model_in_bfloat16_gives_nearly_the_same():
    plain = compare([A, B], X, batch_size=50).matrix
    half = compare([small().bfloat16(), small(1, 9).bfloat16()], X.bfloat16(), batch_size=50)
    assert np.allclose(half.matrix, plain, atol=0.01)


def test_autocast_and_reduced_precision_do_not_reach_the_grams():
    matmul, wide = torch.backends.cuda.matmul, X.flatten(1)
    name = "fp32_precision" if hasattr(matmul, "fp32_precision") else "allow_tf32"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (wide @ wide.T).dtype == torch.bfloat16
        with gram.full_precision(torch.device("cpu")):
            assert (wide @ wide.T).dtype == torch.float32
    before = getattr(matmul, name)
    with gram.full_precision(torch.device("cpu")):
        assert getattr(matmul, name) in ("ieee", False)
    assert getattr(matmul, name) == before


def test_compensated_sums_match_float64_where_plain_float32_does_not():
    rows = [torch.randn(256, 256) + 3 for _ in range(3)]
    exact = gram.inner_products(torch.stack(rows))
    truth_ = np.array([[(a.double() * b.double()).sum().item() for b in rows] for a in rows])
    assert np.allclose(exact, truth_, rtol=1e-13)
    assert np.allclose(gram.inner_products(torch.stack(rows), compensated=True), truth_, rtol=3e-7)


def test_two_sum_carries_what_a_float32_sum_loses():
    """1e8 + 1 + ... + 1 - 1e8 in chunks of one product each."""
    n = 1024
    big = torch.zeros(4 * n)
    big[0], big[n], big[2 * n], big[3 * n] = 1e4, 1.0, 1.0, 1.0
    sign = big.clone()
    sign[0] = 1e4
    rows = torch.stack([big.view(64, 64), sign.view(64, 64)])
    value = gram.inner_products(rows, compensated=True)[0, 1]
    assert value == 1e8 + 3
    assert (torch.tensor(1e8) + 1 + 1 + 1).item() != 1e8 + 3


def test_asymmetric_measures_know_which_model_is_predicted():
    result = compare({"a": A, "b": B}, X, measures="regression", samples=100)
    forth = truth(sim.regression_similarity)
    back = np.array(
        [
            [sim.regression_similarity(features(B, X, j), features(A, X, i)) for i in LAYERS]
            for j in LAYERS
        ]
    )
    assert np.allclose(result.block("a", "b"), forth, atol=1e-5)
    assert np.allclose(result.block("b", "a"), back, atol=1e-5)
    assert abs(forth - back.T).max() > 0.01


def test_a_function_of_two_matrices_is_a_measure():
    def ranks(x, y):
        return x.shape[1] / y.shape[1]

    result = compare([A, B], X, measures=[ranks, "cka"], samples=50)
    assert result.matrix[0, 0] == pytest.approx(6 / 9)
    assert list(result.values) == ["ranks", "cka"]


def test_the_confounder_may_be_given_as_tensor_or_function():
    z = torch.randn(100, 4)
    given_ = compare([A, B], X, measures="deconfounded_cka", confounder=z, batch_size=100)
    expected = truth(lambda x, y: sim.deconfounded_cka_similarity(x, y, z))
    assert np.allclose(given_.matrix, expected, atol=1e-5)
    by_function = compare(
        [A, B], X, measures="deconfounded_cka", batch_size=50, confounder=lambda x: x.mean((2, 3))
    )
    by_tensor = compare(
        [A, B], X, measures="deconfounded_cka", batch_size=50, confounder=X.mean((2, 3))
    )
    assert np.allclose(by_function.matrix, by_tensor.matrix)
    with pytest.raises(ValueError, match="constant or NaN in the 50 samples from 50 on"):
        compare([A, B], torch.cat([X[:50], 0 * X[50:]]), measures="deconfounded_cka", batch_size=50)
    with pytest.raises(ValueError, match="confounder: 10 rows for the 50 samples"):
        compare([A, B], X, measures="deconfounded_cka", confounder=z[:60], batch_size=50)


def test_clamped_deconfounded_cka_matches_the_plain_function():
    value = compare(
        [A, B],
        X,
        measures="deconfounded_cka",
        batch_size=100,
        estimator="biased",
        options={"deconfounded_cka": {"clamp": True}},
    ).matrix
    expected = truth(
        lambda x, y: sim.deconfounded_cka_similarity(x, y, X.flatten(1), debiased=False, clamp=True)
    )
    assert np.allclose(value, expected, atol=1e-4)


def test_the_rbf_bandwidth_is_fixed_by_the_first_batch_and_recorded():
    stretched = torch.cat([X[:50], 10 * X[50:]])
    result = compare([A, B], stretched, measures="rbf_cka", batch_size=50)
    first = torch.pdist(features(A, X[:50], 0)).median().item()
    assert result.info.sigma["Sequential/0"] == pytest.approx(first, rel=1e-5)
    half = compare(
        [A, B], stretched, measures="rbf_cka", batch_size=50, options={"rbf_cka": {"scale": 0.5}}
    )
    assert half.info.sigma["Sequential/0"] == pytest.approx(first / 2, rel=1e-5)


def test_the_grams_of_every_batch_lie_where_those_of_the_first_did():
    """So nothing that outlives a model's activations is allocated among them."""
    draw = torch.Generator().manual_seed(0)
    batches = [[torch.randn(n, 9, generator=draw) for _ in range(3)] for n in (8, 8, 5, 8)]
    batches[1][1] = None  # a layer that is not called
    stack = sums.GramStack()
    places = []
    for of_batch in batches:
        n = len(of_batch[0])
        layers = []
        for row, x in enumerate(of_batch):
            layers.append(None if x is None else stack.gram_of(row, x))
        grams, units = stack.collected(layers, n)
        for x, matrix, unit in zip(of_batch, grams, units, strict=True):
            if x is None:
                assert matrix.isnan().all()
            else:
                expected, own_unit = gram.centred_gram(x)
                assert torch.equal(matrix, expected) and unit == own_unit
        places.append(grams.data_ptr())
    assert places[0] == places[1] != places[2]
