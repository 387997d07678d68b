"""Several answers to a prompt, each with a score: RRHF and PRO learn the order of the whole list."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdaug.errors import ConfigError
from kdaug.train.batching import Document
from kdaug.train.ranking_losses import pro, rrhf
from kdaug.train.student import Student

if TYPE_CHECKING:
    from torch import Tensor

RANKING_LOSSES: Mapping[str, Callable[..., Tensor]] = {"rrhf": rrhf, "pro": pro}


@dataclass(frozen=True, slots=True)
class Ranked:
    """The answers to one prompt, and their scores: higher is better."""

    answers: tuple[Document, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class RankedObjective:
    """A ranking loss, averaged over prompts; `function` is it with its parameters."""

    student: Student
    length: int
    function: Callable[[Tensor, Tensor, Tensor], Tensor]

    def weight(self, unit: Ranked) -> int:
        return 1

    def documents(self, unit: Ranked) -> Sequence[Document]:
        return unit.answers

    def loss(self, units: Sequence[Ranked]) -> tuple[Tensor, dict[str, Tensor]]:
        import torch

        sums = self.student.sums([d for unit in units for d in unit.answers], self.length)
        losses, margins, right = [], [], []
        for unit, logprobs in zip(units, sums.split([len(u.answers) for u in units]), strict=True):
            tokens = torch.tensor([float(d.trained) for d in unit.answers], device=sums.device)
            scores = torch.tensor(unit.scores, device=sums.device)
            losses.append(self.function(logprobs, tokens, scores))
            means = (logprobs / tokens).detach()
            better, worse = torch.nonzero(scores[:, None] > scores[None], as_tuple=True)
            apart = means[better] - means[worse]
            margins.append(apart.mean())
            right.append((apart > 0).float().mean())
        named = {"margin": torch.stack(margins).sum(), "accuracy": torch.stack(right).sum()}
        return torch.stack(losses).sum(), named


@dataclass(frozen=True, slots=True)
class Lists:
    """What is ranked; how many answers are left out because nothing is there to rank them against (`alone`), and how
    many because an earlier one has the same score (`tied`)."""

    units: list[Ranked]
    alone: int
    tied: int

    def __str__(self) -> str:
        """What is left out, in words."""
        everything = sum(len(unit.answers) for unit in self.units) + self.alone + self.tied
        return (
            f"{self.alone + self.tied:,} of {everything:,} answers are left out: {self.alone:,} with nothing to rank "
            f"them against, {self.tied:,} with the score of an earlier one"
        )


def rankings(answers: Sequence[Document], prompts: Sequence[Hashable], scores: Sequence[float], *, ties: bool) -> Lists:
    """The answers by their prompt, in the order in which prompts first come; prompts with one score alone are left out.

    Without `ties`, of answers with equal scores only the first stays. Raises ConfigError where nothing stays.
    """
    tied = 0
    lists: dict[Hashable, list[tuple[Document, float]]] = {}
    for answer, prompt, score in zip(answers, prompts, scores, strict=True):
        held = lists.setdefault(prompt, [])
        if ties or score not in (before for _, before in held):
            held.append((answer, score))
        else:
            tied += 1
    ranked = [Ranked(tuple(d for d, _ in held), tuple(score for _, score in held)) for held in lists.values()]
    kept = [unit for unit in ranked if len(set(unit.scores)) > 1]
    if not kept:
        raise ConfigError(
            f"none of {len(lists)} prompts has two completions with different scores, so there is nothing to rank: "
            "give several completion records of each prompt"
        )
    return Lists(kept, len(answers) - tied - sum(len(unit.answers) for unit in kept), tied)
