"""Both indexes of the lexical search find what comparing with every text finds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from fractions import Fraction

import pytest
from deciding import adecisions, decisions
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer, _score_lcs
from scripted import Scripted

from kdaug.gates import compiled, lexical
from kdaug.gates.compiled import CompiledIndex
from kdaug.gates.lexical import Index, PlainIndex, Rule, plain
from kdaug.gates.rouge import Rouge
from kdaug.record import Drop, Record, user
from kdaug.words import words

ANY = st.text(st.sampled_from("ab cd  é你好😀."), max_size=60)
LONG = st.builds(lambda w, n: " ".join(w * n), st.lists(st.sampled_from("abcdefgh"), max_size=12), st.integers(1, 12))


def naive(texts: Sequence[list[str]], rule: Rule) -> list[int | None]:
    found: list[int | None] = []
    for i, text in enumerate(texts):
        found.append(None)
        for place, other in enumerate(texts[:i]):
            common = lcs(text, other)
            tie = rule.floats is not None and _score_lcs(text, other).fmeasure > rule.floats
            if text and other and (tie or Fraction(2 * common, len(text) + len(other)) > rule.threshold):
                found[-1] = place
                break
    return found


def lcs(a: list[str], b: list[str]) -> int:
    row = [0] * (len(b) + 1)
    for x in a:
        before = 0
        for j, y in enumerate(b):
            before, row[j + 1] = row[j + 1], before + 1 if x == y else max(row[j + 1], row[j])
    return row[-1]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(ANY | LONG, max_size=25),
    st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.9, 1.0]),
    st.booleans(),
    st.sampled_from([2, 8, 1024]),
)
def test_plain_and_compiled_find_what_a_comparison_with_all_finds(
    texts: list[str], threshold: float, floats: bool, rank_at: int
) -> None:
    rule = Rule(Fraction(repr(threshold)), threshold if floats else None)
    expected = naive([words(t) for t in texts], rule)
    fast = CompiledIndex(rule)
    fast._rank_at = rank_at
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "FREQUENT", 1)  # so that a few texts already have frequent words
        for index in (PlainIndex(rule), fast):
            assert _places(index, [plain(t, words) for t in texts]) == expected


def _places(index: Index, texts: Sequence[bytes]) -> list[int | None]:
    places = []
    for text in texts:
        found = index.earliest(text)
        places.append(None if found is None else found[0])
        index.add(text)
    return places


@pytest.mark.parametrize("kind", [PlainIndex, CompiledIndex])
def test_ten_thousand_words(kind: Callable[[Rule], Index]) -> None:
    made, text = kind(Rule(Fraction(7, 10))), [f"w{i % 3000}".encode() for i in range(10_000)]
    made.add(b" ".join(text))
    made.add(b" ".join(text[:5]))
    assert made.earliest(b" ".join(text[:5_400])) == (0, 2 * 5_400 / 15_400)
    assert made.earliest(b" ".join(text[:5_300])) is None  # F is 0.693
    assert made.earliest(b" ".join(text[:1] * 10_000)) is None


def test_ties_as_rouge_score_decides_them() -> None:
    scorer = RougeScorer(["rougeL"])
    for m in range(7, 40):
        for n in range(m, 40):
            common, rest = divmod(7 * (m + n), 20)
            if rest or common > m:
                continue
            a = " ".join([f"s{i}" for i in range(common)] + [f"a{i}" for i in range(m - common)])
            b = " ".join([f"s{i}" for i in range(common)] + [f"b{i}" for i in range(n - common)])
            _, kept = decisions(Rouge(ties="kept").start([]), [Record(prompt=user(a)), Record(prompt=user(b))])
            _, drop = decisions(Rouge(ties="rouge_score").start([]), [Record(prompt=user(a)), Record(prompt=user(b))])
            assert kept is None
            assert (drop is not None) == (scorer.score(a, b)["rougeL"].fmeasure > 0.7)


@settings(max_examples=15, deadline=None)
@given(st.lists(ANY | LONG, min_size=4, max_size=25), st.sampled_from([1, 5, 64]), st.integers(0, 25))
def test_windows_growth_and_resuming_change_nothing(texts: list[str], window: int, cut: int) -> None:
    records = [Record(prompt=user(t), meta={"n": i}) for i, t in enumerate(texts)]
    expected = decisions(Rouge().start([]), records)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lexical, "MANY", 2)  # goes over to compiled code at once
        assert decisions(Rouge().start([]), records, window) == expected
        assert asyncio.run(_resumed(records, expected, cut, window)) == expected[cut:]


async def _resumed(
    records: Sequence[Record], decided: Sequence[Drop | None], cut: int, window: int
) -> list[Drop | None]:
    gate = Rouge().start([])
    for record, drop in zip(records[:cut], decided[:cut], strict=True):
        if drop is None:
            gate.remember(await gate.recall(record, Scripted(lambda *asked: AssertionError("nobody is asked"))))
    return await adecisions(gate, records[cut:], window)
