"""A panel: several teachers answer the same prompts, or share them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar, Literal

from kdaug.errors import ConfigError
from kdaug.generator import Generate, settled
from kdaug.record import Discarded, Drop, Record
from kdaug.samples import answered, unusable
from kdaug.teacher import Completion


@dataclass(frozen=True)
class Panel:
    """Answers a prompt by several roles: all of them (`mode="all"`: a record each), or one that is drawn for it
    (`mode="one"`, by `weights`). `by` says whose an answer is (`panel/second`).

    What one member fails at, cuts or leaves empty is discarded; the others' answers stay. An answer that another member
    gave word for word is discarded as `panel:duplicate`.
    """

    members: tuple[str, ...] = ("teacher", "second")
    mode: Literal["all", "one"] = "all"
    weights: tuple[float, ...] = ()
    temperature: float = 0.7
    top_p: float = 1.0
    max_tokens: int = 1024

    name: ClassVar[str] = "panel"

    def __post_init__(self) -> None:
        if not self.members or len(set(self.members)) < len(self.members):
            raise ConfigError("panel: members are different roles, at least one")
        if self.mode not in ("all", "one"):
            raise ConfigError(f'panel: mode is "all" or "one", not {self.mode!r}')
        if self.weights and (self.mode == "all" or len(self.weights) != len(self.members) or min(self.weights) <= 0):
            raise ConfigError('panel: weights go with mode="one": one above 0 for each member')

    @property
    def roles(self) -> tuple[str, ...]:
        return self.members

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        asked = self.members if self.mode == "all" else rng.choices(self.members, self.weights or None)
        replies = await settled([self._ask(record, role, generate) for role in asked])
        made: list[Record | Discarded] = []
        earlier: list[Completion] = []
        for role, reply in zip(asked, replies, strict=True):
            if not isinstance(reply, Completion):
                made.append(Discarded(record, Drop(reply.reason, {"role": role, "error": str(reply)})))
                continue
            child = answered(record, reply, by=f"{self.name}/{role}")
            drop = unusable(reply, self.name, earlier, role=role)
            made.append(Discarded(child, drop) if drop else child)
            earlier.append(reply)
        return made

    async def _ask(self, record: Record, role: str, generate: Generate) -> Completion:
        return await generate(
            record.prompt, role=role, temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens
        )
