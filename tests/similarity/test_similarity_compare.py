"""compare(): one pass gives what the formulas give; what does not fit is refused or explained."""

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from simlab import similarity as sim
from simlab.similarity import MEASURES, cka_similarity, compare, gram
from simlab.similarity.samples import Samples

torch.manual_seed(0)
X = torch.randn(100, 3, 8, 8)


def small(seed=0, width=6):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 2, 3), nn.Flatten(), nn.Linear(32, 7)
    ).eval()


def features(model, x, upto):
    with torch.no_grad():
        return model[: upto + 1](x).flatten(1).double()


A, B = small(), small(1, 9)
PLACES = (0, 2, 4)


def truth(measure, **options):
    return np.array(
        [[measure(features(A, X, i), features(B, X, j), **options) for j in PLACES] for i in PLACES]
    )


# One pass against the formulas.


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


@pytest.mark.parametrize("probe", [100, 64])
def test_a_probe_set_gives_every_measure_as_the_plain_functions_do(probe):
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
        "deconfounded_cka": lambda x, y: sim.deconfounded_cka_similarity(
            x, y, X[:probe].flatten(1)
        ),
    }
    assert plain.keys() == MEASURES.keys()
    result = compare([A, B], X, measures=list(plain), probe=probe, batch_size=30)
    assert result.info["samples"] == probe
    for name, measure in plain.items():
        expected = [
            [measure(features(A, X[:probe], i), features(B, X[:probe], j)) for j in PLACES]
            for i in PLACES
        ]
        assert np.allclose(result.block(measure=name), expected, atol=2e-5), name
        assert result.info["kinds"][name] in ("similarity", "distance")


def test_batches_pool_as_the_cosine_of_concatenated_centred_grams():
    """Nguyen 2021: sums over batches are divided; it is not the CKA of all samples at once."""
    result = compare([A, B], X, batch_size=20)
    for i, a in enumerate(PLACES):
        for j, b in enumerate(PLACES):
            rows = [
                torch.cat(
                    [
                        gram.center(f @ f.T).flatten()
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
                    for j in PLACES
                ]
                for i in PLACES
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
                    for j in PLACES
                ]
                for i in PLACES
            ]
            for x in parts
        ],
        axis=0,
    )
    assert np.allclose(result.block(measure="deconfounded_cka"), mean, atol=1e-5)


def test_debiased_cka_of_independent_models_of_noise_is_zero_and_published_is_far_from_it():
    """The published one is about .97 at n = 8 whatever the models: the reason for the default."""
    x = torch.randn(400, 200)
    a, b = (nn.Sequential(Halves(part), nn.Linear(100, 100)) for part in (0, 1))
    near = compare([a, b], x, batch_size=8).matrix
    far = compare([a, b], x, batch_size=8, estimator="published").matrix
    assert abs(near).max() < 0.1 and far.min() > 0.85


class Halves(nn.Module):
    def __init__(self, part):
        super().__init__()
        self.part = part

    def forward(self, x):
        return x.chunk(2, 1)[self.part]


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


class Formats(nn.Module):
    """Notes how its images lie in memory; with `view`, it takes them one way only."""

    def __init__(self, view):
        super().__init__()
        self.view, self.seen = view, []
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8 * 36, 4)

    def forward(self, x):
        self.seen.append((len(x), x.is_contiguous(memory_format=torch.channels_last)))
        y = self.conv(x).relu()
        return self.head(y.view(len(x), -1) if self.view else y.flatten(1))


def test_images_lie_channels_last_where_the_model_takes_them_so():
    last, plain = Formats(view=False), Formats(view=True)
    plain.load_state_dict(last.state_dict())
    result = compare({"last": last, "plain": plain}, X, batch_size=50)
    assert last.seen == [(1, True), (50, True), (50, True)]
    assert plain.seen == [(1, True), (50, False), (50, False)]
    assert np.allclose(result.matrix.diagonal(), 1, atol=1e-6)


def test_functions_of_the_users_may_use_view_on_outputs():
    def pool(y):
        return y.view(len(y), -1)[:, :50]

    net, layer = Formats(view=False), "conv"
    pooled = compare([net], X, layer, batch_size=50, pool=pool)
    picked = compare([net], X, layer, batch_size=50, pick=lambda _, y: pool(y))
    assert pooled.layers[0].size == picked.layers[0].size == 50
    assert not any(last for n, last in net.seen[3:])


