"""The README's lines run as they stand."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
# the lines on two models are test_readme_similarity's
LINES = [x for x in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "my_model" not in x]


@pytest.mark.parametrize("lines", LINES, ids=range(len(LINES)))
def test_the_readmes_python_runs(lines, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SIMLAB_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(40):
            picture = generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / "pictures" / name / f"{i}.jpg")
    exec(compile(lines.replace("path/to/pictures", "pictures"), "README.md", "exec"), {})
    assert capsys.readouterr().out


def test_what_the_readme_links_to_exists():
    root = Path(__file__).parent.parent
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", README):
        assert (root / target).exists(), target


def test_the_two_commands_stand_on_the_first_screen():
    first = "\n".join(README.splitlines()[:30])
    assert "make run" in first and "make test" in first and "make lab" in first
