"""Shared runs of words are found exactly as by comparing everything with everything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdaug import overlap
from kdaug.overlap import Match, Overlaps, longest_run
from kdaug.words import words

FEW_WORDS = st.sampled_from(["the", "a", "Cat!", "sat.", "on", "мир", "水", "火", "🙂", "x1"])
TEXTS = st.lists(FEW_WORDS, max_size=14).map(" ".join)


def naive_n(texts: Sequence[str], shortest: int, ngram: int) -> int:
    lengths = sorted(len(words(t)) for t in texts)
    return min(ngram, max(shortest, lengths[(len(lengths) - 1) // 20]))


def naive_longest(a: Sequence[str], b: Sequence[str]) -> tuple[int, int]:
    """(start in a, length), the earliest of the longest."""
    best = (0, 0)
    for i in range(len(a)):
        for j in range(len(b)):
            k = 0
            while i + k < len(a) and j + k < len(b) and a[i + k] == b[j + k]:
                k += 1
            if k > best[1]:
                best = (i, k)
    return best


def naive(groups: Sequence[Sequence[str]], said: str, ngram: int, shortest: int, match: Match) -> int | None:
    """The place of the text that shares most runs with `said`."""
    votes, place, equal = Counter[int](), 0, None
    mine = words(said)
    for group in groups:
        n = naive_n(group, shortest, ngram) if group else 0
        for text in group:
            item = words(text)
            if len(item) < shortest:
                same = (item == mine) if item else (not mine and text.strip() == said.strip())
                equal = place if same and equal is None else equal
            else:
                run = len(item) if match == "substring" else min(n, len(item))
                runs = [mine[i : i + run] for i in range(len(mine) - run + 1)]
                votes[place] += sum(item[i : i + run] == r for r in runs for i in range(len(item) - run + 1))
            place += 1
    best = max(votes.values(), default=0)
    return min(p for p, v in votes.items() if v == best) if best else equal


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.lists(TEXTS.filter(str.strip), min_size=1, max_size=6), min_size=1, max_size=3),
    TEXTS,
    st.integers(1, 4),
    st.integers(0, 3),
    st.sampled_from(["ngram", "substring"]),
)
def test_hits_are_those_of_comparing_all_with_all(
    groups: list[list[str]], said: str, shortest: int, more: int, match: Match
) -> None:
    found = Overlaps(groups, shortest + more, shortest, match).find(said)
    expected = naive(groups, said, shortest + more, shortest, match)
    assert (found.text if found else None) == expected
    if found and words(said):
        item = words([text for group in groups for text in group][found.text])
        start, length = naive_longest(words(said), item)
        assert found.run == words(said)[start : start + length]
        assert found.whole == (length == len(item))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(TEXTS.filter(str.strip), min_size=1, max_size=6), min_size=1, max_size=2),
    TEXTS,
    st.integers(1, 3),
)
def test_no_collision_of_hashes_makes_a_hit(groups: list[list[str]], said: str, shortest: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap, "_hash", lambda word: len(word) % 2)  # nearly all runs collide
        found = Overlaps(groups, shortest + 2, shortest).find(said)
    expected = naive(groups, said, shortest + 2, shortest, "ngram")
    assert (found is None) == (expected is None)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abc"), max_size=12))
def test_the_longest_run_is_that_of_trying_all(a: list[str], b: list[str]) -> None:
    assert longest_run(a, b) == naive_longest(a, b)


def test_ten_thousand_equal_words_are_no_trouble() -> None:
    found = Overlaps([["again " * 10_000]], 13, 8).find("once more: " + "again " * 10_000)
    assert found is not None and found.whole and len(found.run) == 10_000


def test_n_is_the_fifth_percentile_of_the_lengths_within_its_bounds() -> None:
    def group(*lengths: int) -> list[str]:
        return [" ".join(f"w{i}" for i in range(n)) for n in lengths]

    long, middle, short = group(*[30] * 20), group(*[10] * 2, *[30] * 18), group(*[3] * 5, *[30] * 15)
    assert Overlaps([long, middle, short], 13, 8).n == [13, 10, 8]
    assert Overlaps([long, middle, short], 13, 13).n == [13, 13, 13]


TWENTY = " ".join(f"word{i}" for i in range(20))


@pytest.mark.parametrize(
    ("said", "run"),
    [
        (" ".join(f"word{i}" for i in range(4, 17)), 13),
        (" ".join(f"word{i}" for i in range(4, 16)), None),  # twelve
        ("So: WORD4, word5 (word6) word7 word8; word9 word10 word11 word12 word13 word14 word15 word16 …!", 13),
        (" ".join(f"word{i}" for i in [*range(10), 99, *range(10, 20)]), None),  # twenty, but never 13 in a row
        (f"Please solve this: {TWENTY}. Think first.", 20),
        ("", None),
        ("word1", None),
    ],
)
def test_thirteen_words_in_a_row_are_a_hit_and_twelve_are_not(said: str, run: int | None) -> None:
    found = Overlaps([[TWENTY, "something else " * 10]], 13, 8).find(said)
    assert (len(found.run) if found else None) == run


def test_a_text_shorter_than_n_has_to_occur_as_a_whole() -> None:
    nine = "how many legs do five spiders have in all"
    overlaps = Overlaps([[nine, *[TWENTY] * 30]], 13, 8)
    assert overlaps.n == [13]
    found = overlaps.find(f"Tell me, {nine}?")
    assert found is not None and found.text == 0 and found.whole
    assert overlaps.find("how many legs do five spiders have in") is None


def test_a_very_short_text_has_to_be_all_that_is_said() -> None:
    overlaps = Overlaps([["What is 2 + 2?", "🙂"]], 13, 8)
    assert overlaps.find("what is 2+2") is not None
    assert overlaps.find("I was asked: what is 2+2") is None
    assert overlaps.find("🙂") == (1, ["🙂"], True)
    assert overlaps.find("🙃") is None and overlaps.find("") is None


def test_scripts_without_spaces_are_compared_by_character() -> None:
    item = "小明有五个苹果他吃了两个还剩下几个苹果呢"
    overlaps = Overlaps([[item]], 13, 8)
    assert overlaps.find(f"请回答:{item[:13]}") is not None
    assert overlaps.find(f"请回答:{item[:12]}") is None
