"""Self-rewarding: a student's own samples, its best against its worst by its own judgement (arXiv 2401.10020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kdaug.errors import ConfigError
from kdaug.generator import Generate
from kdaug.pairs import PairBuilder, paired
from kdaug.record import Discarded, Record
from kdaug.samples import marked, sampled
from kdaug.teacher import Completion


@dataclass(frozen=True)
class SelfRewarding:
    """Samples the student several times for one prompt; the student itself marks each sample from 0 to 5 by an additive
    rubric, several times over, and best against worst is a preference (Self-Rewarding, arXiv 2401.10020, §2).

    Failed judgements are left out of the mean. The pair has the scores `self_judge` (the best mean) and `margin`; of
    equal ones the first is taken; all equal is no pair. A sample that was cut, is empty or repeats an earlier one is
    discarded before it is judged.
    """

    samples: int = 4  # paper, §2.2: N = 4
    judgements: int = 3  # paper, §3: the mean of 3
    temperature: float = 0.7  # paper
    top_p: float = 0.9  # paper
    max_tokens: int = 1024

    name: ClassVar[str] = "self_rewarding"
    roles: ClassVar[tuple[str, ...]] = ("student",)
    renders: ClassVar[tuple[str, ...]] = ("self_rewarding/additive",)
    judges: ClassVar[tuple[str, ...]] = ("student",)  # the roles whose judgement decides what is kept

    def __post_init__(self) -> None:
        if self.samples < 2 or self.judgements < 1:
            raise ConfigError("self_rewarding: a pair needs two samples, a mark one judgement")

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        usable, turned_down = await sampled(
            record, [self._ask(record, generate) for _ in range(self.samples)], by=self.name
        )
        replies, means, unscored = await marked(
            record,
            usable,
            generate,
            by=self.name,
            judgements=self.judgements,
            role="student",
            template=f"{self.name}/additive",
            low=0,
            high=5,
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
        )
        pairs = paired(record, replies, means, PairBuilder(), rng, by=self.name, score="self_judge")
        return [*unscored, *pairs, *turned_down]

    async def _ask(self, record: Record, generate: Generate) -> Completion:
        return await generate(
            record.prompt, role="student", temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens
        )
