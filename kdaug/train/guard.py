"""What keeps one bad batch from spoiling a student: a step that looks wrong is known before it is taken."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from math import isfinite
from typing import Any

WINDOW = 50  # steps that a loss is compared with
ENOUGH = 20  # of them, before they say what is usual
EARLY = 10  # times the highest loss so far, or a nat: what no loss rises by before that
FLAT = 0.05  # share of the loss that counts as its range where it hardly moves
IN_A_ROW = 3  # bad steps, after which it is no batch's fault


class Guard:
    """Judges each step by its loss and gradient. `spike` is how many times the range of the last losses a loss may lie
    above them (0: any height); the range has no unit, so it serves every kind of loss.

    `before`: the metrics of the steps that were taken already, so that a resumed training judges as one that was not.
    """

    def __init__(self, spike: float, before: Iterable[dict[str, Any]] = ()) -> None:
        self.spike = spike
        self.losses: deque[float] = deque(maxlen=WINDOW)
        self.in_a_row = 0
        for line in before:
            self.note(line["loss"], line.get("skipped", ""))

    def fault(self, loss: float, norm: float) -> str:
        """Why the step should not be taken, or nothing."""
        if not isfinite(loss) or not isfinite(norm):
            return f"the loss is {loss:.4g}, the gradient's norm {norm:.4g}"
        if not self.spike or not self.losses:
            return ""
        low, high = min(self.losses), max(self.losses)
        room = self.spike * max(high - low, FLAT * abs(high))
        if len(self.losses) < ENOUGH:
            room = max(room, EARLY * max(abs(low), abs(high), 1.0))
        if loss <= high + room:
            return ""
        return f"the loss is {loss:.4g}, while the last {len(self.losses)} lay between {low:.4g} and {high:.4g}"

    def note(self, loss: float, fault: str) -> None:
        """A step was taken, or skipped for its fault."""
        if fault:
            self.in_a_row += 1
        else:
            self.losses.append(loss)
            self.in_a_row = 0