def test_features_keep_their_order_in_a_probe_though_batches_differ_in_memory_format():
    class Moody(nn.Module):
        def __init__(self):
            super().__init__()
            self.same, self.count = nn.Identity(), 0

        def forward(self, x):
            self.count += 1
            form = torch.channels_last if self.count % 2 else torch.contiguous_format
            return self.same(x.contiguous(memory_format=form))

    result = compare(
        [Moody(), A],
        X,
        measures=["cka", "pwcca"],
        probe=100,
        batch_size=25,
        layers={"Moody": "same", "Sequential": "0"},
    )
    assert result.matrix[0, 0] == pytest.approx(
        cka_similarity(X.flatten(1), features(A, X, 0)), abs=1e-6
    )


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


# Memory and forward passes.


def test_the_same_model_twice_runs_once_and_is_alike_to_itself():
    runs = []
    handle = A.register_forward_hook(lambda _, x, out: runs.append(len(out)))
    result = compare({"first": A, "again": nn.DataParallel(A)}, X, batch_size=50)
    handle.remove()
    assert runs == [1, 50, 50]  # one image first, to see whether it may lie channels last
    assert np.allclose(result.matrix.diagonal(), 1)
    assert np.array_equal(result.matrix, result.block("first", "first"))


def test_features_are_freed_before_the_next_layer_and_nothing_grows_with_the_samples():
    import weakref

    alive, most = [], []

    def watch(module, _, output):
        alive[:] = [ref for ref in alive if ref() is not None]
        most.append(len(alive))
        alive.append(weakref.ref(output))

    net = nn.Sequential(*[nn.Linear(5, 5) for _ in range(6)])
    handles = [m.register_forward_hook(watch) for m in net]
    compare(net, torch.randn(40, 5), batch_size=8)
    for handle in handles:
        handle.remove()
    assert max(most) <= 2  # the input of the layer, and the one before in Sequential's loop
    many = torch.randn(4 * 150, 5)
    result = compare(net, many, batch_size=4)
    assert result.info["batches"] == 150 and len(result.groups["cka"]) == 64
    own = sum(
        gram.center(f @ f.T).square().sum()
        for f in (net[:1](x).detach().double() for x in many.split(4))
    )
    assert result.groups["cka"].sum(0)[0, 0] == pytest.approx(own.item(), rel=1e-5)


def test_a_probe_runs_in_rounds_when_memory_is_short_and_refuses_when_one_layer_is_too_large():
    runs = []
    handle = A.register_forward_hook(lambda *_: runs.append(1))
    loose = compare([A, B], X, probe=100, batch_size=100)
    once = len(runs)
    tight = compare([A, B], X, probe=100, batch_size=100, memory=100 * 4 * 9 * 36)
    handle.remove()
    assert len(runs) - once > once
    assert np.array_equal(loose.matrix, tight.matrix)
    with pytest.raises(ValueError, match="pool them, probe fewer, or raise memory"):
        compare([A, B], X, probe=100, memory=1000)


def test_models_of_many_epochs_give_one_matrix_with_all_blocks():
    models = {f"epoch {e}": small(e) for e in range(4)}
    result = compare(models, X, batch_size=25)
    assert result.models == list(models) and len(result.layers) == 12
    assert result.block("epoch 1", "epoch 3").shape == (3, 3)
    pairwise = compare([models["epoch 1"], models["epoch 3"]], X, batch_size=25).matrix
    assert np.allclose(result.block("epoch 1", "epoch 3"), pairwise)
    assert np.allclose(result.block("epoch 3", "epoch 1"), result.block("epoch 1", "epoch 3").T)
    assert result.overview().shape == (4, 4)
    assert result.overview("0")[1, 3] == result.block("epoch 1", "epoch 3")[0, 0]


def test_asymmetric_measures_know_which_model_is_predicted():
    result = compare({"a": A, "b": B}, X, measures="regression", probe=100)
    forth = truth(sim.regression_similarity)
    back = np.array(
        [
            [sim.regression_similarity(features(B, X, j), features(A, X, i)) for i in PLACES]
            for j in PLACES
        ]
    )
    assert np.allclose(result.block("a", "b"), forth, atol=1e-5)
    assert np.allclose(result.block("b", "a"), back, atol=1e-5)
    assert abs(forth - back.T).max() > 0.01


