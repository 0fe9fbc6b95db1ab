"""Where the runs of a test go."""

import pytest


@pytest.fixture
def run_options(tmp_path):
    """Options of a quiet run in an empty folder."""
    return {"folder": str(tmp_path / "runs"), "progress": False}
