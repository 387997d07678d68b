"""Processes that a teacher owns, such as an inference engine: they end when we end, however we end, and their last
words are kept."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from kdaug.errors import shorten

QUOTED = 8  # lines of a log that an error quotes: a traceback's end
# What an engine says when all is well, as vLLM's log marks it.
SMALL_TALK = re.compile(r"(\(\w+ pid=\d+\) )?(DEBUG|INFO|WARNING) ")


class Guard:
    """Ends processes when we end without having done so (kill -9): an engine would live on and keep its memory.

    It is a shell that waits for the end of its input, which nobody but us holds.
    """

    _SCRIPT = """while read -r one; do all="$all $one"; done
        [ -n "$all" ] || exit 0
        kill -s TERM -- $all; sleep 10; kill -s KILL -- $all"""

    def __init__(self) -> None:
        self._shell = subprocess.Popen(
            ["sh", "-c", self._SCRIPT], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
        self._watched: set[int] = set()

    def watch(self, pid: int) -> None:
        """A process, or by a negative number a process group."""
        if pid not in self._watched:
            self._watched.add(pid)
            assert self._shell.stdin is not None
            self._shell.stdin.write(b"%d\n" % pid)
            self._shell.stdin.flush()

    def dismiss(self) -> None:
        """The processes have ended."""
        self._shell.kill()
        self._shell.communicate()


class Log:
    """What a process writes to its stderr, in a file that is appended to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        self._start = path.stat().st_size

    def last_words(self) -> str:
        """The end of what was written since this log was made, for an error: lines of their own, indented."""
        with self.path.open("rb") as file:
            file.seek(max(self._start, self.path.stat().st_size - (1 << 16)))
            said = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        said = [line for line in said if not SMALL_TALK.match(line)] or said
        if not said:
            return f"its log is empty ({self.path})"
        return "\n    ".join([f"its log {self.path} ends with", *(shorten(line, 200) for line in said[-QUOTED:])])

    @contextlib.contextmanager
    def catching(self) -> Iterator[None]:
        """Processes that are started within write their stderr to the log; what Python itself writes to ours does not.

        Not for two at a time: it exchanges the file behind this process's own stderr.
        """
        python, before = sys.stderr, os.dup(2)
        try:
            with self.path.open("ab") as file:
                python.flush()
                os.dup2(file.fileno(), 2)
            with open(before, "w", buffering=1, closefd=False) as terminal:
                if _is_stderr(python):
                    sys.stderr = terminal
                try:
                    yield
                finally:
                    sys.stderr = python
        finally:
            os.dup2(before, 2)
            os.close(before)


def how_it_ended(code: int | None) -> str:
    """A process's exit code in words."""
    if code is None:
        return "ended"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}" + (" (as the system does where memory runs out)" if name == "SIGKILL" else "")


def _is_stderr(stream: TextIO) -> bool:
    try:
        return bool(stream.fileno() == 2)
    except (AttributeError, OSError):  # a notebook's stream; io.UnsupportedOperation is an OSError
        return False