def test_pairs_within_a_model_are_left_out_where_they_cost_and_this_is_said():
    result = compare({"a": A, "b": B}, X, measures=["cca", "cka"], probe=60)
    with pytest.raises(ValueError, match="across models only: compare 'a' alone"):
        result.block("a", "a", "cca")
    assert result.overview("4", "cca")[0, 0] == pytest.approx(1)  # itself is known
    assert np.isfinite(result.block("a", "a", "cka")).all()
    assert np.isfinite(compare(A, X, measures="cca", probe=60).matrix).all()


def test_a_function_of_two_matrices_is_a_measure():
    def ranks(x, y):
        return x.shape[1] / y.shape[1]

    result = compare([A, B], X, measures=[ranks, "cka"], probe=50)
    assert result.matrix[0, 0] == pytest.approx(6 / 9)
    assert list(result.values) == ["ranks", "cka"]


def test_the_permutation_null_is_centred_and_tells_signal_from_none():
    noise = nn.Sequential(Scramble(), nn.Linear(192, 30))
    for name in ("cka", "deconfounded_cka", "mutual_knn", "procrustes_distance"):
        result = compare(
            [A, noise],
            X,
            measures=name,
            probe=60,
            null=39,
            confounder=torch.randn(60, 3),
            layers={"Sequential": ["0", "2"], "Sequential 2": "1"},
        )
        unrelated = result.p_values()
        assert (unrelated > 0.025).all(), name
        alike = compare([A, A], X, measures=name, probe=60, null=39, layers="0").p_values()
        assert alike[0, 0] == pytest.approx(1 / 40), name
    assert abs(compare([A, B], X, probe=60, null=39).nulls["cka"].mean()) < 0.02


class Scramble(nn.Module):
    """Shuffles the samples: nothing corresponds any more."""

    def forward(self, x):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(3))
        return x.flatten(1)[order]


# Pooling, outputs, layers.


def test_pooling_averages_positions_or_tokens_or_takes_the_first_token():
    tokens, maps = torch.randn(5, 7, 3), torch.randn(5, 3, 2, 2)
    from simlab.similarity.passes import pooled

    assert torch.equal(pooled(tokens, "mean"), tokens.mean(1))
    assert torch.allclose(pooled(maps, "mean"), maps.mean((2, 3)))
    assert torch.equal(pooled(tokens, "cls"), tokens[:, 0])
    assert pooled(maps, "flatten") is maps
    assert torch.equal(pooled(maps, lambda m: m.amax((2, 3))), maps.amax((2, 3)))
    with pytest.raises(ValueError, match="each model its own"):
        pooled(maps, "cls")
    with pytest.raises(ValueError, match="pool='max'"):
        pooled(maps, "max")


def test_pooling_can_differ_between_models_and_is_recorded():
    result = compare({"a": A, "b": B}, X, pool={"a": "mean", "b": "flatten"}, layers="0")
    assert [layer.size for layer in result.layers] == [6, 9 * 36]
    assert result.layers[0].shape == (6, 6, 6)
    assert result.info["pool"] == {"a": "mean", "b": "flatten"}


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 5, batch_first=True)
        self.attention = nn.MultiheadAttention(5, 1, batch_first=True)
        self.same = nn.Linear(5, 5)

    def forward(self, x):
        x = self.lstm(x.flatten(1, 2))[0]
        x = self.attention(x, x, x)[0]
        return {"out": self.same(self.same(x))}


def test_lstm_attention_and_repeated_modules_have_rows():
    result = compare(Recurrent(), X, layers=["lstm", "attention", "same"])
    assert [layer.name for layer in result.layers] == ["lstm", "attention", "same", "same#2"]
    assert np.allclose(result.matrix.diagonal(), 1)
    assert result.reasons == {}


def test_selected_layers_that_never_run_are_reported_not_silently_dropped():
    net = Recurrent()
    result = compare(net, X, layers=[nn.Linear, "lstm"])
    assert result.reasons == {"Recurrent/attention.out_proj": "not called in the forward pass"}
    with pytest.raises(ValueError, match="no selected layer was called"):
        compare(net, X, layers="attention.out_proj")


