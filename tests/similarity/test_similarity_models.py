"""Which models and layers compare() runs, how often, and what it says of those it cannot use."""

import numpy as np
import pytest
import torch
import torchvision
from small_models import A, B, X, features, small
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from simlab.similarity import MEASURES, cka_similarity, compare, gram
from simlab.similarity.passes import pooled

# all but those that need logits
ANY_LAYER = [name for name in MEASURES if name not in ("disagreement", "jensen_shannon")]


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
    of_fifty = {net: [first for n, first in net.seen if n == 50] for net in (last, plain)}
    assert of_fifty == {last: [True, True], plain: [False, False]}
    assert last.seen[0] == plain.seen[0] == (1, True)  # which is tried on one image
    assert np.allclose(result.matrix.diagonal(), 1, atol=1e-6)


def test_functions_of_the_users_may_use_view_on_outputs():
    def pool(y):
        return y.view(len(y), -1)[:, :50]

    net, layer = Formats(view=False), "conv"
    pooled = compare([net], X, layer, batch_size=50, pool=pool)
    picked = compare([net], X, layer, batch_size=50, pick=lambda _, y: pool(y))
    assert pooled.layers[0].size == picked.layers[0].size == 50
    assert [last for n, last in net.seen if n == 50] == [True, True, False, False]


def test_features_keep_their_order_in_one_set_though_batches_differ_in_memory_format():
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
        samples=100,
        batch_size=25,
        layers={"Moody": "same", "Sequential": "0"},
    )
    assert result.matrix[0, 0] == pytest.approx(
        cka_similarity(X.flatten(1), features(A, X, 0)), abs=1e-6
    )


def test_the_same_model_twice_runs_once_and_is_alike_to_itself():
    runs = []
    handle = A.register_forward_hook(lambda _, x, out: runs.append(len(out)))
    result = compare({"first": A, "again": nn.DataParallel(A)}, X, batch_size=50)
    handle.remove()
    assert runs == [1, 2, 3, 50, 50]  # a few first: may it lie channels last, where are the axes
    assert np.allclose(result.matrix.diagonal(), 1)
    assert np.array_equal(result.matrix, result.block("first", "first"))


@pytest.mark.long
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
    assert result.info.batches == 150 and len(result.group_sums["cka"]) == 64
    expected = sum(
        gram.centre(f @ f.T).square().sum()
        for f in (net[:1](x).detach().double() for x in many.split(4))
    )
    assert result.group_sums["cka"].sum(0)[0, 0] == pytest.approx(expected.item(), rel=1e-5)


def test_one_set_takes_more_passes_if_memory_is_short_and_is_refused_if_a_layer_is_too_large():
    runs = []
    handle = A.register_forward_hook(lambda *_: runs.append(1))
    loose = compare([A, B], X, samples=100, batch_size=100)
    once = len(runs)
    tight = compare([A, B], X, samples=100, batch_size=100, memory=100 * 4 * 9 * 36)
    handle.remove()
    assert len(runs) - once > once
    assert np.array_equal(loose.matrix, tight.matrix)
    with pytest.raises(ValueError, match="pool them, take fewer samples, or raise memory"):
        compare([A, B], X, samples=100, memory=1000)


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


def test_pairs_within_a_model_are_left_out_where_they_cost_and_this_is_said():
    result = compare({"a": A, "b": B}, X, measures=["cca", "cka"], samples=60)
    with pytest.raises(ValueError, match="across models only: compare 'a' alone"):
        result.block("a", "a", "cca")
    assert result.overview("4", "cca")[0, 0] == pytest.approx(1)  # itself is known
    assert np.isfinite(result.block("a", "a", "cka")).all()
    assert np.isfinite(compare(A, X, measures="cca", samples=60).matrix).all()


