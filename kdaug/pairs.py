"""Pairs: which of several answers to one prompt make a preference, and why others do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from random import Random
from typing import Literal, NamedTuple, TypeAlias

from kdaug.errors import ConfigError
from kdaug.record import Discarded, Drop, Json, Record, assistant
from kdaug.samples import answered
from kdaug.teacher import Completion
from kdaug.words import count_words

How: TypeAlias = Literal["best_worst", "random_lower", "all"]
HOW: tuple[How, ...] = ("best_worst", "random_lower", "all")
SLACK = 1e-9  # 0.3 - 0.2 is no smaller than 0.1


class Candidate(NamedTuple):
    """An answer with its score; NaN where it has none."""

    text: str
    score: float


class Pair(NamedTuple):
    """Places of the better and of the worse candidate, and by how much."""

    chosen: int
    rejected: int
    margin: float


@dataclass(frozen=True)
class PairBuilder:
    """Makes pairs of scored answers to one prompt.

    `best_worst`: one pair, that of the widest margin (of equal ones the first); `random_lower`: the best answer and a
    random one below it (UltraFeedback, arXiv 2310.01377); `all`: every pair. All of them of pairs that break no rule.

    Never a pair: equal scores (`tie`), a margin below `min_margin` (`margin`), the same words (`identical`), and with
    `max_length_ratio` two answers one of which has more than so many times the words of the other (`length`). What has
    no score (NaN) takes no part.
    """

    how: How = "best_worst"
    min_margin: float = 0.0
    max_length_ratio: float | None = None

    def __post_init__(self) -> None:
        if self.how not in HOW:
            raise ConfigError(f"pairs: {self.how!r} is none of {', '.join(HOW)}")
        if self.min_margin < 0 or (self.max_length_ratio is not None and self.max_length_ratio < 1):
            raise ConfigError("pairs: min_margin is at least 0, max_length_ratio at least 1")

    def build(self, candidates: Sequence[Candidate], rng: Random) -> list[Pair] | str:
        """The pairs, or why there is none: `single` where fewer than two have a score, else the rule that the widest
        pair broke."""
        scored = [place for place, candidate in enumerate(candidates) if not isnan(candidate.score)]
        if len(scored) < 2:
            return "single"
        ordered = [
            Pair(i, j, candidates[i].score - candidates[j].score)
            for i in scored
            for j in scored
            if candidates[i].score > candidates[j].score
        ]
        widest = sorted(ordered, key=lambda pair: -pair.margin)  # stable: of equal ones the first
        if self.how == "random_lower" and widest:
            ordered = [pair for pair in ordered if pair.chosen == widest[0].chosen]
        flaws = {
            pair: self.flaw(candidates[pair.chosen].text, candidates[pair.rejected].text, pair.margin)
            for pair in ordered
        }
        sound = [pair for pair in ordered if flaws[pair] is None]
        if not sound:
            return next((flaw for pair in widest if (flaw := flaws.get(pair))), "tie")
        match self.how:
            case "all":
                return sound
            case "random_lower":
                return [rng.choice(sound)]
            case _:
                return [next(pair for pair in widest if flaws[pair] is None)]

    def flaw(self, chosen: str, rejected: str, margin: float | None = None) -> str | None:
        """Which rule a pair breaks; one that is matched beforehand (two versions of one answer) has no margin."""
        if margin is not None and margin <= 0:
            return "tie"
        if margin is not None and margin < self.min_margin - SLACK:
            return "margin"
        if chosen.split() == rejected.split():
            return "identical"
        short, long = sorted((count_words(chosen), count_words(rejected)))
        if self.max_length_ratio is not None and long > self.max_length_ratio * short:
            return "length"
        return None


def preference(
    record: Record, chosen: Completion, rejected: Completion, *, by: str, replies: Sequence[Completion] = ()
) -> Record:
    """The preference record of a prompt and two replies to it. `replies`: all that it was made from, where
    these are more than the two."""
    return record.child(
        by=by,
        replies=replies or [chosen, rejected],
        completion=assistant(chosen.text),
        rejected=assistant(rejected.text),
        label=None,
    )


def paired(
    record: Record,
    replies: Sequence[Completion],
    scores: Sequence[float],
    builder: PairBuilder,
    rng: Random,
    *,
    by: str,
    score: str,
) -> list[Record | Discarded]:
    """The preferences of scored replies to a prompt, each with the score of its chosen answer (named `score`) and their
    `margin`; or what there is in their place, as drops."""
    built = builder.build([Candidate(reply.text, mark) for reply, mark in zip(replies, scores, strict=True)], rng)
    if built == "single":
        return [Discarded(answered(record, reply, by=by), Drop(f"{by}:single")) for reply in replies]
    if isinstance(built, str):
        marked = [place for place, mark in enumerate(scores) if not isnan(mark)]
        best = max(marked, key=lambda place: scores[place])
        worst = min((place for place in marked if place != best), key=lambda place: scores[place])
        told: list[Json] = [None if isnan(mark) else mark for mark in scores]
        broken = Drop(f"{by}:{built}", {"scores": told})
        return [Discarded(preference(record, replies[best], replies[worst], by=by), broken)]
    return [
        preference(record, replies[pair.chosen], replies[pair.rejected], by=by).scored(
            **{score: scores[pair.chosen], "margin": pair.margin}
        )
        for pair in built
    ]
