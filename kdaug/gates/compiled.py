"""The search of `lexical`'s index, compiled by Numba: imported inside functions only, for it pulls in a compiler.

Texts are int32 numbers of words, [words]. The index's arrays have room to grow; `counts` says how much of it is used.
Compiled code is kept on disk (in __pycache__, else in the user's cache folder, else nowhere).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numba
import numpy as np

from kdaug.gates.lexical import Rule

Array: TypeAlias = Any  # numpy's arrays, whose types are not followed
Function = TypeVar("Function", bound=Callable[..., Any])

# Up to this many words a text is found by pairs of its frequent words; longer ones have too many pairs.
SHORT = 40
# A word that more of the kept texts have is frequent: its list of texts is longer than a pair's look-up is slow.
FREQUENT = 256
HELD = 3  # places in a link of a list: with the way to the next link, half a cache line
TOP = 0xFFFF  # the largest length and position that a place is stored with

# Places in `Pool.counts`.
TEXTS, WORDS, KEYS, LINKS, PAIRS, RANKED, CUT, QUERY = range(8)

_1, _2, _4, _56 = np.uint64(1), np.uint64(2), np.uint64(4), np.uint64(56)
_M1, _M2, _M4 = np.uint64(0x5555555555555555), np.uint64(0x3333333333333333), np.uint64(0x0F0F0F0F0F0F0F0F)
_H1, _MIX = np.uint64(0x0101010101010101), np.uint64(0x9E3779B97F4A7C15)
_0, _ALL = np.uint64(0), np.uint64(0xFFFFFFFFFFFFFFFF)


class Pool(NamedTuple):
    """The kept texts and their index.

    A word's first, second… occurrence in a text each have a key, so that a text's keys are all different. Keys are
    ordered by `rank` (rarest first), and those that turned up after the last ranking come before all others, the newest
    first. A key's slot is its rank, else its number.
    """

    tokens: Array  # int32 [room]
    starts: Array  # int64 [room]: text i is tokens[starts[i]:starts[i + 1]]
    looked: Array  # int64 [room]: the last query that met text i
    signs: Array  # uint64 [room, 2]: a bit for every key of text i, several keys to a bit
    first: Array  # int32 [different words]: the key of a word's first occurrence, or -1
    again: Array  # int32 [keys]: the key of the next occurrence, or -1
    rank: Array  # int32 [keys that were ranked]
    heads: Array  # int64 [keys]: the newest link of a slot's list, or -1
    links: Array  # int64 [room, 1 + HELD]: the link before and how many are held; then place, length, position
    pairs: Array  # int64 [power of two, 2]: a pair of slots (0: free), and the newest link of its list
    least: Array  # int32 [room]: the LCS that two texts need, by the sum of their lengths
    local: Array  # int32 [different words]: scratch, all zero between calls
    counts: Array  # int64 [8]


def _compiled(*example: Any) -> Callable[[Function], Function]:
    """For the types of `example`, now. A folder that cannot be written costs the next process the compilation again."""
    signature = (tuple(numba.typeof(value) for value in example),)

    def compile(function: Function) -> Function:
        try:
            made: Function = numba.njit(list(signature), cache=True)(function)
        except (RuntimeError, OSError):  # no folder for the cache; or a full disk
            made = numba.njit(list(signature))(function)
        return made

    return compile


def _inner(function: Function) -> Function:
    made: Function = numba.njit(function)
    return made


@_inner
def _ones(x):  # type: ignore[no-untyped-def]  # Numba infers the types
    x = x - ((x >> _1) & _M1)
    x = (x & _M2) + ((x >> _2) & _M2)
    x = (x + (x >> _4)) & _M4
    return np.int64((x * _H1) >> _56)


@_inner
def _keys(pool, tokens):  # type: ignore[no-untyped-def]
    """A key for every word of a text; new ones are given out as they turn up."""
    last, counts = pool.local, pool.counts  # 1 + a word's latest key
    keys = np.empty(len(tokens), np.int64)
    for i, token in enumerate(tokens):
        key = np.int64(pool.first[token] if last[token] == 0 else pool.again[last[token] - 1])
        if key < 0:
            key = counts[KEYS]
            counts[KEYS] += 1
            if last[token] == 0:
                pool.first[token] = key
            else:
                pool.again[last[token] - 1] = key
        last[token] = key + 1
        keys[i] = key
    for token in tokens:
        last[token] = 0
    return keys


@_inner
def _sign(pool, tokens):  # type: ignore[no-untyped-def]
    """128 bits: of two texts with m and n keys, m less the bits that only the first has are shared at most."""
    low, high = _0, _0
    for key in _keys(pool, tokens):
        at = (np.uint64(key) * _MIX) >> np.uint64(57)
        if at < np.uint64(64):
            low |= _1 << at
        else:
            high |= _1 << (at - np.uint64(64))
    return low, high


@_inner
def _ordered(pool, tokens):  # type: ignore[no-untyped-def]
    """A text's keys by their order: ranks, and the new ones below zero."""
    order, m, ranked = _keys(pool, tokens), len(tokens), pool.counts[RANKED]
    for i in range(m):
        key = order[i]
        order[i] = pool.rank[key] if key < ranked else -key
    if m > 48:
        order.sort()
    else:
        for i in range(1, m):
            value, j = order[i], i
            while j > 0 and order[j - 1] > value:
                order[j] = order[j - 1]
                j -= 1
            order[j] = value
    return order


