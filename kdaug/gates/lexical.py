"""Which kept text is like this one, word by word: an exact search by ROUGE-L."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from typing import NamedTuple, Protocol

from rapidfuzz.distance import LCSseq

from kdaug.errors import shorten

# From this many kept texts on, the compiled search is loaded: half a second, and once on a machine the compilation.
MANY = 5_000


# A word of a text in the form of `plain`, in lower case; all bytes of other scripts' letters are above 127.
WORD = re.compile(rb"[0-9a-z\x80-\xff]+")


class Twin(NamedTuple):
    id: str
    text: str
    score: float


def plain(text: str, words: Callable[[str], list[str]]) -> bytes:
    """A text in the form that an index takes: UTF-8 in which WORD finds its `words`. ASCII text is that as it is."""
    return text.encode() if text.isascii() else " ".join(words(text)).encode()


@dataclass(frozen=True)
class Rule:
    """Whether ROUGE-L's F = 2 LCS / (m + n) of texts with m and n words is above a threshold, in whole numbers.

    With `floats`, rouge_score's own threshold, an exact tie is decided as rouge_score's floats do: some come out above
    (7 of 8 and 12 words at 0.7). Everywhere else the two agree.
    """

    threshold: Fraction
    floats: float | None = None

    def least(self, total: int) -> int:
        """The least LCS with which two texts of `total` words can be above; at a tie with `floats`, the tie's."""
        above, of = self.threshold.numerator * total, 2 * self.threshold.denominator
        return above // of + 1 if self.floats is None else max(1, -(-above // of))

    def above(self, common: int, m: int, n: int) -> bool:
        """For an LCS of at least `least`."""
        if self.floats is None:
            return True
        precision, recall = common / n, common / m  # in rouge_score's order of operations
        return 2 * precision * recall / (precision + recall) > self.floats

    def shortest(self, m: int) -> int:
        """The length of the shortest text that can be above with one of m words."""
        above, of = self.threshold.numerator * m, 2 * self.threshold.denominator - self.threshold.numerator
        return above // of + 1 if self.floats is None else max(1, -(-above // of))


class Index(Protocol):
    """Texts as `plain` makes them, in the order in which they were added. `earliest`: the place of the first one that
    is above the threshold, and its F."""

    def __len__(self) -> int: ...
    def add(self, text: bytes) -> None: ...
    def earliest(self, text: bytes) -> tuple[int, float] | None: ...


class PlainIndex:
    """Finds the earliest text above the threshold without comparing with all of them.

    Two texts of m and n words that share at least c, put in any one order, share one among the first m - c + 1 of the
    one and the first n - c + 1 of the other, and from the first shared one on both have c or more left (prefix and
    positional filter: Chaudhuri et al. 2006, Bayardo et al. 2007, Xiao et al. 2008). A word's second, third… occurrence
    is a word of its own there. The order is newest first: words that turned up late are rare, so few texts are
    candidates. Only these are compared.
    """

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self.texts: list[bytes] = []
        self._tokens: list[Sequence[int]] = []
        self._words: dict[bytes, int] = {}  # by their number
        self._keys: dict[tuple[int, int], int] = {}  # a word and how often it was there before
        # For a key, the texts with it in their prefix, ascending: place, words in all, words from this one on.
        self._holders: dict[int, list[tuple[int, int, int]]] = {}

    def __len__(self) -> int:
        return len(self.texts)

    def add(self, text: bytes) -> None:
        tokens = self._numbers(text)
        n = len(tokens)
        for position, key in enumerate(self._prefix(tokens)):
            self._holders.setdefault(key, []).append((len(self.texts), n, n - position))
        self.texts.append(text)
        self._tokens.append(tokens)

    def earliest(self, text: bytes) -> tuple[int, float] | None:
        tokens = self._numbers(text)
        for place in self._candidates(tokens):
            other = self._tokens[place]
            least = self._rule.least(len(tokens) + len(other))
            common = LCSseq.similarity(tokens, other, score_cutoff=least)
            if common >= least and self._rule.above(common, len(tokens), len(other)):
                return place, 2 * common / (len(tokens) + len(other))
        return None

    def _numbers(self, text: bytes) -> list[int]:
        words = self._words
        return [words.setdefault(word, len(words)) for word in WORD.findall(text.lower())]

    def _candidates(self, tokens: Sequence[int]) -> list[int]:
        m, least = len(tokens), self._rule.least
        found: set[int] = set()
        for position, key in enumerate(self._prefix(tokens)):
            left, holders = m - position, self._holders.get(key, [])
            for place, n, other_left in holders:
                c = least(m + n)
                if left >= c and other_left >= c:
                    found.add(place)
        return sorted(found)

    def _prefix(self, tokens: Sequence[int]) -> list[int]:
        """The keys of which a twin has at least one: the least LCS is that with the shortest text that can be one."""
        m, keys = len(tokens), []
        times: dict[int, int] = {}
        for token in tokens:
            before = times.get(token, 0)
            times[token] = before + 1
            keys.append(self._keys.setdefault((token, before), len(self._keys)))
        keys.sort(reverse=True)
        return keys[: max(0, m - self._rule.least(m + self._rule.shortest(m)) + 1)]


class Pool:
    """The kept texts, with their ids: in a plain index while they are few, in a compiled one when they are many and
    Numba is installed. Both find the same."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._index: Index = PlainIndex(rule)
        self._labels: list[tuple[str, str]] = []  # id, the text shortened
        self._compile_at = MANY if find_spec("numba") else None

    def __len__(self) -> int:
        return len(self._labels)

    def add(self, id: str, text: str, plain: bytes) -> None:
        self._labels.append((id, shorten(text)))
        self._index.add(plain)

    def earliest_twin(self, plain: bytes) -> Twin | None:
        found = self._index.earliest(plain)
        if found is None:
            return None
        place, score = found
        return Twin(*self._labels[place], score)

    @property
    def outgrown(self) -> bool:
        return self._compile_at is not None and len(self._labels) >= self._compile_at

    async def compile(self) -> None:
        """Goes over to the compiled index. To compile takes seconds, so a thread does it."""
        try:
            compiled = await asyncio.to_thread(_compiled)
        except ImportError:  # Numba is installed, but not for this NumPy
            self._compile_at = None
            return
        if isinstance(plain := self._index, PlainIndex):  # several records may wait for this
            index = compiled(self._rule)
            for text in plain.texts:
                index.add(text)
            self._index, self._compile_at = index, None


def _compiled() -> Callable[[Rule], Index]:
    from kdaug.gates.compiled import CompiledIndex

    return CompiledIndex
