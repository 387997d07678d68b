"""Reward data: a judge's marks and comparisons, distilled into what a reward model is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean
from typing import ClassVar

from kdaug.errors import ConfigError
from kdaug.generator import Generate, settled
from kdaug.judging import Comparison, compare
from kdaug.pairs import PairBuilder, paired
from kdaug.record import Discarded, Drop, Json, Record
from kdaug.samples import marked, sampled


@dataclass(frozen=True)
class RewardData:
    """Answers of several roles, each marked by the judge, and every pair of unequal marks compared in both orders.

    A pair that the comparison confirms is kept, with `scores`: `reward` (the chosen answer's mean mark), `margin` (of
    the marks), and `preference`, from 0.5 to 1: how far both orders say so. `kdaug train reward` reads them with
    `--margin margin` or `--soft preference`. One that is not confirmed is discarded as `reward_data:contradicted`, or
    as `reward_data:unclear` where the orders come to a tie.
    """

    members: tuple[str, ...] = ("student", "teacher")
    samples: int = 2  # of each member
    judgements: int = 3
    low: int = 1
    high: int = 10
    min_margin: float = 0.0
    temperature: float = 1.0
    max_tokens: int = 1024

    name: ClassVar[str] = "reward_data"
    judges: ClassVar[tuple[str, ...]] = ("judge",)
    renders: ClassVar[tuple[str, ...]] = ("judge/grade", "pairwise/better")

    def __post_init__(self) -> None:
        if not self.members or min(self.samples, self.judgements) < 1 or len(self.members) * self.samples < 2:
            raise ConfigError("reward_data: two answers at least (members * samples), and one judgement of each")
        if self.low >= self.high:
            raise ConfigError("reward_data: low is below high")
        _ = self._builder

    @property
    def roles(self) -> tuple[str, ...]:
        return (*self.members, "judge")

    @property
    def _builder(self) -> PairBuilder:
        return PairBuilder("all", self.min_margin)

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        calls = [
            generate(record.prompt, role=role, temperature=self.temperature, max_tokens=self.max_tokens)
            for role in self.members
            for _ in range(self.samples)
        ]
        usable, turned_down = await sampled(record, calls, by=self.name)
        how = {"judgements": self.judgements, "low": self.low, "high": self.high}
        replies, marks, unscored = await marked(record, usable, generate, by=self.name, **how)
        built = paired(record, replies, marks, self._builder, rng, by=self.name, score="reward")
        pairs = [one for one in built if isinstance(one, Record)]
        others = [one for one in built if isinstance(one, Discarded)]
        return [*await self._confirmed(pairs, generate), *others, *unscored, *turned_down]

    async def _confirmed(self, pairs: Sequence[Record], generate: Generate) -> list[Record | Discarded]:
        told = await settled([compare(pair, pair.rejected or (), generate) for pair in pairs])
        made: list[Record | Discarded] = []
        for pair, said in zip(pairs, told, strict=True):
            if not isinstance(said, Comparison):
                made.append(Discarded(pair, Drop(said.reason, {"error": str(said)})))
                continue
            orders: list[Json] = list(said.orders)
            preference = fmean(said.orders)
            if preference > 0.5:
                made.append(pair.scored(preference=preference))
            else:
                reason = "unclear" if preference == 0.5 else "contradicted"
                made.append(Discarded(pair, Drop(f"{self.name}:{reason}", {"orders": orders})))
        return made
