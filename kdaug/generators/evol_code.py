"""Evol-Instruct for code: five ways to make a programming task harder (WizardCoder, arXiv 2306.08568)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kdaug.errors import ConfigError
from kdaug.generators.evol_instruct import EvolInstruct

HEURISTICS = ("constrain", "rarer", "reason", "distract", "complexity")


@dataclass(frozen=True)
class EvolCode(EvolInstruct):
    """Evolves programming tasks and answers them as `EvolInstruct` does, by WizardCoder's five heuristics: a
    constraint, a rarer requirement, more steps of thought, wrong code as a distraction, a lower cost. There is no
    deepening, no data to complicate the input, and no evolution in breadth.

    Its eliminations are those of Evol-Instruct, under its reasons. Raises ConfigError for another operator.
    """

    rounds: int = 3  # paper, §4.2: about 78K after three rounds
    operators: tuple[str, ...] = HEURISTICS  # paper, §3.1

    name: ClassVar[str] = "evol_code"
    renders: ClassVar[tuple[str, ...]] = ("evol_instruct/equal",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if wrong := [o for o in self.operators if o not in HEURISTICS]:
            raise ConfigError(f"evol_code has no operator {wrong[0]!r}; there are {', '.join(HEURISTICS)}")
