"""The same text but for its white space: a prompt or an answer that a kept record has already."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from kdaug.gate import Gate, Prepared
from kdaug.record import Drop, Record, text_of


@dataclass
class SameText(Gate):
    """Drops a record whose prompt equals a kept one's prompt, or whose completion equals a kept one's completion, when
    all white space is taken out (OSS-Instruct's cleaning, arXiv 2312.02120, authors' code).

    Drops `same_text:prompt` and `same_text:completion` with the twin.
    """

    name: ClassVar[str] = "same_text"
    _kept: dict[bytes, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def start(self, seeds: Sequence[Record]) -> SameText:
        return SameText()

    def decide(self, prepared: Prepared) -> Drop | None:
        for part, key in _keys(prepared.record).items():
            if twin := self._kept.get(key):
                return Drop(f"same_text:{part}", {"twin": twin})
        return None

    def remember(self, prepared: Prepared) -> None:
        for key in _keys(prepared.record).values():
            self._kept.setdefault(key, prepared.record.id)


def _keys(record: Record) -> dict[str, bytes]:
    parts = {"prompt": text_of(record.prompt), "completion": text_of(record.completion)}
    return {
        part: hashlib.blake2b(f"{part}{''.join(text.split())}".encode(), digest_size=12).digest()
        for part, text in parts.items()
        if text.strip()
    }
