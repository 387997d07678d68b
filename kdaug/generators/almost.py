"""ALMoST: comparisons by assumption: a larger model with more demonstrations answers better (arXiv 2305.13735)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from random import Random
from typing import ClassVar, NamedTuple

from kdaug.erasure import PromptEraser
from kdaug.errors import ConfigError
from kdaug.generator import Generate, settled
from kdaug.pairs import PairBuilder, preference
from kdaug.prompts import converse
from kdaug.record import Discarded, Drop, Record
from kdaug.samples import answered, unusable
from kdaug.teacher import Completion
from kdaug.words import count_words


class Arm(NamedTuple):
    """A model and how many demonstrations it sees."""

    role: str
    shots: int


@dataclass(frozen=True)
class Almost:
    """Answers a prompt by several arms, and makes a preference of each two of which one is assumed to be better: its
    model is at least as large and it sees at least as many demonstrations, and one of the two is more.

    `models` are roles, the largest first; `shots` how many of the demonstrations of
    `templates/prompts/almost/demonstrations.j2` they see. Arms of which each has something more than the other make no
    pair. Where length speaks against the assumption (the better answer has less than `least` times the words of the
    other) the pair is discarded (`almost:disagreement`), and so is one of equal answers (`almost:identical`). The
    record's prompt has no demonstration.

    A reward model of these pairs (`kdaug train reward`) then picks the best of many samples:
    `best_of_n_preference.scorer=reward`, `keep=best`.
    """

    models: tuple[str, ...] = ("teacher", "student")
    shots: tuple[int, ...] = (3, 0)
    least: float = 0.5
    temperature: float = 1.0
    max_tokens: int = 512

    name: ClassVar[str] = "almost"

    def __post_init__(self) -> None:
        if not self.models or len(set(self.models)) < len(self.models):
            raise ConfigError("almost: models are different roles, the largest first")
        if not self.shots or len(set(self.shots)) < len(self.shots) or not all(0 <= n <= 3 for n in self.shots):
            raise ConfigError("almost: shots are different numbers from 0 to 3")
        if len(self.arms) < 2:
            raise ConfigError("almost: two arms at least: several models, or several numbers of shots")

    @property
    def roles(self) -> tuple[str, ...]:
        return self.models

    @property
    def arms(self) -> list[Arm]:
        return [Arm(role, shots) for role in self.models for shots in sorted(self.shots, reverse=True)]

    def better(self, one: Arm, other: Arm) -> bool:
        """The partial order of arms."""
        larger = self.models.index(one.role) <= self.models.index(other.role)
        return one != other and larger and one.shots >= other.shots

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        replies = await settled([self._ask(record, arm, generate) for arm in self.arms])
        eraser = PromptEraser(self._shown())
        made: list[Record | Discarded] = []
        usable: dict[Arm, Completion] = {}
        for arm, reply in zip(self.arms, replies, strict=True):
            if not isinstance(reply, Completion):
                made.append(Discarded(record, Drop(reply.reason, {"role": arm.role, "error": str(reply)})))
                continue
            child = answered(record, reply, by=self.name)
            drop = unusable(reply, self.name, role=arm.role) or eraser.drop(self.name, child, given=record.prompt)
            if drop:
                made.append(Discarded(child, drop))
            else:
                usable[arm] = reply
        compared: set[Arm] = set()
        for one, other in permutations(usable, 2):
            if self.better(one, other):
                compared |= {one, other}
                pair = preference(record, usable[one], usable[other], by=self.name)
                drop = self._flaw(usable[one].text, usable[other].text)
                made.append(Discarded(pair, drop) if drop else pair)
        alone = [reply for arm, reply in usable.items() if arm not in compared]
        return [*made, *(Discarded(answered(record, r, by=self.name), Drop("almost:single")) for r in alone)]

    def _flaw(self, chosen: str, rejected: str) -> Drop | None:
        if flaw := PairBuilder().flaw(chosen, rejected):
            return Drop(f"{self.name}:{flaw}")
        words = [count_words(chosen), count_words(rejected)]
        return Drop(f"{self.name}:disagreement", {"words": [*words]}) if words[0] < self.least * words[1] else None

    async def _ask(self, record: Record, arm: Arm, generate: Generate) -> Completion:
        shown = converse(f"{self.name}/demonstrations", prompt=record.prompt[-1].content, shots=arm.shots)
        first = record.prompt[:1] if record.prompt[0].role == "system" else ()
        prompt = (*first, *shown[:-1], *record.prompt[len(first) :])
        return await generate(prompt, role=arm.role, temperature=self.temperature, max_tokens=self.max_tokens)

    def _shown(self) -> dict[str, str]:
        """The answers of the demonstrations, by name."""
        shown = converse(f"{self.name}/demonstrations", prompt="", shots=max(self.shots))
        return {f"demonstration {n}": m.content for n, m in enumerate(shown) if m.role == "assistant"}
