"""Kills runs at random moments; the tests do it ten times, benchmarks/soak.py for as long as it is told."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import psutil
from servers.run import FakeBatches, FakeOpenAI

from kdaug.errors import KdaugError
from kdaug.journal import Journal
from kdaug.tallies import usage
from kdaug.teacher import Completion

KDAUG = (sys.executable, "-m", "kdaug")


@dataclass(frozen=True)
class Killed:
    """What a run that was killed again and again came to.

    `lost`: for each kill, the prompts that the server had received and the journal had no reply to. `repeated`: the
    prompts that were answered once more in the end.
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
        lost.append(server.stats()["distinct"] - journalled(out))
    data = run_whole(command, out)
    stats = server.stats()
    return Killed(tuple(lost), stats["outcomes"]["ok"] - stats["ok_distinct"], data)


def run_killed_amid_batches(
    command: Sequence[str], out: Path, server: FakeBatches, kills: int, rng: Random
) -> tuple[int, dict[str, str]]:
    """The same for a batch teacher: a moment is counted in requests to the provider. How many kills there were, and
    the data; what was executed how often is in the server's stats."""
    done = 0
    while done < kills:
        process = subprocess.Popen([*KDAUG, *command, "--out", str(out), "--quiet"])
        goal = server.stats()["requests"] + rng.randint(1, 4)
        while process.poll() is None and server.stats()["requests"] < goal:
            time.sleep(rng.random() * 0.05)
        if process.poll() is not None:
            assert process.returncode == 0, f"the run failed with exit code {process.returncode}"
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        done += 1
    return done, run_whole(command, out)


@dataclass(frozen=True)
class KilledEngine:
    """What a run came to that was killed again and again, with an engine in its process.

    `replies`: how many the journal held after each kill. `changed`: those of them that are missing or another in the
    end. `left`: the engine's processes that lived on. `seconds`: how long after each kill the last of them was gone.
    """

    replies: tuple[int, ...]
    changed: int
    left: int
    seconds: tuple[float, ...]


def run_killed_with_engine(command: Sequence[str], out: Path, kills: int, rng: Random) -> KilledEngine:
    """The same for a teacher in process, whose engine has processes of its own: every third kill comes while it starts,
    the others after a random number of replies."""
    held: dict[int, str] = {}
    counts, seconds, changed, left = [], [], 0, 0
    for number in range(kills):
        process = subprocess.Popen([*KDAUG, *command, "--out", str(out), "--quiet"], start_new_session=True)
        starting, goal = number % 3 == 2, journalled(out) + rng.randint(1, 60)
        while process.poll() is None and (len(of_group(process.pid)) < 3 if starting else journalled(out) < goal):
            time.sleep(rng.random() * 0.05)
        if starting:
            time.sleep(rng.random() * 10)
        assert process.poll() is None, f"the run ended with exit code {process.returncode} before it was killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        began = time.monotonic()
        while (alive := of_group(process.pid)) and time.monotonic() < began + 60:
            time.sleep(0.1)
        seconds.append(time.monotonic() - began)
        left += len(alive)
        found = texts(out)
        changed += sum(found.get(job) != text for job, text in held.items())
        held = found
        counts.append(len(held))
    run_whole(command, out)
    found = texts(out)
    changed += sum(found.get(job) != text for job, text in held.items())
    return KilledEngine(tuple(counts), changed, left, tuple(seconds))


def of_group(group: int) -> list[psutil.Process]:
    """The processes of a process group that run, whoever their parent is now."""
    found = []
    for process in psutil.process_iter(["status"]):
        try:
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
        except ProcessLookupError:
            continue
    return found


def texts(out: Path) -> dict[int, str]:
    """What the journal says that each job of the first stage was answered; a job asks once."""
    try:
        journal = Journal.read_only(out)
    except KdaugError:
        return {}
    try:
        replies = {job: journal.replies(0, job) for job in range(journal.asked(0))}
        return {j: r.text for j, of in replies.items() for r in of.values() if isinstance(r, Completion)}
    finally:
        journal.close()


def journalled(out: Path) -> int:
    """How many replies the journal holds; a kill may have come before there was one."""
    try:
        journal = Journal.read_only(out)
    except KdaugError:
        return 0
    try:
        return sum(used.calls for used in usage(journal))
    finally:
        journal.close()
