"""The texts of `compiled`'s index in compiled code (Numba): their words, keys, signs and common subsequences.

A pool's arrays come as one `header`, int64 [parts, 2]: the address and the rows of each. (Eleven arrays as arguments
would cost more a call than most searches take.) They have room to grow; `counts` says how much of it is used, and who
returns that there is no room has changed nothing.

This and postings.py are imported inside functions only, for they pull in a compiler. What is compiled is kept on disk:
in __pycache__, else in the user's cache folder, else nowhere. It is found there by the age of postings.py, so touch
that file when this one changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numba
import numpy as np
from numba.extending import intrinsic

Array: TypeAlias = Any  # numpy's arrays, whose types are not followed
Function = TypeVar("Function", bound=Callable[..., Any])

# Up to this many words a text is found by pairs of its frequent words; longer ones have too many pairs.
SHORT = 40
BLOCK = 1 << 10  # entries that a block of a list has room for at most
TOP = 0xFFFF  # the largest length and position that a place is stored with

# Places in `Pool.counts`; LATEST: the words of the text that was read last.
TEXTS, TOKENS, WORDS, LETTERS, KEYS, LINKS, PAIRS, RANKED, CUT, QUERY, LATEST, TOUCHED, FREE = range(13)
HASH, SPELLED, FIRST, SCRATCH = range(4)  # columns of `Pool.words`
START, LOOKED, SIGN = range(3)  # columns of `Pool.texts`
AGAIN, RANK = range(2)  # columns of `Pool.keys`
PAIR = 0  # column of `Pool.pairs`
NEWEST, HELD = 2, 3  # columns of both: the newest block of a list, and how many entries the list has

ONE, _2, _4, _56 = np.uint64(1), np.uint64(2), np.uint64(4), np.uint64(56)
_M1, _M2, _M4 = np.uint64(0x5555555555555555), np.uint64(0x3333333333333333), np.uint64(0x0F0F0F0F0F0F0F0F)
_H1, MIX = np.uint64(0x0101010101010101), np.uint64(0x9E3779B97F4A7C15)
_0, _ALL = np.uint64(0), np.uint64(0xFFFFFFFFFFFFFFFF)
_BASIS, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)  # FNV-1a


class Pool(NamedTuple):
    """The kept texts and their index.

    A word's first, second… occurrence in a text each have a key, so that a text's keys are all different. Keys are
    ordered by `rank` (rarest first), and those that turned up after the last ranking come before all others, the newest
    first. A key's slot is its rank, else its number.
    """

    letters: Array  # uint8 [room]: word w is spelled letters[words[w, SPELLED]:words[w + 1, SPELLED]]
    words: Array  # int64 [room, 4]: HASH, SPELLED; FIRST, the key of its first occurrence, or -1; zero between calls
    table: Array  # int32 [power of two]: 1 + a word, where its hash says, or the next free place; 0: free
    latest: Array  # int32 [room]: the words of the text that was read last
    tokens: Array  # int32 [room]: text i is tokens[texts[i, START]:texts[i + 1, START]], the numbers of its words
    texts: Array  # int64 [room, 4]: START; LOOKED, the last query that met it; SIGN, two words with a bit a key
    keys: Array  # int64 [room, 4]: AGAIN, the key of the next occurrence, or -1; RANK; the list of a slot
    pairs: Array  # int64 [power of two, 4]: PAIR, two slots (0: free), and its list
    links: Array  # int64 [room]: blocks, each with the block before (-1: none), then a place and a sign an entry
    least: Array  # int32 [room]: the LCS that two texts need, by the sum of their lengths
    counts: Array  # int64 [24]


# Type, columns (0: one dimension), what unused places hold, and how many rows there are at first.
PARTS: dict[str, tuple[Any, int, Any, int]] = {
    "letters": (np.uint8, 0, 0, 1 << 14),
    "words": (np.int64, 4, (0, 0, -1, 0), 1 << 11),
    "table": (np.int32, 0, 0, 1 << 12),
    "latest": (np.int32, 0, 0, 1 << 9),
    "tokens": (np.int32, 0, 0, 1 << 12),
    "texts": (np.int64, 4, 0, 1 << 10),
    "keys": (np.int64, 4, (-1, 0, 0, 0), 1 << 11),
    "pairs": (np.int64, 4, 0, 1 << 12),
    "links": (np.int64, 0, 0, 1 << 14),
    "least": (np.int32, 0, 0, 1),
    "counts": (np.int64, 0, 0, 24),
}


def compiled(*example: Any) -> Callable[[Function], Function]:
    """For the types of `example`, now. A folder that cannot be written costs the next process the compilation again."""
    signature = (tuple(numba.typeof(value) for value in example),)

    def compile(function: Function) -> Function:
        try:
            made: Function = numba.njit(list(signature), cache=True)(function)
        except (RuntimeError, OSError):  # no folder for the cache; or a full disk
            made = numba.njit(list(signature))(function)
        return made

    return compile


def inner(function: Function) -> Function:
    made: Function = numba.njit(function)
    return made


@intrinsic
def _pointer(typing_context, address):  # type: ignore[no-untyped-def]  # Numba infers the types
    """An address as a pointer. Whoever gives the address keeps the array alive."""

    def made(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.inttoptr(arguments[0], context.get_value_type(numba.types.voidptr))

    return numba.types.voidptr(address), made


@inner
def open_pool(header):  # type: ignore[no-untyped-def]
    """The arrays, in the order of `PARTS`."""
    h = header
    return Pool(
        numba.carray(_pointer(h[0, 0]), (h[0, 1],), np.uint8),
        numba.carray(_pointer(h[1, 0]), (h[1, 1], 4), np.int64),
        numba.carray(_pointer(h[2, 0]), (h[2, 1],), np.int32),
        numba.carray(_pointer(h[3, 0]), (h[3, 1],), np.int32),
        numba.carray(_pointer(h[4, 0]), (h[4, 1],), np.int32),
        numba.carray(_pointer(h[5, 0]), (h[5, 1], 4), np.int64),
        numba.carray(_pointer(h[6, 0]), (h[6, 1], 4), np.int64),
        numba.carray(_pointer(h[7, 0]), (h[7, 1], 4), np.int64),
        numba.carray(_pointer(h[8, 0]), (h[8, 1],), np.int64),
        numba.carray(_pointer(h[9, 0]), (h[9, 1],), np.int32),
        numba.carray(_pointer(h[10, 0]), (h[10, 1],), np.int64),
    )


@inner
def ones(x):  # type: ignore[no-untyped-def]
    x = x - ((x >> ONE) & _M1)
    x = (x & _M2) + ((x >> _2) & _M2)
    x = (x + (x >> _4)) & _M4
    return np.int64((x * _H1) >> _56)


@inner
def _number(pool, end, hash):  # type: ignore[no-untyped-def]
    """The number of the word that is spelled from the last word's end to `end`; a new one has the next."""
    letters, words, table, counts = pool.letters, pool.words, pool.table, pool.counts
    begin, mask = counts[LETTERS], np.uint64(len(table) - 1)
    at = ((hash * MIX) >> np.uint64(24)) & mask
    while table[np.int64(at)] != 0:
        word = np.int64(table[np.int64(at)]) - 1
        start = words[word, SPELLED]
        if words[word, HASH] == np.int64(hash) and words[word + 1, SPELLED] - start == end - begin:
            i = 0
            while i < end - begin and letters[start + i] == letters[begin + i]:
                i += 1
            if i == end - begin:
                return word
        at = (at + ONE) & mask
    word = counts[WORDS]
    table[np.int64(at)] = word + 1
    words[word, HASH], words[word + 1, SPELLED] = np.int64(hash), end
    counts[WORDS] += 1
    counts[LETTERS] = end
    return word


