"""What several test files share: a root for run folders that is short and fresh."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

# Tests run side by side (see pyproject.toml): one thread each, before torch is imported and counts the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Folders of tests lie in memory, where there is room: a run waits for its disk at every reply, for half of its time.
MEMORY = Path("/dev/shm")
if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 8 << 30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A run folder that does not exist yet."""
    return tmp_path / "run"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long comes first, a file at a time (see pyproject.toml): last, it would leave a worker idle."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: ("vllm" not in item.path.name, item.path not in slow))
