"""Kills runs at random moments; the tests do it ten times, benchmarks/soak.py for as long as it is told."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from servers.run import FakeBatches, FakeOpenAI

from kdaug.errors import KdaugError
from kdaug.journal import Journal

KDAUG = (sys.executable, "-m", "kdaug.cli")


@dataclass(frozen=True)
class Killed:
    """What a run that was killed again and again came to.

    `lost`: for each kill, the requests that the server had received and the journal had no reply to. `repeated`: the
    requests that were sent again in the end.
    """

    lost: tuple[int, ...]
    repeated: int
    data: dict[str, str]


def data_of(out: Path) -> dict[str, str]:
    """The hash of every data file."""
    files = sorted((out / "dataset" / "data").rglob("*.parquet"))
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def run_whole(command: Sequence[str], out: Path) -> dict[str, str]:
    subprocess.run([*KDAUG, *command, "--out", str(out), "--quiet"], check=True)
    return data_of(out)


def run_killed(command: Sequence[str], out: Path, server: FakeOpenAI, kills: int, rng: Random) -> Killed:
    """Starts the command, kills it with SIGKILL at a random moment of its work, and so on; then lets it end."""
    lost: list[int] = []
    while len(lost) < kills:
        process = subprocess.Popen([*KDAUG, *command, "--out", str(out), "--quiet"])
        # A moment counted in requests, not in seconds: the same on a fast machine and on a busy one.
        goal = server.stats()["total"] + rng.randint(1, 200)
        while process.poll() is None and server.stats()["total"] < goal:
            time.sleep(rng.random() * 0.02)
        if process.poll() is not None:
            assert process.returncode == 0, f"the run failed with exit code {process.returncode}"
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        lost.append(server.stats()["total"] - journalled(out) - sum(lost))
    data = run_whole(command, out)
    return Killed(tuple(lost), server.stats()["attempts_repeated"], data)


def run_killed_amid_batches(
    command: Sequence[str], out: Path, server: FakeBatches, kills: int, rng: Random
) -> dict[str, str]:
    """The same for a batch teacher: a moment is counted in requests to the provider. What was executed how often is in
    the server's stats."""
    for _ in range(kills):
        process = subprocess.Popen([*KDAUG, *command, "--out", str(out), "--quiet"])
        goal = server.stats()["requests"] + rng.randint(1, 15)
        while process.poll() is None and server.stats()["requests"] < goal:
            time.sleep(rng.random() * 0.05)
        if process.poll() is not None:
            assert process.returncode == 0, f"the run failed with exit code {process.returncode}"
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
    return run_whole(command, out)


def journalled(out: Path) -> int:
    """How many replies the journal holds; a kill may have come before there was one."""
    try:
        journal = Journal.read_only(out)
    except KdaugError:
        return 0
    try:
        return sum(used.calls for used in journal.usage())
    finally:
        journal.close()
