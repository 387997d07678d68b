"""`lexical.PlainIndex` for many texts, by compiled code: imported inside functions only."""

from __future__ import annotations

from typing import Any

import numpy as np

from kdaug.gates import postings
from kdaug.gates.kernels import (
    BLOCK,
    CUT,
    FREE,
    HELD,
    KEYS,
    LATEST,
    LETTERS,
    LINKS,
    PAIRS,
    PARTS,
    RANK,
    RANKED,
    SHORT,
    START,
    TEXTS,
    TOKENS,
    WORDS,
    Array,
)
from kdaug.gates.lexical import Rule

# A word that more of the kept texts have is frequent: its list of texts is longer than a pair's look-up is slow.
FREQUENT = 192


class CompiledIndex:
    """What `lexical.PlainIndex` is, for many texts. The keys are ranked anew at four times as many texts."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._ties = -1.0 if rule.floats is None else rule.floats
        self._rank_at = 1 << 10
        self._read: bytes | None = None  # the text whose words are in `latest`: what was searched is added next
        self._arrays: dict[str, Array] = {}
        self._header = np.zeros((len(PARTS), 2), np.int64)
        for name, (_, _, _, rows) in PARTS.items():
            self._grow(name, rows)
        self._counts = self._arrays["counts"]
        self._counts[CUT] = 1 << 40  # nothing is ranked, so nothing is frequent

    def __len__(self) -> int:
        return int(self._counts[TEXTS])

    def add(self, text: bytes) -> None:
        if self._read is not text:
            while not postings.read(self._header, text):
                self._make_room_to_read(text)
            self._read = text
        while not postings.add(self._header):
            self._make_room(int(self._counts[LATEST]))
        if len(self) == self._rank_at:
            self._rank_at *= 4
            self._rank()

    def earliest(self, text: bytes) -> tuple[int, float] | None:
        self._read = None
        place, score = postings.search(self._header, text, self._ties)
        while place == -2:
            self._make_room_to_read(text)
            place, score = postings.search(self._header, text, self._ties)
        self._read = text
        return None if place < 0 else (place, score)

    def _make_room_to_read(self, text: bytes) -> None:
        most, counts = len(text) // 2 + 1, self._counts
        self._grow("letters", counts[LETTERS] + len(text))
        self._grow("words", counts[WORDS] + most + 1)
        self._grow("latest", most)
        self._grow("keys", counts[KEYS] + most)
        if self._grow("table", 2 * (counts[WORDS] + most), empty=True):
            postings.rehash_words(self._header)
        if self._grow("least", 2 * most + SHORT + 2):
            least = self._arrays["least"]
            least[:] = [self._rule.least(total) for total in range(len(least))]

    def _make_room(self, length: int) -> None:
        """For one more text of so many words."""
        counts, lists = self._counts, postings.lists(self._header, length)
        self._grow("tokens", counts[TOKENS] + length)
        self._grow("texts", counts[TEXTS] + 2)
        self._grow("links", counts[LINKS] + lists * (1 + 2 * BLOCK))
        pairs = self._arrays["pairs"]
        if self._grow("pairs", 2 * (counts[PAIRS] + lists), empty=True):
            postings.rehash_pairs(self._header, pairs)

    def _grow(self, name: str, rows: Any, *, empty: bool = False) -> bool:
        """Room for so many rows and half as many again (a power of two in a table, which begins `empty`), where there
        is less."""
        kind, columns, fill, _ = PARTS[name]
        old = self._arrays.get(name)
        if old is not None and len(old) >= rows:
            return False
        size = 1 << (int(rows) - 1).bit_length() if empty or old is None else int(rows) + int(rows) // 2
        array = np.empty((size, columns) if columns else size, kind)
        used = 0 if empty or old is None else len(old)
        array[:used] = old[:used] if old is not None else 0
        array[used:] = fill
        self._arrays[name] = array
        self._header[list(PARTS).index(name)] = array.ctypes.data, size
        return True

    def _rank(self) -> None:
        """The order of the keys by how many texts have them, and the index in that order."""
        arrays, counts, keys = self._arrays, self._counts, int(self._counts[KEYS])
        often = np.zeros(keys, np.int64)
        postings.occurrences(self._header, often)
        order = np.lexsort((-np.arange(keys), often))
        arrays["keys"][order, RANK] = np.arange(keys)
        arrays["keys"][:, HELD] = 0
        arrays["pairs"][:] = 0
        counts[[LINKS, PAIRS]] = 0
        counts[FREE:] = 0
        counts[RANKED] = keys
        counts[CUT] = np.searchsorted(often[order], FREQUENT, side="right")
        place = 0
        while (place := postings.index_from(self._header, place)) < len(self):
            start, end = arrays["texts"][place : place + 2, START]
            self._make_room(int(end - start))
