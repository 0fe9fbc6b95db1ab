"""The lines of the README that compare one's own two models run as they stand."""

import re
from pathlib import Path

import torch
import torchvision

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
(SNIPPET,) = [x for x in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "my_model" in x]


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
