"""Pairs: ties, margins, NaN, identical words, lengths."""

from __future__ import annotations

from math import nan
from random import Random
from typing import Any

import pytest

from kdaug.errors import ConfigError
from kdaug.pairs import Candidate, Pair, PairBuilder, preference
from kdaug.record import Record, assistant, text_of, user
from kdaug.teacher import Completion


def build(*scores: float, texts: tuple[str, ...] = (), seed: int = 0, **how: Any) -> Any:
    candidates = [Candidate(texts[i] if texts else f"answer {i}", score) for i, score in enumerate(scores)]
    return PairBuilder(**how).build(candidates, Random(seed))


def test_the_first_best_and_the_first_worst() -> None:
    assert build(2, 4.5, 4.5, 1) == [Pair(1, 3, 3.5)]
    assert build(1, 5, 1) == [Pair(1, 0, 4)]


def test_what_has_no_score_takes_no_part() -> None:
    assert build(nan, 2, 1, nan) == [Pair(1, 2, 1)]
    assert build(nan, 2) == "single"
    assert build() == "single"


def test_equal_scores_are_no_pair() -> None:
    for how in ("best_worst", "random_lower", "all"):
        assert build(3, 3, 3, 3, how=how) == "tie"


def test_the_margin_may_be_met_exactly() -> None:
    assert build(0.3, 0.2, min_margin=0.1) == [Pair(0, 1, pytest.approx(0.1))]  # 0.3 - 0.2 < 0.1 in floats
    assert build(0.3, 0.2, min_margin=0.11) == "margin"


def test_all_pairs_of_four_scores_are_six_and_ties_are_none() -> None:
    pairs = build(1, 2, 3, 4, how="all")
    assert len(pairs) == 6 and all(pair.margin > 0 for pair in pairs)
    assert build(1, 2, 2, how="all") == [Pair(1, 0, 1), Pair(2, 0, 1)]


def test_a_random_lower_one_goes_with_the_best() -> None:
    found = {build(1, 4, 2, 4, 3, how="random_lower", seed=seed)[0] for seed in range(40)}
    assert {pair.chosen for pair in found} == {1}
    assert {pair.rejected for pair in found} == {0, 2, 4}


def test_the_same_words_are_no_pair_and_the_next_widest_is() -> None:
    assert build(2, 1, texts=("so it is", "so  it\nis")) == "identical"
    assert build(3, 2, 1, texts=("so", "other", "so")) == [Pair(0, 1, 1)]


def test_pairs_may_be_matched_in_length() -> None:
    texts = ("a b c d", "a b", "a")
    assert build(3, 2, 1, texts=texts, max_length_ratio=2.0) == [Pair(0, 1, 1)]
    assert build(3, 1, texts=("a b c d", "a"), max_length_ratio=3.9) == "length"


def test_swapping_the_scores_swaps_the_pair() -> None:
    (there,), (back,) = build(1, 2), build(2, 1)
    assert (there.chosen, there.rejected) == (back.rejected, back.chosen)


def test_two_versions_of_one_answer_need_no_scores() -> None:
    assert PairBuilder().flaw("kind words", "rude words") is None
    assert PairBuilder().flaw("same", "same ") == "identical"


def test_the_record_of_a_pair() -> None:
    asked = Record(prompt=user("Why?"), completion=assistant("old"), label=True)
    made = preference(asked, Completion("good", teacher="t", key="1"), Completion("bad", teacher="t", key="2"), by="x")
    assert made.kind == "preference" and made.label is None and made.replies == ("1", "2")
    assert (text_of(made.completion), text_of(made.rejected)) == ("good", "bad")


@pytest.mark.parametrize("wrong", [{"how": "worst"}, {"min_margin": -1.0}, {"max_length_ratio": 0.5}])
def test_what_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        PairBuilder(**wrong)
