"""Shared by all tests: one torch thread beside the other workers, and the folder of real data."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest
import torch

torch.set_num_threads(1)
# the same examples in every run and no limit of time, so that a change and not chance makes a test fail
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None)
hypothesis.settings.load_profile("fixed")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of small real data sets; the test is skipped where it is missing."""
    root = Path(__file__).parents[1]
    folder = Path(os.environ.get("SEGWEAVE_DATA", root / ".." / "shared" / "data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set SEGWEAVE_DATA")
    return folder
