"""What of a batch the models see: named, never dropped without a word, and nobody else's to edit."""

from collections import UserDict

import numpy as np
import pytest
import torch
from small_models import A, B, X
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from simlab.similarity import compare, preview

IDS = torch.randint(0, 50, (48, 12), generator=torch.Generator().manual_seed(0))
MASK = (torch.arange(12) < torch.arange(48)[:, None] % 9 + 3).float()  # padded texts
MASKED = DataLoader(TensorDataset(IDS, MASK), 24)
CLASSES = torch.arange(48) % 3


class Text(nn.Module):
    """Means of the embeddings of the words that are not masked."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(50, 16)
        self.head = nn.Linear(16, 8)
        self.seen = set()

    def forward(self, ids, mask=None, labels=None):
        self.seen = {"mask": mask is not None, "labels": labels is not None}
        weights = torch.ones(ids.shape) if mask is None else mask
        return self.head((self.embed(ids) * weights[..., None]).mean(1))


class OnlyByName(Text):
    def forward(self, *, ids, mask):
        return super().forward(ids, mask)


def values(data, model=None, **options):
    return compare({"text": model or Text()}, data, "head", batch_size=24, **options)


with_mask = values(MASKED, inputs=[0, 1]).group_sums["cka"]


@pytest.mark.parametrize(
    ("data", "options", "words"),
    [
        (MASKED, {"inputs": [0, 1]}, "model(entry 0, entry 1)"),
        (MASKED, {"inputs": {"mask": 1, "ids": 0}}, "model(mask=, ids=)"),
        (MASKED, {"forward": lambda m, b: m(b[0], mask=b[1])}, "forward(model, batch)"),
        ({"ids": IDS, "mask": MASK}, {}, "model(ids=, mask=)"),
        ({"ids": IDS.numpy(), "mask": MASK.numpy()}, {}, "model(ids=, mask=)"),
        (
            [UserDict(ids=i, mask=m) for i, m in MASKED],
            {"model": OnlyByName()},
            "model(ids=, mask=)",
        ),
        (
            [({"ids": i, "mask": m}, CLASSES[:24]) for i, m in MASKED],
            {},
            "model(ids=, mask=); entry 1 left out (labels)",
        ),
    ],
)
def test_the_mask_reaches_the_model_on_every_way(data, options, words):
    result = values(data, **options)
    assert np.allclose(result.group_sums["cka"], with_mask, rtol=1e-6)
    assert result.info.inputs == words and words in repr(result)


def test_without_its_mask_the_result_is_another_and_says_so():
    result = values(MASKED, inputs=0)
    assert result.info.inputs == "model(entry 0); entry 1 left out (by inputs=)"
    assert not np.allclose(result.group_sums["cka"], with_mask, rtol=1e-2)


@pytest.mark.parametrize("second", [MASK, MASK.long(), torch.rand(48), torch.ones(48, 3)])
def test_what_may_be_a_second_input_is_never_dropped_unsaid(second):
    with pytest.raises(ValueError, match=r"batch 0: entry 1.*second input.*inputs=\[0, 1\]"):
        values(DataLoader(TensorDataset(IDS, second), 24))


def test_sparse_data_are_refused_by_name():
    with pytest.raises(TypeError, match="got a sparse one: give tensor.to_dense()"):
        compare(nn.Linear(4, 2), torch.eye(4).to_sparse())
    with pytest.raises(TypeError, match="a: expected a dense tensor"):
        compare({"a": torch.eye(8).to_sparse(), "b": torch.randn(8, 3)})


def test_labels_are_named_and_go_only_to_models_that_take_them():
    text = Text()
    result = values({"ids": IDS, "labels": CLASSES}, text)
    assert text.seen["labels"]
    assert result.info.inputs == "model(ids=); labels left out (labels); text takes labels"
    images = compare(A, DataLoader(TensorDataset(X, torch.arange(100)), 50))
    assert images.info.inputs == "model(entry 0); entry 1 left out (labels)"


@pytest.mark.parametrize(
    ("data", "options", "error", "says"),
    [
        ({"idz": IDS}, {}, TypeError, "'text': it takes ids, mask, labels, and no 'idz'; did you"),
        (MASKED, {"inputs": [0, 2]}, ValueError, "inputs=2 is none of.*expected some of: 0, 1"),
        ([{"ids": IDS}], {"inputs": "idss"}, ValueError, "did you mean 'ids'"),
        ({"ids": IDS, "mask": MASK[:9]}, {}, ValueError, "'ids': 48, 'mask': 9"),
        ([{"ids": IDS, "words": ["a"]}], {}, TypeError, "got list as 'words'"),
        (MASKED, {"inputs": 0, "forward": print}, ValueError, "exclude each other"),
        (zip(IDS, CLASSES, strict=True), {}, ValueError, "one sample of a dataset.*DataLoader"),
        ((IDS, MASK), {}, ValueError, r"TensorDataset\(\*tensors\)"),
        ([(IDS, MASK[:9].long()[:, 0])], {"inputs": [0, 1]}, ValueError, "numbers of samples"),
    ],
)
def test_inputs_that_can_not_be_meant_are_refused(data, options, error, says):
    with pytest.raises(error, match=says):
        values(data, **options)


def test_tokens_are_no_images_to_be_regressed_out():
    with pytest.raises(ValueError, match="torch.int64, tokens perhaps.*confounder="):
        values({"ids": IDS, "mask": MASK}, measures="deconfounded_cka")
    lengths = MASK.sum(1, keepdim=True)
    result = values({"ids": IDS, "mask": MASK}, measures="deconfounded_cka", confounder=lengths)
    assert result.info.confounder == "given"


def test_texts_padded_to_several_lengths_are_compared_as_they_come():
    data = [
        {"ids": IDS[i : i + 16, :k], "mask": MASK[i : i + 16, :k]} for i, k in ((0, 12), (16, 11))
    ]
    assert np.isfinite(values(data).group_sums["cka"]).all()
    assert np.isfinite(values(data, measures="rsa", samples=32).matrix).all()
    with pytest.raises(ValueError, match="layer 'embed': its outputs have different sizes"):
        compare(Text(), data, samples=32)


def test_a_model_that_needs_more_is_told_what_it_was_called_with():
    class Two(nn.Module):
        def forward(self, a, b):
            return a + b

    with pytest.raises(TypeError, match=r"model 'two'.*'b'.*called as model\(batch\).*inputs="):
        compare({"two": Two()}, X)


class Editing(nn.Module):
    """Edits its input in place before anything else."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))

    def forward(self, x):
        numbers = torch.arange(len(x)) % 7
        return self.head(x.mul_(0).add_(numbers.reshape(-1, *[1] * (x.dim() - 1))))