@_inner
def _shortest(least, m):  # type: ignore[no-untyped-def]
    """The length of the shortest text that can be above the threshold with one of m words."""
    low, high = 1, m
    while low < high:
        middle = (low + high) // 2
        if least[m + middle] <= middle:
            high = middle
        else:
            low = middle + 1
    return low


@_inner
def _find(pairs, pair):  # type: ignore[no-untyped-def]
    """The row of a pair of slots, or the free row where it belongs."""
    mask = np.uint64(len(pairs) - 1)
    at = ((np.uint64(pair) * _MIX) >> np.uint64(24)) & mask
    while pairs[np.int64(at), 0] != pair and pairs[np.int64(at), 0] != 0:
        at = (at + _1) & mask
    return np.int64(at)


@_inner
def _post(pool, link, entry):  # type: ignore[no-untyped-def]
    """Adds to the list that begins at `link`; where it begins now."""
    links, counts = pool.links, pool.counts
    if link < 0 or links[link, 0] & 3 == HELD:
        links[counts[LINKS], 0] = (link + 1) << 2
        link = counts[LINKS]
        counts[LINKS] += 1
    held = links[link, 0] & 3
    links[link, 1 + held] = entry
    links[link, 0] += 1
    return link


@_inner
def _index(pool, place):  # type: ignore[no-untyped-def]
    begin, end = pool.starts[place], pool.starts[place + 1]
    m, cut = end - begin, pool.counts[CUT]
    if m == 0:
        return
    order = _ordered(pool, pool.tokens[begin:end])
    shortest = _shortest(pool.least, m)
    needs = np.int64(pool.least[m + shortest])
    first = m - needs + 1
    for i in range(first):
        entry = (np.int64(place) << 32) | (min(m, TOP) << 16) | min(i, TOP)
        slot = abs(order[i])
        frequent = order[i] >= cut
        if not frequent or m > SHORT or needs == 1:
            pool.heads[slot] = _post(pool, pool.heads[slot], entry)
        if frequent and m <= SHORT:
            for j in range(i + 1, min(m, first + 1)):
                pair = (order[i] << 31) | order[j]
                row = _find(pool.pairs, pair)
                if pool.pairs[row, 0] == 0:
                    pool.pairs[row, 0], pool.pairs[row, 1] = pair, -1
                    pool.counts[PAIRS] += 1
                pool.pairs[row, 1] = _post(pool, pool.pairs[row, 1], entry)


