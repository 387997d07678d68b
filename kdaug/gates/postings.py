"""The inverted index of `compiled`, in compiled code: which kept texts share a rare key, or a pair of frequent ones,
with a text. kernels.py says what the arrays are."""

from __future__ import annotations

import numpy as np

from kdaug.gates.kernels import (
    BLOCK,
    CUT,
    FREE,
    HASH,
    HELD,
    LATEST,
    LINKS,
    LOOKED,
    MIX,
    NEWEST,
    ONE,
    PAIR,
    PAIRS,
    PARTS,
    QUERY,
    SCRATCH,
    SHORT,
    SIGN,
    START,
    TEXTS,
    TOKENS,
    TOP,
    TOUCHED,
    WORDS,
    Array,
    compiled,
    inner,
    is_above,
    keys_of,
    lcs,
    lists_of,
    masks_of,
    ones,
    open_pool,
    prefix_of,
    read_words,
    shortest_twin,
    sign_of,
    sort_keys,
)


@inner
def _find(pairs, pair):  # type: ignore[no-untyped-def]
    """The row of a pair of slots, or the free row where it belongs."""
    mask = np.uint64(len(pairs) - 1)
    at = ((np.uint64(pair) * MIX) >> np.uint64(24)) & mask
    while pairs[np.int64(at), PAIR] != pair and pairs[np.int64(at), PAIR] != 0:
        at = (at + ONE) & mask
    return np.int64(at)


@inner
def _size(entries):  # type: ignore[no-untyped-def]
    """Which of the sizes of blocks, 1, 2, 4…, so many are."""
    size = 0
    while 1 << size < entries:
        size += 1
    return size


@inner
def _block(pool, entries):  # type: ignore[no-untyped-def]
    """A block for so many entries, a power of two: one that was outgrown, or a new one."""
    counts, free = pool.counts, FREE + _size(entries)
    block = counts[free] - 1
    if block >= 0:
        counts[free] = pool.links[block]
    else:
        block = counts[LINKS]
        counts[LINKS] += 1 + 2 * entries
    pool.links[block] = -1
    return block


@inner
def _post(pool, rows, row, entry, sign):  # type: ignore[no-untyped-def]
    """Adds to a list. A full block gives way to one of twice its room, so that a list is looked through in one go; the
    largest stay, and the next one says where the one before it is."""
    links, held, block = pool.links, rows[row, HELD], rows[row, NEWEST]
    if held < BLOCK and held & (held - 1) == 0:
        wider = _block(pool, max(1, 2 * held))
        if held:
            links[wider + 1 : wider + 1 + 2 * held] = links[block + 1 : block + 1 + 2 * held]
            free = FREE + _size(held)
            links[block], pool.counts[free] = pool.counts[free], block + 1
        block = wider
    elif held % BLOCK == 0:
        newer = _block(pool, BLOCK)
        links[newer] = block
        block = newer
    at = block + 1 + 2 * (held % BLOCK)
    links[at], links[at + 1] = entry, sign
    rows[row, NEWEST] = block
    rows[row, HELD] = held + 1


@inner
def _index(pool, place):  # type: ignore[no-untyped-def]
    texts, pairs = pool.texts, pool.pairs
    begin, end = texts[place, START], texts[place + 1, START]
    m, cut = end - begin, pool.counts[CUT]
    if m == 0:
        return
    order = keys_of(pool, pool.tokens[begin:end])
    sort_keys(pool, order)
    sign = texts[place, SIGN] | texts[place, SIGN + 1]
    first = prefix_of(pool.least, m)
    for i in range(first):
        entry = (np.int64(place) << 32) | (min(m, TOP) << 16) | min(i, TOP)
        frequent = order[i] >= cut
        if not frequent or m > SHORT or first == m:
            _post(pool, pool.keys, abs(order[i]), entry, sign)
        if frequent and m <= SHORT:
            for j in range(i + 1, min(m, first + 1)):
                pair = (order[i] << 31) | order[j]
                row = _find(pairs, pair)
                if pairs[row, PAIR] == 0:
                    pairs[row, PAIR] = pair
                    pool.counts[PAIRS] += 1
                _post(pool, pairs, row, entry, sign)