def test_vit_and_resnet_compare_at_images_of_their_own_size():
    torch.manual_seed(0)
    vit = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=4)
    resnet = torchvision.models.resnet18(num_classes=4)
    labels = torch.arange(24) % 4
    small_, large = torch.randn(24, 3, 24, 24), torch.randn(24, 3, 32, 32)
    loaders = [DataLoader(TensorDataset(x, labels), 8) for x in (large, small_)]
    result = compare(
        {"vit": vit, "resnet": resnet},
        tuple(loaders),
        layers={"vit": "encoder.layers.*.mlp", "resnet": "layer?"},
        pool={"vit": "cls", "resnet": "mean"},
    )
    assert result.matrix.shape == (2, 4) and np.isfinite(result.matrix).all()
    assert result.info["correspondence"] == "checked by labels"


def test_vit_b_16_compares_with_resnet18():
    vit = torchvision.models.vit_b_16(image_size=32, num_classes=3)
    resnet = torchvision.models.resnet18(num_classes=3)
    result = compare(
        {"vit": vit, "resnet": resnet},
        torch.randn(5, 3, 32, 32),
        layers={"vit": ["encoder.layers.encoder_layer_?", "encoder.layers.*.self_attention"], "resnet": "layer?"},
        pool="mean",
    )
    assert result.matrix.shape == (22, 4)  # twelve attentions and ten blocks of one digit
    assert np.isfinite(result.matrix).all()


# Undefined cells.


class Faulty(nn.Module):
    def __init__(self):
        super().__init__()
        self.good, self.constant, self.nan = nn.Identity(), nn.Identity(), nn.Identity()
        self.odd, self.wobble = nn.Identity(), nn.Identity()

    def forward(self, x):
        x = self.good(x.flatten(1))
        self.constant(torch.full_like(x, 0.1))
        self.wobble(torch.full_like(x, 0.1) * (1 + 1e-7 * torch.arange(len(x))[:, None].sign()))
        self.nan(x / 0 * 0)
        self.odd(x[:3])
        return x


@pytest.mark.parametrize(
    "options", [{}, {"estimator": "biased"}, {"estimator": "published"}, {"probe": 40}]
)
def test_only_the_cells_of_a_faulty_layer_are_nan_and_the_reason_is_told(options):
    result = compare(Faulty(), X, layers=nn.Identity, batch_size=20, **options)
    names = [layer.name for layer in result.layers]
    fine = [name == "good" for name in names]
    assert np.isnan(result.matrix[~np.array(fine)]).all()
    assert result.matrix[0, 0] == pytest.approx(1)
    assert "constant" in result.reasons["Faulty/constant"]
    assert "constant" in result.reasons["Faulty/wobble"]  # rounding is no structure
    assert "NaN" in result.reasons["Faulty/nan"]
    assert "first dimension" in result.reasons["Faulty/odd"]
    assert "Faulty/good" not in result.reasons


def test_every_measure_survives_faulty_layers():
    result = compare(
        [Faulty(), A],
        X,
        measures=list(MEASURES),
        probe=30,
        null=2,
        layers={"Faulty": nn.Identity, "Sequential": "0"},
    )
    for name in MEASURES:
        values = result.block(measure=name)[:, 0]
        assert np.isfinite(values[0]) == (name != "deconfounded_cka"), name
        assert np.isnan(values[1:]).all(), name
    # "good" is the image itself.
    assert "confounder" in result.reasons["Faulty/good (deconfounded_cka)"]


def test_samples_that_coincide_or_are_equally_far_apart_are_told_by_measure():
    same = torch.cat([torch.zeros(30, 5), torch.randn(10, 5)])
    result = compare(nn.Identity(), same, measures=["cka", "rbf_cka"], batch_size=40)
    assert result.matrix == pytest.approx(1) and np.isnan(result.block(measure="rbf_cka")).all()
    assert result.reasons == {
        "Identity/ (rbf_cka)": "half of its samples or more coincide: its kernel has no width"
    }
    apart = compare(nn.Identity(), torch.eye(40), batch_size=40)
    assert np.isnan(apart.matrix).all()
    assert apart.reasons == {"Identity/ (cka)": "its samples are all equally far apart"}
    biased = compare(nn.Identity(), torch.eye(40), batch_size=40, estimator="biased")
    assert biased.matrix == pytest.approx(1) and not biased.reasons


