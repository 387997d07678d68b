"""Ctrl-C and SIGTERM while a student is trained: a stop where its weights are whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from kdaug.errors import Interrupted


class Stop:
    """A first signal raises Interrupted at the next `check`, or in the middle of what runs `at_once`; a second one
    wherever it comes, but where one is `patient`."""

    def __init__(self, patient: bool = False) -> None:
        """`patient`: nothing is broken off, as other processes wait for this one's part of it. Who started them all
        (torchrun) says it twice, and kills them half a minute later."""
        self.signal = 0
        self._now, self._patient = False, patient

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Signals can be caught in the main thread only: elsewhere they are the caller's."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before: dict[int, Any] = {n: signal.signal(n, self._hear) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def check(self) -> None:
        if self.signal:
            raise Interrupted(self.signal)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """For what may be broken off anywhere, such as the computing of gradients."""
        if not self._patient:
            self.check()
            self._now = True
        try:
            yield
        finally:
            self._now = False

    def _hear(self, number: int, frame: FrameType | None) -> None:
        again, self.signal = self.signal, number
        if self._now or (again and not self._patient):
            self._now = False
            raise Interrupted(number)
