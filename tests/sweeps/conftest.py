"""What the tests of sweeps share."""

import pytest
from small_notebooks import write_notebook


@pytest.fixture
def notebook(tmp_path):
    return write_notebook(tmp_path / "my books" / "study.ipynb")
