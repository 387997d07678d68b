"""Processes that we own: they end when we are killed, at whatever moment, and what is said of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from engines import wait_until_gone

from kdaug.teachers.owned import Log, how_it_ended

# Each owns a process and says its id; the first line of it sets up the guard.
OWNERS = {
    "a process": """
owned = subprocess.Popen(["sleep", "600"], env={**os.environ, **guard.mark}, start_new_session=True)
print(owned.pid, flush=True)
time.sleep(600)
""",
    "its children too": """
owned = subprocess.Popen(["sh", "-c", "sleep 600 & sleep 600"], env={**os.environ, **guard.mark})
while len(children := psutil.Process(owned.pid).children()) < 2:
    time.sleep(0.01)
print(owned.pid, *(child.pid for child in children), flush=True)
time.sleep(600)
""",
    "one that will not end": """
owned = subprocess.Popen(["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 1; done"],
                         env={**os.environ, **guard.mark}, stdout=subprocess.PIPE)
owned.stdout.readline()
print(owned.pid, flush=True)
time.sleep(600)
""",
    "one that was spawned this moment": """
os.environ.update(guard.mark)
owned = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,), daemon=True)
owned.start()
print(owned.pid, flush=True)
time.sleep(600)
""",
}


@pytest.mark.parametrize("owner", OWNERS)
def test_what_is_owned_ends_when_its_owner_is_killed(owner: str) -> None:
    script = "import multiprocessing, os, psutil, subprocess, time\nfrom kdaug.teachers.owned import Guard\n"
    program = subprocess.Popen(
        [sys.executable, "-c", f"{script}guard = Guard(){OWNERS[owner]}"], stdout=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    owned = [psutil.Process(int(pid)) for pid in program.stdout.readline().split()]
    program.kill()
    program.wait()
    program.stdout.close()
    assert owned
    wait_until_gone(owned, 30)


def test_a_guard_outlives_the_end_of_another_ones_owner_and_ends_nothing_else() -> None:
    """Two teachers start at a time in one process: the second guard is started while the first mark is set."""
    script = (
        "import os, subprocess, time\nfrom kdaug.teachers.owned import Guard\n"
        "first = Guard()\nos.environ.update(first.mark)\nsecond = Guard()\n"
        "for name in first.mark: del os.environ[name]\n"
        "owned = [subprocess.Popen(['sleep', '600'], env={**os.environ, **mark}, start_new_session=True)\n"
        "         for mark in (first.mark, second.mark, {})]\n"
        "print(*(one.pid for one in owned), flush=True)\ntime.sleep(600)\n"
    )
    program = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    *owned, other = (psutil.Process(int(pid)) for pid in program.stdout.readline().split())
    program.kill()
    program.wait()
    program.stdout.close()
    try:
        wait_until_gone(owned, 30)
        assert other.is_running()
    finally:
        other.kill()


def test_the_last_words_are_what_went_wrong(tmp_path: Path) -> None:
    log = Log(tmp_path / "engine.log")
    assert "is empty" in log.last_words()
    log.path.write_text("INFO 11-24 [importing.py:44] all is well\n", "utf-8")
    assert "all is well" in log.last_words()  # better than nothing
    with log.path.open("a", encoding="utf-8") as file:
        file.write("RuntimeError: no memory\n(Engine pid=7) WARNING 11-24 shutting down\n")
    assert log.last_words().endswith("ends with\n    RuntimeError: no memory")


def test_a_log_quotes_its_last_lines_since_it_was_begun(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    path.write_text("ERROR of an earlier engine\n", "utf-8")
    log = Log(path)
    assert log.is_empty
    with log.catching():
        subprocess.run([sys.executable, "-c", "import sys; sys.stderr.write('CUDA out of memory\\n\\n')"], check=True)
    assert not log.is_empty
    assert log.last_words().endswith("ends with\n    CUDA out of memory")


def test_how_a_process_ended_in_words() -> None:
    assert how_it_ended(-9).startswith("was killed by SIGKILL")
    assert how_it_ended(3) == "ended with exit code 3"
