"""How long the oldest of the calls that are out has been."""

from __future__ import annotations

from kdaug.teachers.breaker import clock

LONG = 30.0  # seconds; nobody wonders about a call that is out for less


class Oldest:
    """Of the calls that were `sent` and are not `back`; each is given up after `timeout` seconds."""

    __slots__ = ("_sent", "_timeout")

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._sent: dict[object, float] = {}  # in the order in which they were sent

    def sent(self) -> object:
        call = object()
        self._sent[call] = clock()
        return call

    def back(self, call: object) -> None:
        del self._sent[call]

    @property
    def status(self) -> str:
        first = next(iter(self._sent.values()), None)
        out = 0.0 if first is None else clock() - first
        return f"oldest call {out:.0f} s of {self._timeout:g} s" if out >= LONG else ""