@inner
def _walk(pool, block, left, i, m, best, sign, masks, ties):  # type: ignore[no-untyped-def]
    """The earliest text above the threshold in a list, before `best`; `best` where there is none."""
    query, texts, links, least = pool.counts[QUERY], pool.texts, pool.links, pool.least
    found, folded = best, sign[0] | sign[1]
    while left > 0:
        held = (left - 1) % BLOCK + 1
        for at in range(block + 1, block + 1 + 2 * held, 2):
            entry = links[at]
            place = entry >> 32
            n, position = (entry >> 16) & TOP, entry & TOP
            if n == TOP:
                n = texts[place + 1, START] - texts[place, START]
            needs = np.int64(least[m + n])
            other = np.uint64(links[at + 1])
            # All of it without a branch: most places fail at any one of these, and a wrong guess costs more than all.
            fits = (place < found) & (m - i >= needs) & (n - position >= needs)
            fits &= (ones(folded & ~other) <= m - needs) & (ones(other & ~folded) <= n - needs)
            if not fits or texts[place, LOOKED] == query:
                continue
            texts[place, LOOKED] = query
            low, high = np.uint64(texts[place, SIGN]), np.uint64(texts[place, SIGN + 1])
            if ones(sign[0] & ~low) + ones(sign[1] & ~high) > m - needs:
                continue
            if ones(low & ~sign[0]) + ones(high & ~sign[1]) > n - needs:
                continue
            begin = texts[place, START]
            common = lcs(masks, pool.words, pool.tokens[begin : begin + n], m)
            if common >= needs and is_above(common, m, n, ties):
                found = place
        left -= held
        block = links[block]
    return found


@inner
def _walk_all(pool, lists, k, m, best, sign, masks, ties):  # type: ignore[no-untyped-def]
    """The same for the first `k` of several lists: newest block, entries, and the place of the key in the text."""
    touched = 0
    for at in range(k):  # at once, so that the memory's answers come together
        touched += pool.links[lists[at, 0]]
    pool.counts[TOUCHED] = touched
    for at in range(k):
        best = _walk(pool, lists[at, 0], lists[at, 1], lists[at, 2], m, best, sign, masks, ties)
    return best


def _search(header, text, ties):  # type: ignore[no-untyped-def]
    """The place of the earliest text above the threshold, and its F; (-1, 0) where there is none, (-2, 0) where there
    is no room to read the text."""
    pool = open_pool(header)
    if not read_words(pool, text):
        return np.int64(-2), 0.0
    m, cut, none = pool.counts[LATEST], pool.counts[CUT], pool.counts[TEXTS]
    if m == 0:
        return np.int64(-1), 0.0
    pool.counts[QUERY] += 1
    tokens = pool.latest[:m]
    order = keys_of(pool, tokens)
    sign = sign_of(order)
    sort_keys(pool, order)
    shortest, first = shortest_twin(pool.least, m), prefix_of(pool.least, m)
    singles = first == m or pool.least[m + SHORT + 1] <= m  # a longer text is posted under its frequent words, too
    keys, pairs, found, masks = pool.keys, pool.pairs, none, masks_of(pool.words, tokens)
    lists, k = np.empty((64, 3), np.int64), 0
    for i in range(first):
        frequent, slot = order[i] >= cut, abs(order[i])
        if not frequent or singles:
            lists[k, 0], lists[k, 1], lists[k, 2] = keys[slot, NEWEST], keys[slot, HELD], i
            k += 1
        for j in range(i + 1, min(m, first + 1) if frequent and shortest <= SHORT else 0):
            if k == len(lists):
                found, k = _walk_all(pool, lists, k, m, found, sign, masks, ties), 0
            row = _find(pairs, (order[i] << 31) | order[j])
            lists[k, 0], lists[k, 1], lists[k, 2] = pairs[row, NEWEST], pairs[row, HELD], i
            k += 1
        if k == len(lists) or i == first - 1:
            found, k = _walk_all(pool, lists, k, m, found, sign, masks, ties), 0
    score = 0.0
    if found < none:
        begin, end = pool.texts[found, START], pool.texts[found + 1, START]
        score = 2 * lcs(masks, pool.words, pool.tokens[begin:end], m) / (m + end - begin)
    for token in tokens:
        pool.words[token, SCRATCH] = 0
    return (found, score) if found < none else (np.int64(-1), 0.0)


