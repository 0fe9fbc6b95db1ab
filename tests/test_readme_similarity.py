"""The lines of the README that compare one's own two models run as they stand."""

from pathlib import Path

import torch
import torchvision

SNIPPET = """\
from simlab.similarity import compare, preview

# a float tensor [N, C, H, W], normalised as in training; or a DataLoader, of which `preview` gets
# one batch: next(iter(data))[0]
data = my_images
models = {"mine": my_model, "theirs": their_model}  # any two nn.Modules, or many
print(preview(my_model, data[:2], "layer?.*"))  # the layers: name, type, shape, size
result = compare(models, data, "layer?", ["cka", "deconfounded_cka"], batch_size=16)
print(result.to_frame())  # debiased CKA with layer names
low, high = result.interval()  # 95 %, by resampling batches: ten or more
ax = result.plot()  # layers by layers
ax = result.plot("depth", measure="deconfounded_cka")  # a curve, the images' share taken out
result.save("similarity.npz")  # Result.load reads it back
"""


def test_the_lines_of_the_readme_run(tmp_path, monkeypatch, capsys):
    import matplotlib

    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = {
        "my_images": torch.randn(160, 3, 32, 32),
        "my_model": torchvision.models.resnet18(num_classes=4),
        "their_model": torchvision.models.resnet18(num_classes=4),
    }
    exec(SNIPPET, names)
    printed = capsys.readouterr().out
    assert "layer1.0" in printed and "layer4" in printed
    assert names["result"].matrix.shape == (4, 4)
    assert (names["low"] <= names["result"].matrix).all()
    assert (tmp_path / "similarity.npz").exists()


def test_the_readme_shows_these_lines():
    assert SNIPPET in (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
