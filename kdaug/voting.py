"""Majority votes: what most of several answers to one question say, and how sure that is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Ballot = TypeVar("Ballot", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Vote(Generic[Ballot]):
    """What a majority says. `voters`: the places of its ballots; `cast`: ballots that are no abstention; `out_of`: what
    the confidence is a share of; `tied`: another ballot was cast as often, so the winner is a matter of order."""

    winner: Ballot
    voters: tuple[int, ...]
    cast: int
    out_of: int
    tied: bool = False

    @property
    def confidence(self) -> float:
        return len(self.voters) / self.out_of


def majority(ballots: Sequence[Ballot | None], *, count_abstentions: bool = True) -> Vote[Ballot] | None:
    """The most frequent ballot (Self-Consistency, arXiv 2203.11171, §2); None, where all abstain.

    The paper says nothing of a tie. The first seen then stands as the winner, and the vote says that it is `tied`: who
    wants no winner by the order of samples turns it down.

    None is an abstention: it never wins. It lowers the confidence (LMSI, arXiv 2210.11610, §3.1: votes / samples) but
    for `count_abstentions=False`.
    """
    counts = Counter(ballot for ballot in ballots if ballot is not None)  # a Counter keeps the order first seen
    if not counts:
        return None
    (winner, most), *others = counts.most_common(2)
    voters = tuple(place for place, ballot in enumerate(ballots) if ballot == winner)
    cast = counts.total()
    tied = any(count == most for _, count in others)
    return Vote(winner, voters, cast, len(ballots) if count_abstentions else cast, tied)
