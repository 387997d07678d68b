"""Single answers labelled good or bad: KTO (arXiv 2402.01306).

What an answer gains is held against z0, how far the student has moved from its reference on answers that do not fit
their prompt. Each answer has one such mismatch for the whole training, so the reference is asked about it only once.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from kdaug.train.batching import IGNORE, Document
from kdaug.train.document import Tokens
from kdaug.train.preference_losses import kto_z0, mismatches
from kdaug.train.student import Student

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer that is `desirable` or not, and its prompt with the answer to another one, where there is another.

    `reference` and `mismatched_reference`: their summed log-probabilities there.
    """

    answer: Document
    desirable: bool
    reference: float
    mismatched: Document | None
    mismatched_reference: float


@dataclass(frozen=True, slots=True)
class JudgedObjective:
    """The KTO loss, averaged over answers; `function` is it with its parameters. z0 is of each forward pass, so it is
    the steadier the more answers share one."""

    student: Student
    length: int
    function: Callable[[Tensor, Tensor, Tensor], Tensor]
    beta: float

    def weight(self, unit: Judged) -> int:
        return 1

    def documents(self, unit: Judged) -> Sequence[Document]:
        return (unit.answer,)

    def loss(self, units: Sequence[Judged]) -> tuple[Tensor, dict[str, Tensor]]:
        import torch

        z0 = self._z0(units)
        sums = self.student.sums([unit.answer for unit in units], self.length)
        ratios = sums - torch.tensor([unit.reference for unit in units], device=sums.device)
        good = torch.tensor([unit.desirable for unit in units], device=sums.device)
        gained = ratios.detach()
        return self.function(ratios, good, z0).sum(), {
            "margin": torch.where(good, gained - z0, z0 - gained).sum(),
            "accuracy": ((gained > z0) == good).float().sum(),
            "chosen": self.beta * gained[good].sum(),
            "rejected": self.beta * gained[~good].sum(),
            "z0": z0 * len(units),
        }

    def _z0(self, units: Sequence[Judged]) -> Tensor:
        import torch

        known = [(u.mismatched, u.mismatched_reference) for u in units if u.mismatched is not None]
        if not known:
            return torch.zeros((), device=self.student.device)
        with torch.no_grad():
            sums = self.student.sums([document for document, _ in known], self.length)
        return kto_z0(sums - torch.tensor([reference for _, reference in known], device=sums.device))


def mismatched(answers: Sequence[Document], seed: int, length: int) -> list[Document | None]:
    """For each answer its prompt with the answer to another prompt: the next one in an order that the seed shuffles.

    None where all have the same prompt, which is warned of: then z0 stays 0.
    """
    order = list(range(len(answers)))
    Random(seed).shuffle(order)
    prompts = [bytes(_prompt(answers[i])) for i in order]
    made: list[Document | None] = [None] * len(answers)
    for i, place in zip(order, mismatches(prompts), strict=True):
        if place is not None:
            made[i] = _joined(answers[i], answers[order[place]], length)
    if None in made:
        _log.warning("all %d answers are to one prompt, so none can be mismatched: z0 is taken to be 0", len(answers))
    return made


def _begin(document: Document) -> int:
    """Where its answer begins."""
    return next(i for i, target in enumerate(document.targets) if target != IGNORE) + 1


def _prompt(document: Document) -> Tokens:
    return document.ids[: _begin(document)]


def _joined(asked: Document, answered: Document, length: int) -> Document:
    end, begin = _begin(asked), _begin(answered)
    ids = array("i", [*asked.ids[:end], *answered.ids[begin:]])
    # The prompt's last token predicts the answer's first.
    targets = [*asked.targets[: end - 1], *answered.targets[begin - 1 :]][: min(length, len(ids)) - 1]
    return Document(ids[:length], array("i", [*targets, IGNORE]), asked.record)