def test_the_permutation_null_is_centred_and_tells_signal_from_none():
    noise = nn.Sequential(Scramble(), nn.Linear(192, 30))
    for name in ("cka", "deconfounded_cka", "mutual_knn", "procrustes_distance"):
        result = compare(
            [A, noise],
            X,
            measures=name,
            samples=60,
            null=39,
            confounder=torch.randn(60, 3),
            layers={"Sequential": ["0", "2"], "Sequential 2": "1"},
        )
        unrelated = result.p_values()
        assert (unrelated > 0.025).all(), name
        alike = compare([A, A], X, measures=name, samples=60, null=39, layers="0").p_values()
        assert alike[0, 0] == pytest.approx(1 / 40), name
    assert abs(compare([A, B], X, samples=60, null=39).nulls["cka"].mean()) < 0.02


class Scramble(nn.Module):
    """Shuffles the samples: nothing corresponds any more."""

    def forward(self, x):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(3))
        return x.flatten(1)[order]


def test_pooling_averages_positions_or_tokens_or_takes_the_first_token():
    tokens, maps = torch.randn(5, 7, 3), torch.randn(5, 3, 2, 2)

    assert torch.equal(pooled(tokens, "mean", 2), tokens.mean(1))
    assert torch.allclose(pooled(maps, "mean", 1), maps.mean((2, 3)))
    assert torch.equal(pooled(tokens, "cls", 2), tokens[:, 0])
    assert pooled(maps, "flatten") is maps
    assert torch.equal(pooled(maps, lambda m: m.amax((2, 3))), maps.amax((2, 3)))
    with pytest.raises(ValueError, match="each model its own"):
        pooled(maps, "cls", 1)
    with pytest.raises(ValueError, match="pool='max'"):
        pooled(maps, "max")


def test_pooling_can_differ_between_models_and_is_recorded():
    result = compare({"a": A, "b": B}, X, pool={"a": "mean", "b": "flatten"}, layers="0")
    assert [layer.size for layer in result.layers] == [6, 9 * 36]
    assert result.layers[0].shape == (6, 6, 6)
    assert result.info.pool == {"a": "mean", "b": "flatten"}


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
    assert result.reasons == {
        "Recurrent/attention.out_proj": "not called in the forward pass: 'attention' reads its "
        "weights"
    }
    with pytest.raises(ValueError, match="was called: 'attention.out_proj': not called.*reads"):
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
    assert result.info.correspondence == "checked by labels"


@pytest.mark.long
def test_vit_b_16_compares_with_resnet18():
    vit = torchvision.models.vit_b_16(image_size=32, num_classes=3)
    resnet = torchvision.models.resnet18(num_classes=3)
    result = compare(
        {"vit": vit, "resnet": resnet},
        torch.randn(5, 3, 32, 32),
        layers={
            "vit": ["encoder.layers.encoder_layer_?", "encoder.layers.*.self_attention"],
            "resnet": "layer?",
        },
        pool="mean",
    )
    assert result.matrix.shape == (22, 4)  # twelve attentions and ten blocks of one digit
    assert np.isfinite(result.matrix).all()


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
    "options", [{}, {"estimator": "biased"}, {"estimator": "published"}, {"samples": 40}]
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
    assert "no float tensor with an axis of samples" in result.reasons["Faulty/odd"]
    assert "Faulty/good" not in result.reasons


def test_every_measure_survives_faulty_layers():
    result = compare(
        [Faulty(), A],
        X,
        measures=ANY_LAYER,
        samples=30,
        null=2,
        layers={"Faulty": nn.Identity, "Sequential": "0"},
    )
    for name in ANY_LAYER:
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
            self.count += len(x) > 3  # a few images are tried before the first batch
            (self.early if self.count == 1 else self.late)(x.flatten(1))
            return self.always(x.flatten(1))

    result = compare(Moody(), X, batch_size=50)
    assert result.reasons["Moody/early"] == "not called in batch 1"
    assert result.reasons["Moody/late"] == "left out: first called in batch 1"
    always = [layer.name for layer in result.layers].index("always")
    with_itself = result.matrix[always, always]
    assert with_itself == pytest.approx(1)
    assert np.isnan(np.delete(result.matrix[always], always)).all()


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
