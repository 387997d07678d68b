"""Majority votes: ties, abstentions, and no dependence on the order of the ballots."""

from __future__ import annotations

from itertools import permutations

import pytest

from kdaug.voting import majority


def test_lmsi_fixture() -> None:
    vote = majority([4, 4, 5, None, 4])
    assert vote is not None
    assert (vote.winner, vote.voters, vote.cast, vote.confidence) == (4, (0, 1, 4), 4, 3 / 5)


def test_of_equally_frequent_ballots_the_first_seen_stands_and_the_tie_is_told() -> None:
    vote = majority([4, 5])
    assert vote is not None and vote.winner == 4 and vote.tied
    vote = majority([None, 5, 4, 4, 5])
    assert vote is not None and vote.winner == 5 and vote.tied
    for clear in ([4], [4, 4], [4, 5, 4], [None, 4, None, None], [4, 5, 6, 6]):
        vote = majority(clear)
        assert vote is not None and not vote.tied


def test_abstentions_leave_the_denominator_only_where_that_is_said() -> None:
    vote = majority(["a", None, "a", "b"], count_abstentions=False)
    assert vote is not None and vote.confidence == pytest.approx(2 / 3)
    vote = majority(["a", None, None, None])
    assert vote is not None and (vote.winner, vote.confidence) == ("a", 0.25)


def test_who_all_abstain_say_nothing() -> None:
    assert majority([None, None]) is None
    assert majority([]) is None


def test_a_clear_majority_does_not_depend_on_the_order() -> None:
    for order in permutations(["x", "x", "y", None]):
        vote = majority(order)
        assert vote is not None and (vote.winner, vote.confidence) == ("x", 0.5)
        assert [order[place] for place in vote.voters] == ["x", "x"]
