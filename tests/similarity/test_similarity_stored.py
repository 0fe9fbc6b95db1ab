"""Stored features: arrays, tables, dicts of layers and files, their samples matched by ids."""

import numpy as np
import pandas as pd
import pytest
import torch
from small_features import normal
from torch import nn

from simlab.similarity import MEASURES, Result, cka_similarity, compare, deconfounded_cka_similarity

# all but those that need logits
ANY_LAYER = [name for name in MEASURES if name not in ("disagreement", "jensen_shannon")]

N = 60
F, G = normal(N, 12).numpy(), normal(N, 9, seed=1).numpy()
G = G + F[:, :9]  # related
NAMES = [f"s{i}" for i in range(N)]
CKA = cka_similarity(F, G)


@pytest.mark.parametrize(
    "stored",
    [
        {"a": F, "b": G},
        {"a": torch.from_numpy(F).requires_grad_(), "b": G.reshape(N, 3, 3)},
        {"a": {"features": F}, "b": [G]},
        {"a": pd.DataFrame(F), "b": pd.DataFrame(G, columns=list("abcdefghi"))},
        [F, G],
        [pd.DataFrame(F, NAMES), pd.DataFrame(G, NAMES)],
    ],
)
def test_features_of_every_form_give_the_value_of_the_plain_function(stored):
    result = compare(stored)
    assert result.matrix == pytest.approx(CKA, abs=1e-6)
    assert result.info.inputs == "stored features" and result.info.samples == N
    assert len(set(result.models)) == 2


def test_a_dict_of_layers_keeps_its_names_also_nested_and_with_dots(tmp_path):
    layers = {"stem": F, "block.0": G, "block": {"1": F + 1}}
    np.savez(tmp_path / "net.npz", **{"stem": F, "block.0": G, "block.1": F + 1})
    for entry in (layers, tmp_path / "net.npz", str(tmp_path / "net.npz")):
        result = compare({"net": entry})
        assert [layer.name for layer in result.layers] == ["stem", "block.0", "block.1"]
        assert list(result.to_frame().columns) == ["stem", "block.0", "block.1"]
        assert result.matrix[0, 1] == pytest.approx(CKA, abs=1e-6)
        assert result.matrix[0, 2] == pytest.approx(1)
    assert compare([tmp_path / "net.npz"]).models == ["net"]
    chosen = compare({"net": layers}, layers="block.*")
    assert [layer.name for layer in chosen.layers] == ["block.0", "block.1"]
    with pytest.raises(ValueError, match="model 'net': layers: 'blok.*'"):
        compare({"net": layers}, layers="blok.*")


@pytest.mark.long
def test_every_measure_works_on_stored_features():
    z = normal(N, 3, seed=5)
    result = compare({"a": F, "b": G}, measures=ANY_LAYER, confounder=z, null=3)
    values = {name: result.block(measure=name)[0, 0] for name in ANY_LAYER}
    assert np.isfinite(list(values.values())).all()
    expected = deconfounded_cka_similarity(F, G, z)
    assert values["deconfounded_cka"] == pytest.approx(expected, abs=1e-6)


def test_double_precision_is_kept():
    """A difference of 1e-9 beside a value of 1, which float32 does not hold."""
    small = 1 + 1e-9 * F
    assert compare({"a": small, "b": F}, measures="rsa").matrix == pytest.approx(1, abs=1e-3)


def test_samples_are_matched_by_their_ids():
    shuffled = np.random.default_rng(0).permutation(N)[:40]
    a = pd.DataFrame(F, NAMES)
    b = pd.DataFrame(G, NAMES).iloc[shuffled]
    common = np.sort(shuffled)
    expected = cka_similarity(F[common], G[common])
    assert abs(expected - cka_similarity(F[:40], G[shuffled])) > 0.1
    names = [NAMES[i] for i in shuffled]
    for stored, ids in (
        ({"a": a, "b": b}, None),
        ({"a": a, "b": {"ids": np.array(names), "l": G[shuffled]}}, None),
        ({"a": F, "b": G[shuffled]}, {"a": NAMES, "b": names}),
        ({"a": a, "b": G[shuffled]}, {"b": names}),
    ):
        result = compare(stored, ids=ids)
        assert result.matrix == pytest.approx(expected, abs=1e-6)
        assert result.info.correspondence == "matched by ids: 40 in common (of a 60, b 40)"
    z = normal(N, 3, seed=5)
    table = pd.DataFrame(z.numpy(), NAMES).iloc[::-1]
    for confounder in (z, table):
        result = compare({"a": a, "b": b}, None, None, "deconfounded_cka", confounder=confounder)
        expected = deconfounded_cka_similarity(F[common], G[common], z[common])
        assert result.matrix == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("options", [{}, {"batch_size": 13}, {"samples": 30}])