@pytest.mark.parametrize("x", [X, X.flatten(1)], ids=["images", "vectors"])
@pytest.mark.parametrize("options", [{}, {"samples": 100}, {"samples": 100, "memory": 10**5}])
def test_a_model_that_edits_its_input_in_place_changes_nobody_elses(x, options):
    before = x.clone()
    measures = ["cka", "deconfounded_cka"]
    other = nn.Sequential(nn.Flatten(), nn.Linear(192, 6))
    result = compare({"e": Editing(), "o": other}, x, measures=measures, batch_size=50, **options)
    assert torch.equal(x, before)
    alone = compare({"o": other}, x, measures=measures, batch_size=50, **options)
    for measure in measures:
        same = result.block("o", "o", measure)
        assert np.allclose(same, alone.block(measure=measure), atol=1e-6)


def test_a_preview_takes_what_a_model_takes_and_leaves_it_as_it_is():
    table = preview(Text(), {"ids": IDS[:3], "mask": MASK[:3]})
    assert list(table["name"]) == ["embed", "head"] and table["size"].iloc[1] == 8
    before = X.clone()
    preview(Editing(), X)
    assert torch.equal(X, before)


def test_double_data_is_converted_for_a_float_model_and_that_is_said():
    result = compare(
        {"a": A, "half": nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).bfloat16()}, X.double()
    )
    assert "float64 converted to float32 for a" in result.info.inputs
    assert "float64 converted to bfloat16 for half" in result.info.inputs
    assert np.allclose(result.block("a", "a"), compare({"a": A}, X).matrix, atol=1e-6)


def test_the_model_and_layer_that_fail_are_named_and_the_type_of_the_error_stays():
    narrow = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(5, 2)))
    with pytest.raises(RuntimeError, match=r"model 'narrow', layer '1.0': mat1 and mat2"):
        compare({"a": A, "narrow": narrow}, X)

    class Sparse(nn.Module):
        def forward(self, x):
            return x.flatten(1).to_sparse()

    with pytest.raises(ValueError, match="'0': its output is a sparse tensor"):
        compare({"s": nn.Sequential(Sparse())}, X)
    with pytest.raises(ValueError, match="model 'b': layers: 'conv' matches nothing"):
        compare({"a": A, "b": B}, X, {"a": "0", "b": "conv"})


def test_images_of_several_sizes_one_a_batch():
    sizes = [(8, 9), (12, 8), (9, 9), (10, 8), (8, 8), (9, 10)]
    images = [
        torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1)) for size in sizes
    ]
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    with pytest.raises(ValueError, match=r"batch 1 can't join.*\(3, 8, 9\) and \(3, 12, 8\)"):
        compare(model, images)
    with pytest.raises(ValueError, match="layer '0'.*sizes"):
        compare({"m": model}, images, ["0", "3"], samples=6)
    result = compare(model, images, ["0", "3"], samples=6, pool="mean")
    with torch.no_grad():
        first = torch.cat([model[0](x).mean((2, 3)) for x in images])
        last = torch.cat([model(x) for x in images])
    stored = compare({"a": {"0": first, "3": last}})
    assert np.allclose(result.matrix, stored.matrix, atol=1e-5)
