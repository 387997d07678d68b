"""Two answers to a prompt, one preferred: DPO and its family, with a reference or without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdaug.train.batching import Document
from kdaug.train.preference_losses import Pairs, PreferenceLoss
from kdaug.train.student import Student

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt. `reference`: their summed log-probabilities there, for a loss that needs them;
    `preference`: how probable it is that the chosen one is the better, where that is known."""

    chosen: Document
    rejected: Document
    reference: tuple[float, float] | None = None
    preference: float | None = None


@dataclass(frozen=True, slots=True)
class PairObjective:
    """A preference loss, averaged over pairs; `function` is `loss` with its parameters."""

    student: Student
    length: int
    loss_of: PreferenceLoss
    function: Callable[[Pairs], Tensor]
    beta: float

    def weight(self, unit: Pair) -> int:
        return 1

    def documents(self, unit: Pair) -> Sequence[Document]:
        return unit.chosen, unit.rejected

    def loss(self, units: Sequence[Pair]) -> tuple[Tensor, dict[str, Tensor]]:
        pairs = self._scored(units)
        chosen, rejected = self.loss_of.rewards(pairs, 1.0)
        margin = chosen - rejected
        return self.function(pairs).sum(), {
            "margin": margin.sum(),
            "accuracy": (margin > 0).float().sum(),
            "chosen": self.beta * chosen.sum(),
            "rejected": self.beta * rejected.sum(),
        }

    def _scored(self, units: Sequence[Pair]) -> Pairs:
        import torch

        documents = [d for pair in units for d in (pair.chosen, pair.rejected)]
        sums = self.student.sums(documents, self.length).view(-1, 2)

        def column(values: Sequence[object]) -> Tensor | None:
            return None if None in values else torch.tensor(values, device=sums.device, dtype=sums.dtype)

        tokens = torch.tensor([d.trained for d in documents], device=sums.device, dtype=sums.dtype).view(-1, 2)
        reference = column([pair.reference for pair in units])
        ref_chosen, ref_rejected = (None, None) if reference is None else reference.T
        return Pairs(
            chosen=sums[:, 0],
            rejected=sums[:, 1],
            chosen_tokens=tokens[:, 0],
            rejected_tokens=tokens[:, 1],
            ref_chosen=ref_chosen,
            ref_rejected=ref_rejected,
            preference=column([pair.preference for pair in units]),
        )
