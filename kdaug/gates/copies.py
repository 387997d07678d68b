"""Exact copies: each record once, however many inputs have it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from kdaug.gate import Gate, Prepared
from kdaug.record import Drop, Record


@dataclass
class Copies(Gate):
    """Drops a record whose prompt, answers, label and tools are those of a kept one, to the letter.

    Drops `copies:copy` with the twin, which has the same id. It remembers about 100 bytes a record.
    """

    name: ClassVar[str] = "copies"
    _kept: set[bytes] = field(default_factory=set, init=False, repr=False, compare=False)

    def start(self, seeds: Sequence[Record]) -> Copies:
        return Copies()

    def decide(self, prepared: Prepared) -> Drop | None:
        record = prepared.record
        return Drop("copies:copy", {"twin": record.id}) if bytes.fromhex(record.id) in self._kept else None

    def remember(self, prepared: Prepared) -> None:
        self._kept.add(bytes.fromhex(prepared.record.id))