@_inner
def _masks(local, tokens):  # type: ignore[no-untyped-def]
    """Where each word stands, as bits: [1 + different words, length / 64]; `local` says which row is a word's."""
    m = len(tokens)
    masks = np.zeros((m + 1, (m + 63) // 64), np.uint64)
    rows = 0
    for i in range(m):
        token = tokens[i]
        if local[token] == 0:
            rows += 1
            local[token] = rows
        masks[local[token], i // 64] |= _1 << np.uint64(i % 64)
    return masks


@_inner
def _common(masks, local, tokens, m):  # type: ignore[no-untyped-def]
    """The length of the longest common subsequence, 64 words at a time (Hyyrö 2004, from Crochemore et al. 2001)."""
    width = masks.shape[1]
    if width == 1:
        v = _ALL
        for token in tokens:
            u = v & masks[local[token], 0]
            v = (v + u) | (v - u)
        return _ones(~v & (_ALL >> np.uint64(64 - m)))
    vs = np.full(width, _ALL, np.uint64)
    for token in tokens:
        row = local[token]
        if row == 0:
            continue
        carry = _0
        for w in range(width):
            v = vs[w]
            u = v & masks[row, w]
            s = v + u
            over = s < v
            s += carry
            carry = _1 if over or s < carry else _0
            vs[w] = s | (v - u)
    common = 0
    for w in range(width):
        left = min(64, m - 64 * w)
        common += _ones(~vs[w] & (_ALL >> np.uint64(64 - left)))
    return common


@_inner
def _above(common, m, n, ties):  # type: ignore[no-untyped-def]
    """rouge_score's formula, in its order of operations; `ties` is its threshold, or negative: whole numbers decide."""
    if ties < 0:
        return True
    precision, recall = common / n, common / m
    return 2 * precision * recall / (precision + recall) > ties


@_inner
def _walk(pool, link, i, m, best, sign, masks, ties):  # type: ignore[no-untyped-def]
    """The earliest text above the threshold in a list, before `best`; `best` where there is none."""
    query, starts = pool.counts[QUERY], pool.starts
    found = best
    while link >= 0:
        held = pool.links[link, 0] & 3
        for h in range(held, 0, -1):
            entry = pool.links[link, h]
            place = entry >> 32
            n, position = (entry >> 16) & TOP, entry & TOP
            if n == TOP:
                n = starts[place + 1] - starts[place]
            needs = pool.least[m + n]
            if place >= found or m - i < needs or n - position < needs or pool.looked[place] == query:
                continue
            pool.looked[place] = query
            low, high = pool.signs[place, 0], pool.signs[place, 1]
            if _ones(sign[0] & ~low) + _ones(sign[1] & ~high) > m - needs:
                continue
            if _ones(low & ~sign[0]) + _ones(high & ~sign[1]) > n - needs:
                continue
            common = _common(masks, pool.local, pool.tokens[starts[place] : starts[place + 1]], m)
            if common >= needs and _above(common, m, n, ties):
                found = place
        link = (pool.links[link, 0] >> 2) - 1
    return found


def _search(pool, tokens, ties):  # type: ignore[no-untyped-def]
    """The place of the earliest text above the threshold, and the LCS; (-1, 0) where there is none."""
    m, cut, none = len(tokens), pool.counts[CUT], pool.counts[TEXTS]
    if m == 0:
        return np.int64(-1), np.int64(0)
    pool.counts[QUERY] += 1
    order = _ordered(pool, tokens)
    shortest = _shortest(pool.least, m)
    needs = np.int64(pool.least[m + shortest])
    first = m - needs + 1
    singles = needs == 1 or pool.least[m + SHORT + 1] <= m  # a longer text is posted under its frequent words, too
    sign, masks = _sign(pool, tokens), _masks(pool.local, tokens)
    found = none
    for i in range(first):
        frequent = order[i] >= cut
        if not frequent or singles:
            found = _walk(pool, pool.heads[abs(order[i])], i, m, found, sign, masks, ties)
        if frequent and shortest <= SHORT:
            for j in range(i + 1, min(m, first + 1)):
                row = _find(pool.pairs, (order[i] << 31) | order[j])
                if pool.pairs[row, 0] != 0:
                    found = _walk(pool, pool.pairs[row, 1], i, m, found, sign, masks, ties)
    common = np.int64(0)
    if found < none:
        common = _common(masks, pool.local, pool.tokens[pool.starts[found] : pool.starts[found + 1]], m)
    for token in tokens:
        pool.local[token] = 0
    return (found, common) if found < none else (np.int64(-1), np.int64(0))


@_inner
def _has_room(pool, m):  # type: ignore[no-untyped-def]
    counts = pool.counts
    return (
        counts[WORDS] + m <= len(pool.tokens)
        and counts[TEXTS] + 2 <= len(pool.starts)
        and counts[LINKS] + m + SHORT * SHORT <= len(pool.links)
        and 2 * (counts[PAIRS] + SHORT * SHORT) <= len(pool.pairs)
    )


def _add(pool, tokens):  # type: ignore[no-untyped-def]
    """Puts a text at the end; False where there is no room for it."""
    begin, m, place = pool.counts[WORDS], len(tokens), pool.counts[TEXTS]
    if not _has_room(pool, m):
        return False
    pool.tokens[begin : begin + m] = tokens
    pool.starts[place + 1] = begin + m
    low, high = _sign(pool, tokens)
    pool.signs[place, 0], pool.signs[place, 1] = low, high
    pool.counts[TEXTS] += 1
    pool.counts[WORDS] += m
    _index(pool, place)
    return True


def _index_from(pool, place):  # type: ignore[no-untyped-def]
    """Indexes the texts from `place` on; the first for which there is no room."""
    while place < pool.counts[TEXTS]:
        if not _has_room(pool, 0) or not _has_room(pool, pool.starts[place + 1] - pool.starts[place]):
            break
        _index(pool, place)
        place += 1
    return place


def _occurrences(pool, often):  # type: ignore[no-untyped-def]
    """Counts the texts with each key."""
    for place in range(pool.counts[TEXTS]):
        for key in _keys(pool, pool.tokens[pool.starts[place] : pool.starts[place + 1]]):
            often[key] += 1


def _rehash(old, new):  # type: ignore[no-untyped-def]
    for i in range(len(old)):
        if old[i, 0] != 0:
            row = _find(new, old[i, 0])
            new[row, 0], new[row, 1] = old[i, 0], old[i, 1]


def _empty(least: Array) -> Pool:
    counts = np.zeros(8, np.int64)
    counts[CUT] = 1 << 40  # nothing is ranked, so nothing is frequent
    return Pool(
        tokens=np.zeros(1 << 12, np.int32),
        starts=np.zeros(1 << 10, np.int64),
        looked=np.zeros(1 << 10, np.int64),
        signs=np.zeros((1 << 10, 2), np.uint64),
        first=np.full(1 << 12, -1, np.int32),
        again=np.full(1 << 12, -1, np.int32),
        rank=np.zeros(0, np.int32),
        heads=np.full(1 << 12, -1, np.int64),
        links=np.zeros((1 << 14, 1 + HELD), np.int64),
        pairs=np.zeros((1 << 14, 2), np.int64),
        least=least,
        local=np.zeros(1 << 12, np.int32),
        counts=counts,
    )


_example, _words = _empty(np.zeros(8, np.int32)), np.zeros(0, np.int32)
search = _compiled(_example, _words, 0.7)(_search)
add = _compiled(_example, _words)(_add)
index_from = _compiled(_example, 0)(_index_from)
occurrences = _compiled(_example, _example.starts)(_occurrences)
rehash = _compiled(_example.pairs, _example.pairs)(_rehash)


class CompiledIndex:
    """What `lexical.PlainIndex` is, for many texts. The keys are ranked anew whenever the texts have doubled."""

    def __init__(self, rule: Rule, words: Sized) -> None:
        self._rule, self._words = rule, words  # all words that have a number
        self._ties = -1.0 if rule.floats is None else rule.floats
        self._longest = 0
        self._rank_at = 1 << 10
        self._pool = _empty(np.zeros(0, np.int32))
        self._latest: tuple[Sequence[int], Array] = ((), _words)  # what was searched is likely to be added next

    def __len__(self) -> int:
        return int(self._pool.counts[TEXTS])

    def add(self, tokens: Sequence[int]) -> None:
        array = self._array(tokens)
        while not add(self._pool, array):
            self._make_room(len(tokens))
        if self._pool.counts[TEXTS] == self._rank_at:
            self._rank_at *= 2
            self._rank()

    def earliest(self, tokens: Sequence[int]) -> tuple[int, float] | None:
        array = self._array(tokens)  # first: it makes room
        place, common = search(self._pool, array, self._ties)
        if place < 0:
            return None
        starts = self._pool.starts
        return place, 2 * common / int(len(tokens) + starts[place + 1] - starts[place])

    def _array(self, tokens: Sequence[int]) -> Array:
        """The tokens as an array, with room for all that the kernels look up by their number or their length."""
        if self._latest[0] is not tokens:
            self._latest = tokens, np.array(tokens, np.int32)
        length, pool = len(tokens), self._pool
        if length > self._longest:
            self._longest = max(512, 2 * length)
            least = [self._rule.least(total) for total in range(2 * self._longest + SHORT + 2)]
            pool = pool._replace(least=np.array(least, np.int32))
        if (words := len(self._words)) > len(pool.first):
            pool = pool._replace(first=_longer(pool.first, words, -1), local=_longer(pool.local, words))
        if (keys := pool.counts[KEYS] + length) > len(pool.heads):
            pool = pool._replace(heads=_longer(pool.heads, keys, -1), again=_longer(pool.again, keys, -1))
        self._pool = pool
        return self._latest[1]

    def _make_room(self, length: int) -> None:
        """For one more text of that length."""
        pool, counts = self._pool, self._pool.counts
        if (words := counts[WORDS] + length) > len(pool.tokens):
            pool = pool._replace(tokens=_longer(pool.tokens, words))
        if (texts := counts[TEXTS] + 2) > len(pool.starts):
            pool = pool._replace(starts=_longer(pool.starts, texts), looked=_longer(pool.looked, texts))
            pool = pool._replace(signs=_longer(pool.signs, texts))
        if (links := counts[LINKS] + length + SHORT * SHORT) > len(pool.links):
            pool = pool._replace(links=_longer(pool.links, links))
        if 2 * (counts[PAIRS] + SHORT * SHORT) > len(pool.pairs):
            wider = np.zeros((2 * len(pool.pairs), 2), np.int64)
            rehash(pool.pairs, wider)
            pool = pool._replace(pairs=wider)
        self._pool = pool

    def _rank(self) -> None:
        """The order of the keys by how many texts have them, and the index in that order."""
        pool, keys = self._pool, int(self._pool.counts[KEYS])
        often = np.zeros(keys, np.int64)
        occurrences(pool, often)
        order = np.lexsort((-np.arange(keys), often))
        rank = np.empty(keys, np.int32)
        rank[order] = np.arange(keys, dtype=np.int32)
        pool.heads[:] = -1
        pool.pairs[:] = 0
        pool.counts[[LINKS, PAIRS]] = 0
        pool.counts[RANKED] = keys
        pool.counts[CUT] = np.searchsorted(often[order], FREQUENT, side="right")
        self._pool, place = pool._replace(rank=rank), 0
        while (place := index_from(self._pool, place)) < len(self):
            self._make_room(int(self._pool.starts[place + 1] - self._pool.starts[place]))


def _longer(array: Array, size: int, fill: int = 0) -> Array:
    """A copy with room for `size` rows and half as many again."""
    longer = np.full((size + size // 2, *array.shape[1:]), fill, array.dtype)
    longer[: len(array)] = array
    return longer