def test_models_and_features_meet_by_ids(options):
    model = nn.Linear(12, 5).double()
    index = np.random.default_rng(0).permutation(N)[:45]
    stored = pd.DataFrame(G, NAMES).iloc[index]
    x = torch.from_numpy(F)
    data = torch.utils.data.DataLoader(x, 16)
    result = compare({"m": model, "s": stored}, data, ids={"m": NAMES}, **options)
    assert result.info.correspondence == "matched by ids: 45 in common (of the data 60, s 45)"
    with torch.no_grad():
        y = model(x)
    index = np.sort(index)
    if "samples" in options:
        expected = cka_similarity(y[index[:30]], G[index[:30]])
        assert result.matrix == pytest.approx(expected, abs=1e-6)
    else:  # the batches of the loader, without the samples that were not stored
        first = index[index < 16]
        expected = compare({"m": y[first], "s": G[first]}).group_sums["cka"][0]
        assert result.info.samples == 45 and result.info.batches == 4
        assert np.allclose(result.group_sums["cka"][0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("models", "options", "error", "says"),
    [
        ({"a": F, "b": G[:50]}, {}, ValueError, r"\(a 60, b 50\) and no sample ids"),
        ({"a": pd.DataFrame(F, NAMES), "b": G}, {}, ValueError, "b: no sample ids, where others"),
        ({"a": F, "b": G}, {"ids": NAMES[:50]}, ValueError, "a: 50 ids for 60 samples"),
        ({"a": F, "b": G}, {"ids": [*NAMES[:-1], "s0"]}, ValueError, "'s0' stands there twice"),
        ({"a": F, "b": G}, {"ids": {"c": NAMES}}, ValueError, "ids='c'"),
        (
            {"a": pd.DataFrame(F, NAMES), "b": pd.DataFrame(G, range(5, 65))},
            {},
            ValueError,
            "0 sample ids in common.*a 's0', b 5",
        ),
        ({"a": {"x": F, "y": G[:9]}}, {}, ValueError, "'x': 60, 'y': 9"),
        ({"a": {}}, {}, ValueError, "a: it holds no layers"),
        ({"a": np.array(NAMES)}, {}, TypeError, "a: expected numbers"),
        ({"a": {"l": "x"}}, {}, TypeError, "a, layer 'l': expected a tensor.*got str"),
        ({"a": F}, {"data": F}, ValueError, "no model runs"),
        ({"a": F, "m": nn.Linear(12, 2)}, {}, TypeError, "data is missing: m needs"),
        ({"a": F, "m": nn.Linear(12, 2)}, {"data": F}, ValueError, "ids: features were stored"),
        ({"m": nn.Linear(12, 2)}, {"data": F, "ids": NAMES}, ValueError, "no stored features"),
        (
            {"a": G, "m": nn.Linear(12, 2)},
            {"data": F[:50], "ids": NAMES},
            ValueError,
            "ids: 60 for 50 samples",
        ),
        ({"a": F}, {"measures": "deconfounded_cka"}, ValueError, "confounder: stored features"),
        ("missing.npz", {}, OSError, "missing.npz"),
        ("net.pt", {}, TypeError, "'net.pt' is no model, and no path of an .npz file"),
    ],
)
def test_what_can_not_be_matched_or_read_is_refused(models, options, error, says):
    with pytest.raises(error, match=says):
        compare(models, **options)


def test_a_file_of_python_objects_is_refused(tmp_path):
    np.savez(tmp_path / "evil.npz", layer=np.array([{}, {}], dtype=object))
    with pytest.raises(ValueError, match="'layer' holds Python objects"):
        compare({"a": tmp_path / "evil.npz"})


def test_grams_that_do_not_fit_the_memory_are_refused_before_they_are_made():
    with pytest.raises(ValueError, match="batch_size="):
        compare({"a": F, "b": G}, memory=10_000)
    streamed = compare({"a": F, "b": G}, memory=10_000, batch_size=20)
    assert streamed.info.batches == 3 and streamed.info.mode == "stream"


def test_a_result_of_stored_features_is_saved_and_drawn(tmp_path):
    result = compare({"a": {"x": F, "y": F[:, :3]}, "b": G})
    back = Result.load(result.save(tmp_path / "r.npz"))
    assert back.info == result.info and np.array_equal(back.matrix, result.matrix)
