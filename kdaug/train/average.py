"""An exponential moving average of the weights while they are trained: often a better student than the last weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class Average:
    """mean ← decay·mean + (1 - decay)·weights after each step, from the weights that training begins with.

    Without a `decay` it is the weights themselves, and costs nothing.
    """

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        self.weights, self.decay = weights, decay
        self.means = {name: weight.detach().clone() for name, weight in weights.items()} if decay else {}

    def update(self) -> None:
        import torch

        if self.means:
            now = [self.weights[name].detach() for name in self.means]
            torch._foreach_lerp_(list(self.means.values()), now, 1 - self.decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, the model's weights are the averaged ones."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for name, mean in self.means.items():
            weight = self.weights[name].detach()
            kept = weight.clone()
            weight.copy_(mean)
            mean.copy_(kept)