@inner
def read_words(pool, text):  # type: ignore[no-untyped-def]
    """The numbers of a text's words into `latest`; False where there is no room. (See `lexical.WORD` for its words.)"""
    letters, latest, counts = pool.letters, pool.latest, pool.counts
    most = len(text) // 2 + 1  # words, all of them perhaps new
    if (
        counts[LETTERS] + len(text) > len(letters)
        or counts[WORDS] + most + 1 > len(pool.words)
        or 2 * (counts[WORDS] + most) > len(pool.table)
        or most > len(latest)
        or counts[KEYS] + most > len(pool.keys)
        or 2 * most + SHORT + 2 > len(pool.least)
    ):
        return False
    m, end, hash = 0, counts[LETTERS], _BASIS
    for i in range(len(text) + 1):
        byte = text[i] if i < len(text) else 0
        if 65 <= byte <= 90:
            byte += 32
        if byte >= 128 or 97 <= byte <= 122 or 48 <= byte <= 57:
            letters[end] = byte
            end += 1
            hash = (hash ^ np.uint64(byte)) * _PRIME
        elif end > counts[LETTERS]:
            latest[m] = _number(pool, end, hash)
            m += 1
            end, hash = counts[LETTERS], _BASIS
    counts[LATEST] = m
    return True


@inner
def keys_of(pool, tokens):  # type: ignore[no-untyped-def]
    """A key for every word of a text; new ones are given out as they turn up."""
    words, counts = pool.words, pool.counts
    keys = np.empty(len(tokens), np.int64)
    for i, token in enumerate(tokens):
        latest = words[token, SCRATCH] - 1  # the key of the occurrence before
        key = words[token, FIRST] if latest < 0 else pool.keys[latest, AGAIN]
        if key < 0:
            key = counts[KEYS]
            counts[KEYS] += 1
            if latest < 0:
                words[token, FIRST] = key
            else:
                pool.keys[latest, AGAIN] = key
        words[token, SCRATCH] = key + 1
        keys[i] = key
    for token in tokens:
        words[token, SCRATCH] = 0
    return keys


