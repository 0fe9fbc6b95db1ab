"""The one-liners of docs/similarity.md are what they are called."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
from small_features import related

from simlab.similarity import MEASURES

PAGE = (Path(__file__).parent.parent.parent / "docs" / "similarity.md").read_text(encoding="utf-8")


def test_the_one_liners_are_their_definitions():
    x, y = (v - v.mean(0) for v in related())
    names = {"x": x, "y": y}
    exec(re.search(r"```python\n(.*?)```", PAGE, re.S)[1], names)
    k, m = (v.numpy() @ v.numpy().T for v in (x, y))
    root = scipy.linalg.sqrtm(k).real
    bures = np.trace(scipy.linalg.sqrtm(root @ m @ root).real) / np.sqrt(np.trace(k) * np.trace(m))
    assert names["nbs"] == pytest.approx(bures, abs=1e-5)
    cosine = (k * m).sum() / np.linalg.norm(k) / np.linalg.norm(m)
    assert names["cka_angle"] == pytest.approx(math.acos(cosine), abs=1e-9)


def test_every_measure_of_the_page_is_there():
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall("`([a-z_]+)`", row)}
    assert named <= set(MEASURES) and len(named) > 12
