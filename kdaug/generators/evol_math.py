"""Evol-Instruct for maths: problems made easier, then harder (WizardMath, arXiv 2308.09583)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kdaug.errors import ConfigError, ParseError, TeacherError
from kdaug.generator import Generate, settled
from kdaug.generators.evol_instruct import FORMS, EvolInstruct
from kdaug.record import Discarded, Drop, Record

DOWNWARD = ("easier", "easier_elsewhere")
UPWARD = ("constrain", "concretize", "reason")


@dataclass(frozen=True)
class EvolMath(EvolInstruct):
    """Evolves a maths problem in the rounds of `schedule`, `children` at a time, and answers each.

    A round `down` makes it easier, or an easier one on another topic; a round `up` adds a constraint, makes it more
    concrete, or asks for more steps. One of a round's survivors, drawn by chance, is the next round's parent; where the
    direction turns, the seed is again. What `EvolInstruct` eliminates is discarded, under its reasons, and a call that
    failed is a drop of its own.
    """

    schedule: tuple[str, ...] = ("down", "down", "up", "up", "up")  # paper: 2 rounds downward, 3 upward
    children: int = 6  # paper: of each problem in each round
    rounds: int = 5
    operators: tuple[str, ...] = DOWNWARD + UPWARD
    temperature: float = 0.7  # paper
    top_p: float = 1.0

    name: ClassVar[str] = "evol_math"
    renders: ClassVar[tuple[str, ...]] = ("evol_instruct/equal",)

    def __post_init__(self) -> None:
        if not self.schedule or set(self.schedule) - {"down", "up"} or len(self.schedule) != self.rounds:
            raise ConfigError(f"evol_math: schedule must be {self.rounds} (rounds) of down and up, not {self.schedule}")
        if self.children < 1:
            raise ConfigError(f"evol_math: children is {self.children}; it must be at least 1")
        known = ", ".join(DOWNWARD + UPWARD)
        if set(self.operators) - {*DOWNWARD, *UPWARD} or any(not self._ways(way) for way in self.schedule):
            raise ConfigError(f"evol_math: operators must be of {known}, some for each direction")

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (seed,) = parents
        parent, before = seed, self.schedule[0]
        made: list[Record | Discarded] = []
        for turn, way in enumerate(self.schedule):
            parent = parent if way == before else seed
            before = way
            drawn = [(rng.choice(self._ways(way)), rng.choice(FORMS)) for _ in range(self.children)]
            try:
                tried = await settled(
                    [
                        self._evolve(parent, operator, form, generate.branch(f"{turn}.{number}"))
                        for number, (operator, form) in enumerate(drawn)
                    ]
                )
            except TeacherError as e:  # all of a round's calls failed; what earlier rounds made is kept
                if e.fatal or turn == 0:
                    raise
                return [*made, Discarded(parent, Drop(e.reason, {"error": str(e)}))]
            evolved = [self._told(parent, child) for child in tried]
            made += evolved
            survivors = [child for child in evolved if isinstance(child, Record)]
            parent = rng.choice(survivors) if survivors else parent
        return made

    def _ways(self, direction: str) -> list[str]:
        return [o for o in self.operators if o in (DOWNWARD if direction == "down" else UPWARD)]

    def _told(self, parent: Record, child: Record | Discarded | TeacherError | ParseError) -> Record | Discarded:
        if isinstance(child, TeacherError | ParseError):
            return Discarded(parent, Drop(child.reason, {"error": str(child)}))
        return child
