"""A stage without a generator's work: what costs money can stand behind what drops for free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kdaug.generator import Generate
from kdaug.record import Record


@dataclass(frozen=True)
class Pass:
    """Hands its parents on as they are, to the gates of its stage."""

    name: ClassVar[str] = "pass"
    roles: ClassVar[tuple[str, ...]] = ()

    async def __call__(self, parents: Sequence[Record], generate: Generate, rng: Random) -> Sequence[Record]:
        return list(parents)
