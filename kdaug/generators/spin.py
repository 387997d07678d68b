"""SPIN: the answers of a dataset against those of the student's last self (arXiv 2401.01335)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kdaug.generator import Generate
from kdaug.record import Discarded, Drop, Record, assistant
from kdaug.teacher import Completion


@dataclass(frozen=True)
class Spin:
    """The student answers the prompt of a completion record, and the record's own answer is preferred to it (SPIN,
    arXiv 2401.01335, §4). Trained with DPO's loss from the student that answered, which is then the reference as well.

    Drops `spin:no_answer` (the record has none), `spin:cut` and `spin:empty` (the student's is none), `spin:identical`
    (there is nothing to prefer).
    """

    temperature: float = 1.0  # authors' code
    top_p: float = 1.0  # authors' code
    max_tokens: int = 256  # authors' code

    name: ClassVar[str] = "spin"
    roles: ClassVar[tuple[str, ...]] = ("student",)

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        if record.completion is None:
            return [Discarded(record, Drop("spin:no_answer"))]
        reply = await generate(
            record.prompt,
            role="student",
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
        )
        pair = record.child(by=self.name, replies=[reply], rejected=assistant(reply.text), label=None)
        drop = _flaw(record, reply)
        return [Discarded(pair, drop) if drop else pair]


def _flaw(record: Record, reply: Completion) -> Drop | None:
    if reply.cut:  # its end would be told from a whole answer's by its length alone
        return Drop("spin:cut")
    words = reply.text.split()
    if not words:
        return Drop("spin:empty")
    same = words == " ".join(m.content for m in record.completion or ()).split()
    return Drop("spin:identical") if same else None