def test_a_layer_that_is_skipped_in_some_batches_is_nan_with_the_batch():
    class Moody(nn.Module):
        def __init__(self):
            super().__init__()
            self.always, self.early, self.late = (nn.Linear(192, 3) for _ in range(3))
            self.count = 0

        def forward(self, x):
            self.count += len(x) > 1  # one image is tried before the first batch
            (self.early if self.count == 1 else self.late)(x.flatten(1))
            return self.always(x.flatten(1))

    result = compare(Moody(), X, batch_size=50)
    assert result.reasons["Moody/early"] == "not called in batch 1"
    assert result.reasons["Moody/late"] == "left out: first called in batch 1"
    assert result.matrix[[o.name for o in result.layers].index("always")].tolist().count(1.0) == 1


# Data.


def test_tensors_loaders_and_iterables_are_one_and_the_same():
    labels = torch.arange(100)
    expected = compare([A, B], X, batch_size=25).matrix
    for data in (
        DataLoader(TensorDataset(X), 25),
        DataLoader(TensorDataset(X, labels), 25),
        list(X.split(25)),
        ((x, "y", 3) for x in X.split(25)),
        (X, labels),
        DataLoader(X, 25),
    ):
        assert np.allclose(compare([A, B], data, batch_size=25).matrix, expected, atol=1e-12)


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_small_batches_are_merged_and_no_sample_is_lost(sizes):
    x = torch.arange(float(sum(sizes)))[:, None]
    samples = Samples(list(x.split(sizes)), 1, 128)
    if sum(sizes) < 4:
        with pytest.raises(ValueError, match="at least 4 samples"):
            list(samples)
        return
    got = [batch[0] for batch in samples]
    assert torch.equal(torch.cat(got), x)
    assert all(4 <= len(b) <= max(max(sizes), 3) + 6 for b in got)


def test_a_tail_of_one_sample_changes_little_and_makes_no_nan():
    value = compare([A, B], X[:97], batch_size=32).matrix
    assert np.isfinite(value).all()
    assert abs(value - compare([A, B], X[:96], batch_size=32).matrix).max() < 0.05


def test_images_that_are_not_finite_or_not_float_are_refused():
    bad = X.clone()
    bad[57, 0, 0, :2] = float("inf")
    with pytest.raises(ValueError, match="batch 1: 2 values.*first in sample 7"):
        compare([A, B], bad, batch_size=50)
    with pytest.raises(TypeError, match="uint8"):
        compare([A, B], (X * 9).byte())
    with pytest.raises(TypeError, match="batch 0: expected a tensor .* got str"):
        compare([A, B], ["images"])
    with pytest.raises(TypeError, match="got dict"):
        compare([A, B], {"x": X})


def loader(x, labels=None, **options):
    return DataLoader(TensorDataset(x, *([] if labels is None else [labels])), 25, **options)


def test_two_shufflings_of_one_data_set_are_refused():
    labels = torch.arange(100) % 5
    generators = [torch.Generator().manual_seed(s) for s in (0, 1)]
    with pytest.raises(ValueError, match="disagree on"):
        compare([A, B], tuple(loader(X, labels, shuffle=True, generator=g) for g in generators))
    with pytest.raises(ValueError, match="stands elsewhere"):
        compare([A, B], tuple(loader(X, shuffle=True, generator=g) for g in generators))
    with pytest.raises(ValueError, match="stands elsewhere"):
        compare([A, B], (X, X.flip(0)), batch_size=25)
    # Other images, no labels: nothing can be checked, and shuffling loaders are not trusted.
    with pytest.raises(ValueError, match="the loaders shuffle"):
        compare([A, B], (loader(X, shuffle=True), loader(X + 1, shuffle=True)))
    same_labels = torch.zeros(100)
    with pytest.raises(ValueError, match="the loaders shuffle"):
        compare(
            [A, B], (loader(X, same_labels, shuffle=True), loader(X + 1, same_labels, shuffle=True))
        )


def test_streams_that_correspond_pass_and_the_result_says_how_it_was_checked():
    labels = torch.arange(100) % 5
    alike = [torch.Generator().manual_seed(5) for _ in range(2)]
    pairs = {
        "one stream": (loader(X, shuffle=True),) * 2,
        "checked by labels": (loader(X, labels), loader(X + 1, labels)),
        "checked by images": tuple(loader(X, shuffle=True, generator=g) for g in alike),
        "checked by labels and images": (loader(X, labels), loader(X.clone(), labels)),
        "unchecked": (loader(X), loader(X + 1)),
    }
    for how, data in pairs.items():
        assert compare([A, B], data).info["correspondence"] == how


