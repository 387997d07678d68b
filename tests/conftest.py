"""What several test files share: a root for run folders that is short and fresh."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Tests run side by side (see pyproject.toml): one thread each, before torch is imported and counts the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A run folder that does not exist yet."""
    return tmp_path / "run"