@inner
def _has_room(pool, m):  # type: ignore[no-untyped-def]
    """For one more text of m words in the index."""
    counts, lists = pool.counts, lists_of(pool, m)
    return counts[LINKS] + lists * (1 + 2 * BLOCK) <= len(pool.links) and 2 * (counts[PAIRS] + lists) <= len(pool.pairs)


def _lists_for(header, m):  # type: ignore[no-untyped-def]
    return lists_of(open_pool(header), m)


def _read_text(header, text):  # type: ignore[no-untyped-def]
    return read_words(open_pool(header), text)


def _add(header):  # type: ignore[no-untyped-def]
    """Puts the text that was read last at the end; False where there is no room for it."""
    pool = open_pool(header)
    texts, counts = pool.texts, pool.counts
    m, begin, place = counts[LATEST], counts[TOKENS], counts[TEXTS]
    if begin + m > len(pool.tokens) or place + 2 > len(texts) or not _has_room(pool, m):
        return False
    pool.tokens[begin : begin + m] = pool.latest[:m]
    texts[place + 1, START] = begin + m
    low, high = sign_of(keys_of(pool, pool.latest[:m]))
    texts[place, SIGN], texts[place, SIGN + 1] = low, high
    counts[TEXTS] += 1
    counts[TOKENS] += m
    _index(pool, place)
    return True


def _index_from(header, place):  # type: ignore[no-untyped-def]
    """Indexes the texts from `place` on; the first for which there is no room."""
    pool = open_pool(header)
    while place < pool.counts[TEXTS]:
        if not _has_room(pool, pool.texts[place + 1, START] - pool.texts[place, START]):
            break
        _index(pool, place)
        place += 1
    return place


def _occurrences(header, often):  # type: ignore[no-untyped-def]
    """Counts the texts with each key."""
    pool = open_pool(header)
    for place in range(pool.counts[TEXTS]):
        for key in keys_of(pool, pool.tokens[pool.texts[place, START] : pool.texts[place + 1, START]]):
            often[key] += 1


def _rehash_words(header):  # type: ignore[no-untyped-def]
    """Fills an empty table."""
    pool = open_pool(header)
    mask = np.uint64(len(pool.table) - 1)
    for word in range(pool.counts[WORDS]):
        at = ((np.uint64(pool.words[word, HASH]) * MIX) >> np.uint64(24)) & mask
        while pool.table[np.int64(at)] != 0:
            at = (at + ONE) & mask
        pool.table[np.int64(at)] = word + 1


def _rehash_pairs(header, old):  # type: ignore[no-untyped-def]
    """Fills an empty table with what is in an old one."""
    pairs = open_pool(header).pairs
    for i in range(len(old)):
        if old[i, PAIR] != 0:
            row = _find(pairs, old[i, PAIR])
            pairs[row] = old[i]


_header: Array = np.zeros((len(PARTS), 2), np.int64)
search = compiled(_header, b"", 0.7)(_search)
read = compiled(_header, b"")(_read_text)
add = compiled(_header)(_add)
lists = compiled(_header, 0)(_lists_for)
index_from = compiled(_header, 0)(_index_from)
occurrences = compiled(_header, np.zeros(0, np.int64))(_occurrences)
rehash_words = compiled(_header)(_rehash_words)
rehash_pairs = compiled(_header, np.zeros((0, 4), np.int64))(_rehash_pairs)