def test_a_last_batch_of_one_sample_does_not_undo_the_proof_by_labels():
    labels = torch.arange(76) % 5
    alike = [torch.Generator().manual_seed(5) for _ in range(2)]
    streams = [loader(X[:76] + i, labels, shuffle=True, generator=g) for i, g in enumerate(alike)]
    assert compare([A, B], tuple(streams)).info["correspondence"] == "checked by labels"


def test_streams_of_different_length_or_batch_size_are_refused():
    with pytest.raises(ValueError, match="ends after 3 batches"):
        compare([A, B], (X[:75], X), batch_size=25)
    with pytest.raises(ValueError, match=r"\[25, 20\] samples"):
        compare([A, B], (X, list(X.split(20))), batch_size=25)
    with pytest.raises(ValueError, match="tuple of 3"):
        compare([A, B], (X, X, X))


def test_each_model_sees_its_own_stream():
    other = X + 5 * torch.randn(100, 3, 8, 8)
    result = compare([A, A], (X, other), batch_size=50)
    assert result.matrix[0, 0] < 0.9
    # One module, watched twice: neither run sees the other's outputs.
    assert [o.name for o in result.layers] == ["0", "2", "4"] * 2
    apart = compare([A, small()], (X, other), batch_size=50)
    assert np.array_equal(result.matrix, apart.matrix)


def test_one_model_with_different_layers_or_pooling_is_watched_twice():
    result = compare(
        {"a": A, "b": A}, X, {"a": "0", "b": ["2", "4"]}, pool={"a": "mean", "b": "flatten"}
    )
    assert [(o.model, o.name) for o in result.layers] == [("a", "0"), ("b", "2"), ("b", "4")]
    assert np.allclose(
        result.matrix,
        compare(
            [A, small()],
            X,
            {"Sequential": "0", "Sequential 2": ["2", "4"]},
            pool={"Sequential": "mean", "Sequential 2": "flatten"},
        ).matrix,
    )


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
    assert result.info["sigma"]["Sequential/0"] == pytest.approx(first, rel=1e-5)
    half = compare(
        [A, B], stretched, measures="rbf_cka", batch_size=50, options={"rbf_cka": {"scale": 0.5}}
    )
    assert half.info["sigma"]["Sequential/0"] == pytest.approx(first / 2, rel=1e-5)


# Arguments.


@pytest.mark.parametrize(
    "error, match, options",
    [
        (ValueError, "did you mean 'procrustes_distance'", {"measures": "procrustes_dist"}),
        (ValueError, "estimator='unbiased'", {"estimator": "unbiased"}),
        (ValueError, "rsa: needs all samples at once", {"measures": "rsa"}),
        (ValueError, "null: needs all samples", {"null": 10}),
        (ValueError, "options='mutual_knn'.*Known: cka", {"options": {"mutual_knn": {"k": 3}}}),
        (
            ValueError,
            "option of rbf_cka='sigma'.*scale",
            {"measures": "rbf_cka", "options": {"rbf_cka": {"sigma": 3}}},
        ),
        (
            ValueError,
            "option of cca='square'.*squared",
            {"measures": "cca", "probe": 50, "options": {"cca": {"square": True}}},
        ),
        (
            ValueError,
            "option of max='m'.*Known: none",  # a function of the user's has no options
            {"measures": max, "probe": 50, "options": {"max": {"m": 1}}},
        ),
        (ValueError, "matches nothing", {"layers": "conv"}),
        (ValueError, "did you mean 'Sequential'", {"layers": {"Sequentail": "0"}}),
        (ValueError, "at least 4 samples, got 3", {"probe": 3}),
    ],
)
def test_arguments_that_do_not_fit_are_refused(error, match, options):
    with pytest.raises(error, match=match):
        compare([A, B], X, **options)


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match="'b'|: b"):
        compare({"a": A, "b": "resnet18"}, X)
    with pytest.raises(TypeError, match="none given"):
        compare([], X)


def test_models_of_one_class_get_different_names():
    assert compare([A, B, small(2)], X).models == ["Sequential", "Sequential 2", "Sequential 3"]
