"""A process of our own for work that may hang or eat memory: it answers a line of JSON with another, or is ended."""

from __future__ import annotations

import asyncio
import atexit
import json
import select
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

from kdaug.teacher import Until, patiently

PATIENCE = 10.0  # the clock's seconds for one of CPU time, on a busy machine


@dataclass(eq=False)
class Worker:
    """Runs `python -m MODULE`, which calls `serve`, from the first question on; ended and begun anew where a question
    takes more than `cpu` seconds or `memory` MB. One question at a time."""

    module: str
    cpu: int = 5
    memory: int = 1024
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)
    _turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = field(
        default_factory=WeakKeyDictionary, init=False, repr=False
    )
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)

    async def ask(self, question: Any, until: Until = patiently) -> Any:
        """The answer, or None where there is none within the limits. `until`: of a run that may end before it is this
        question's turn (`Generate.until`)."""
        turn = self._turns.setdefault(asyncio.get_running_loop(), asyncio.Lock())
        await until(turn.acquire())
        try:
            return await asyncio.to_thread(self._ask, json.dumps(question).encode() + b"\n")
        finally:
            turn.release()

    def _ask(self, question: bytes) -> Any:
        with self._lock:
            process = self._started()
            assert process.stdin is not None and process.stdout is not None
            line = b""
            with suppress(BrokenPipeError):
                process.stdin.write(question)
                process.stdin.flush()
                if select.select([process.stdout], [], [], self.cpu * PATIENCE)[0]:
                    line = process.stdout.readline()
            if not line.endswith(b"\n"):
                self._end()
                return None
            return json.loads(line)

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            command = [sys.executable, "-m", self.module, str(self.cpu), str(self.memory)]
            # A session of its own: Ctrl-C is the run's to hear, which still has the answers that it waits for.
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
            atexit.register(self._end)
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            atexit.unregister(self._end)
            process.kill()
            with suppress(BrokenPipeError), process:  # closes its pipes, perhaps with words in them, and waits
                pass


def serve(answer: Callable[[Any], Any]) -> None:
    """The worker's side: answers until its stdin ends. Each question has its own CPU time; at its end the kernel ends
    the process, whatever it is at."""
    import resource  # not everywhere

    cpu, memory = int(sys.argv[1]), int(sys.argv[2]) << 20
    with suppress(ValueError, OSError):  # not everywhere
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    for line in sys.stdin.buffer:
        used = resource.getrusage(resource.RUSAGE_SELF)
        _, most = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + cpu + 1, most))
        try:
            said = json.dumps(answer(json.loads(line)))
        except (MemoryError, RecursionError):
            said = "null"
        sys.stdout.write(f"{said}\n")
        sys.stdout.flush()
