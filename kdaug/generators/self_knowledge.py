"""Self-knowledge: a student's own samples, sorted by its own judgement or by a reference answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import ClassVar, Literal

from kdaug.errors import ConfigError
from kdaug.generator import Generate
from kdaug.generators.rest_em import RestEM
from kdaug.generators.self_rewarding import SelfRewarding
from kdaug.record import Discarded, Record


@dataclass(frozen=True)
class SelfKnowledge:
    """Samples the student several times for one prompt and keeps what is good, without any other model: one name for
    `self_rewarding` (`mode="judge"`) and `rest_em` (`mode="verify"`, for prompts with a reference), with one setting of
    the sampling for both. Records and drops bear the name of the method that made them.
    """

    samples: int = 4
    mode: Literal["judge", "verify"] = "judge"
    judgements: int = 3
    max_kept: int = 10
    temperature: float = 0.7
    top_p: float = 0.9
    max_tokens: int = 1024
    method: SelfRewarding | RestEM = field(init=False, repr=False, metadata={"fingerprint": True})

    name: ClassVar[str] = "self_knowledge"
    roles: ClassVar[tuple[str, ...]] = ("student",)

    def __post_init__(self) -> None:
        if self.mode not in ("judge", "verify"):
            raise ConfigError(f'self_knowledge: mode must be "judge" or "verify", not {self.mode!r}')
        how = (self.temperature, self.top_p, self.max_tokens)
        method: SelfRewarding | RestEM
        if self.mode == "verify":
            method = RestEM(self.samples, self.max_kept, "solve", True, *how)
        else:
            method = SelfRewarding(self.samples, self.judgements, *how)
        object.__setattr__(self, "method", method)

    @property
    def renders(self) -> tuple[str, ...]:
        return self.method.renders

    @property
    def judges(self) -> tuple[str, ...]:
        """The roles whose judgement decides what is kept."""
        return self.method.judges if isinstance(self.method, SelfRewarding) else ()

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        return await self.method(parents, generate, rng)
