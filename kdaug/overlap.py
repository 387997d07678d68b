"""Which of many texts shares a run of words with a given one: hashed runs, every hit verified word by word."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from kdaug.words import words

if TYPE_CHECKING:
    import numpy as np

    Ints: TypeAlias = np.ndarray[Any, np.dtype[Any]]  # one dimension, of 32 or 64 bits

BASE = 0x9E3779B97F4A7C15  # any odd number has an inverse modulo 2^64
FEW = 1 << 14  # powers that are kept: more words than nearly any record has
Match: TypeAlias = Literal["ngram", "substring"]


class Shared(NamedTuple):
    """`text`: the place of the text that was hit; `run`: the words that both have in a row; `whole`: all it has."""

    text: int
    run: Sequence[str]
    whole: bool


@dataclass(frozen=True)
class _Runs:
    """All runs of one length: their hashes, ascending, and the place of the text that each is from."""

    hashes: Ints
    owners: Ints


class Overlaps:
    """Finds the text that shares the most runs of `n` words with a given one, n by group of texts.

    n is the 5th percentile of a group's lengths in words, but at least `shortest` and at most `ngram` (GPT-3, arXiv
    2005.14165, appendix C). A text of fewer than n words has to occur as a whole; one of fewer than `shortest` words
    has to be all that the given text says, as such short runs occur anywhere. With `match="substring"` a longer text
    too has to occur as a whole (OSS-Instruct's rule, arXiv 2312.02120, §2.2). Case, punctuation and width do not count.

    A run costs 12 bytes (a 64-bit hash and its text). Equal hashes are no more than candidates: a hit is one only when
    the words themselves agree.
    """

    def __init__(self, groups: Sequence[Sequence[str]], ngram: int, shortest: int, match: Match = "ngram") -> None:
        import numpy as np

        self._texts = [text for group in groups for text in group]
        self._short: dict[str, int] = {}
        hashes, lengths = array("q"), array("q")
        for place, text in enumerate(self._texts):
            before = len(hashes)
            hashes.extend(map(_hash, words(text)))
            lengths.append(len(hashes) - before)
            if lengths[-1] < shortest:
                self._short.setdefault(_said(text), place)
        counts = np.frombuffer(lengths, np.int64)
        ends = np.cumsum([len(group) for group in groups])
        self.n = [_percentile(part, shortest, ngram) for part in np.split(counts, ends[:-1])]
        limits: Ints = np.repeat(self.n, [len(group) for group in groups])
        self._needed = np.where(counts < shortest, 0, counts if match == "substring" else np.minimum(counts, limits))
        self._runs = _runs(np.frombuffer(hashes, np.uint64), counts, self._needed)

    def find(self, text: str) -> Shared | None:
        """The text with the most runs in common (the first of equals), with the longest run that both have."""
        import numpy as np

        said = words(text)
        hashes = np.fromiter(map(_hash, said), np.int64, len(said)).view(np.uint64)
        sums, owners = _sums(hashes), []
        for length, runs in self._runs.items():
            if length <= len(said):
                owners += _owners(runs, _windows(sums, length))
        if owners:
            places, votes = np.unique(np.concatenate(owners), return_counts=True)
            for place in places[np.argsort(-votes, kind="stable")].tolist():
                item = words(self._texts[place])
                start, length = longest_run(said, item)
                if length >= self._needed[place]:
                    return Shared(place, said[start : start + length], length == len(item))
        place = self._short.get(" ".join(said) or text.strip())
        return None if place is None else Shared(place, said or [text.strip()], True)


def longest_run(said: Sequence[str], item: Sequence[str]) -> tuple[int, int]:
    """(where in `said` it starts, its length): the longest run of words that both have, the first of equals.

    By the suffix automaton of `item` (Blumer et al. 1985), in time linear in both, whatever they repeat.
    """
    steps, links, lengths = _automaton(item)
    state = length = best = end = 0
    for at, word in enumerate(said, 1):
        while state and word not in steps[state]:
            state = links[state]
            length = lengths[state]
        if word in steps[state]:
            state = steps[state][word]
            length += 1
        if length > best:
            best, end = length, at
    return end - best, best


def _automaton(item: Sequence[str]) -> tuple[list[dict[str, int]], list[int], list[int]]:
    """Of each state: where a word leads, its suffix link, the length of the longest run that it stands for."""
    steps: list[dict[str, int]] = [{}]
    links, lengths, last = [-1], [0], 0
    for word in item:
        state, at = len(steps), last
        steps.append({})
        links.append(0)
        lengths.append(lengths[last] + 1)
        while at >= 0 and word not in steps[at]:
            steps[at][word] = state
            at = links[at]
        if at >= 0:
            there = steps[at][word]
            if lengths[there] == lengths[at] + 1:
                links[state] = there
            else:
                clone = len(steps)
                steps.append(dict(steps[there]))
                links.append(links[there])
                lengths.append(lengths[at] + 1)
                links[there] = links[state] = clone
                while at >= 0 and steps[at].get(word) == there:
                    steps[at][word] = clone
                    at = links[at]
        last = state
    return steps, links, lengths


def _hash(word: str) -> int:
    """64 bits, other ones in every process: nothing that is told or kept depends on them."""
    return hash(word)


def _said(text: str) -> str:
    """All that a text says, without case and punctuation; one without words (an emoji) as it is."""
    return " ".join(words(text)) or text.strip()


def _percentile(lengths: Ints, shortest: int, ngram: int) -> int:
    """The 5th, within the two bounds."""
    import numpy as np

    ordered = np.sort(lengths)
    return int(min(ngram, max(shortest, ordered[(len(ordered) - 1) // 20])))


def _runs(hashes: Ints, counts: Ints, needed: Ints) -> dict[int, _Runs]:
    """By length, the runs that have to be looked for: `needed` is that of each text, 0 for none."""
    import numpy as np

    sums, found = _sums(hashes), {}
    owners: Ints = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    for length in np.unique(needed[needed > 0]).tolist():
        first = owners[: len(owners) - length + 1]
        inside = np.flatnonzero((needed[first] == length) & (first == owners[length - 1 :]))
        windows, of = _windows(sums, length)[inside], first[inside]
        order = np.argsort(windows, kind="stable")
        found[length] = _Runs(windows[order], of[order])
    return found


def _owners(runs: _Runs, windows: Ints) -> list[Ints]:
    """For each window, the texts with a run of its hash."""
    import numpy as np

    starts: Any = np.searchsorted(runs.hashes, windows, "left")
    hits = np.flatnonzero(runs.hashes[np.minimum(starts, len(runs.hashes) - 1)] == windows)
    ends: Any = np.searchsorted(runs.hashes, windows[hits], "right")
    return [runs.owners[start:end] for start, end in zip(starts[hits].tolist(), ends.tolist(), strict=True)]


def _sums(hashes: Ints) -> Ints:
    """Of the first 0, 1, 2, … words: the sum of hash x BASE^place, modulo 2^64."""
    import numpy as np

    sums: Ints = np.zeros(len(hashes) + 1, np.uint64)
    np.cumsum(hashes * _powers(BASE, len(hashes)), out=sums[1:])
    return sums


def _windows(sums: Ints, length: int) -> Ints:
    """The hash of every run of `length` words, wherever it stands."""
    runs = sums[length:] - sums[:-length]
    shifted: Ints = runs * _powers(pow(BASE, -1, 1 << 64), len(runs))
    return shifted


def _powers(base: int, count: int) -> Ints:
    """base^0, base^1, … modulo 2^64."""
    return _first_powers(base)[:count] if count <= FEW else _made_powers(base, count)


@cache
def _first_powers(base: int) -> Ints:
    return _made_powers(base, FEW)


def _made_powers(base: int, count: int) -> Ints:
    import numpy as np

    powers: Ints = np.full(count, base, np.uint64)
    powers[:1] = 1
    np.cumprod(powers, out=powers)
    return powers