@inner
def shortest_twin(least, m):  # type: ignore[no-untyped-def]
    """The length of the shortest text that can be above the threshold with one of m words."""
    low, high = 1, m
    while low < high:
        middle = (low + high) // 2
        if least[m + middle] <= middle:
            high = middle
        else:
            low = middle + 1
    return low


@inner
def prefix_of(least, m):  # type: ignore[no-untyped-def]
    """How many keys of a text of m words a twin has at least one of."""
    return m - np.int64(least[m + shortest_twin(least, m)]) + 1


@inner
def lists_of(pool, m):  # type: ignore[no-untyped-def]
    """The lists that a text of m words can be in."""
    first = prefix_of(pool.least, m) if m else 0
    return first + (first * min(first, SHORT) if m <= SHORT else 0)


@inner
def sign_of(keys):  # type: ignore[no-untyped-def]
    """128 bits: of two texts with m and n keys, m less the bits that only the first has are shared at most."""
    low, high = _0, _0
    for key in keys:
        at = (np.uint64(key) * MIX) >> np.uint64(57)
        if at < np.uint64(64):
            low |= ONE << at
        else:
            high |= ONE << (at - np.uint64(64))
    return low, high


@inner
def sort_keys(pool, order):  # type: ignore[no-untyped-def]
    """Puts a text's keys in their order: ranks, and the new ones below zero."""
    m, ranked = len(order), pool.counts[RANKED]
    for i in range(m):
        key = order[i]
        order[i] = pool.keys[key, RANK] if key < ranked else -key
    if m > 48:
        order.sort()
    else:
        for i in range(1, m):
            value, j = order[i], i
            while j > 0 and order[j - 1] > value:
                order[j] = order[j - 1]
                j -= 1
            order[j] = value


@inner
def masks_of(words, tokens):  # type: ignore[no-untyped-def]
    """Where each word stands, as bits: [1 + different words, length / 64]; the scratch says which row is a word's."""
    m = len(tokens)
    masks = np.zeros((m + 1, (m + 63) // 64), np.uint64)
    rows = 0
    for i in range(m):
        token = tokens[i]
        if words[token, SCRATCH] == 0:
            rows += 1
            words[token, SCRATCH] = rows
        masks[words[token, SCRATCH], i // 64] |= ONE << np.uint64(i % 64)
    return masks


@inner
def lcs(masks, words, tokens, m):  # type: ignore[no-untyped-def]
    """The length of the longest common subsequence, 64 words at a time (Hyyrö 2004, from Crochemore et al. 2001)."""
    width = masks.shape[1]
    if width == 1:
        v = _ALL
        for token in tokens:
            u = v & masks[words[token, SCRATCH], 0]
            v = (v + u) | (v - u)
        return ones(~v & (_ALL >> np.uint64(64 - m)))
    vs = np.full(width, _ALL, np.uint64)
    for token in tokens:
        row = words[token, SCRATCH]
        if row == 0:
            continue
        carry = _0
        for w in range(width):
            v = vs[w]
            u = v & masks[row, w]
            s = v + u
            over = s < v
            s += carry
            carry = ONE if over or s < carry else _0
            vs[w] = s | (v - u)
    common = 0
    for w in range(width):
        left = min(64, m - 64 * w)
        common += ones(~vs[w] & (_ALL >> np.uint64(64 - left)))
    return common


@inner
def is_above(common, m, n, ties):  # type: ignore[no-untyped-def]
    """rouge_score's formula, in its order of operations; `ties` is its threshold, or negative: whole numbers decide."""
    if ties < 0:
        return True
    precision, recall = common / n, common / m
    return 2 * precision * recall / (precision + recall) > ties
