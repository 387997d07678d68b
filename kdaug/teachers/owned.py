"""Processes that a teacher owns, such as an inference engine: they end when we end, however we end, and their last
words are kept."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from kdaug.errors import shorten

MARK = "KDAUG_GUARD_"
QUOTED = 8  # lines of a log that an error quotes: a traceback's end
# What an engine says when all is well, as vLLM's log marks it.
SMALL_TALK = re.compile(r"(\(\w+ pid=\d+\) )?(DEBUG|INFO|WARNING) ")


class Guard:
    """Ends processes when we end without having done so (kill -9): an engine would live on and keep its memory.

    Guarded is what is started with `mark` in its environment, from its first moment on, and all that it starts itself.
    It is a shell that waits for the end of its input, which nobody but us holds; it reads /proc, so it needs Linux, as
    vLLM does.
    """

    _SCRIPT = """cat
        marked() { grep -ls "$mark" /proc/[0-9]*/environ | tr -cd '0-9\\n'; }
        mark=$1
        kill -s TERM $(marked); sleep 10; kill -s KILL $(marked)"""

    def __init__(self) -> None:
        name = MARK + secrets.token_hex(8)
        # An engine that gives itself a title (setproctitle) would write it over its environment.
        self.mark = {name: "1", "SPT_NOENV": "1"}
        unmarked = {key: value for key, value in os.environ.items() if not key.startswith(MARK)}
        self._shell = subprocess.Popen(
            ["sh", "-c", self._SCRIPT, "sh", f"{name}="],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=unmarked,
        )

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

    @property
    def is_empty(self) -> bool:
        return self.path.stat().st_size <= self._start

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
