"""What the engine does with one gate: some records are prepared ahead, and decided one by one, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from scripted import Scripted

from kdaug.gate import Gate
from kdaug.record import Drop, Record


def decisions(gate: Gate, records: Sequence[Record], window: int = 1) -> list[Drop | None]:
    """A drop or None for each record; `gate` is started already and asks no model."""
    return asyncio.run(adecisions(gate, records, window))


async def adecisions(gate: Gate, records: Sequence[Record], window: int = 1) -> list[Drop | None]:
    nobody = Scripted(lambda role, prompt, sampling: AssertionError("this gate asks no model"))
    ahead = [asyncio.create_task(gate.prepare(r, nobody)) for r in records[:window]]
    made: list[Drop | None] = []
    for at in range(len(records)):
        prepared = await ahead[at]
        made.append(gate.decide(prepared))
        if made[-1] is None:
            gate.remember(prepared)
        if at + window < len(records):
            ahead.append(asyncio.create_task(gate.prepare(records[at + window], nobody)))
    return made
