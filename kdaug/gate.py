"""Gates: filters, scorers and dedupers. Concurrent work prepares, serial work decides, in job order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from kdaug.generator import Generate
from kdaug.record import Drop, Json, Record


@dataclass(frozen=True, slots=True)
class Prepared:
    """A record as a gate hands it on (perhaps with a score more), and what `decide` needs besides."""

    record: Record
    evidence: Any = None


class Gate:
    """The one base class: no-op defaults, so that a gate writes only what it does.

    A gate is a value: `start` returns one with fresh state, so that a recipe can run twice. Its dataclass fields are
    its configuration; state lives in fields with `init=False` or in attributes that `start` sets.
    """

    name: ClassVar[str] = "gate"
    roles: ClassVar[tuple[str, ...]] = ()

    def start(self, seeds: Sequence[Record]) -> Gate:
        """Fresh state; `seeds` are known before the first record."""
        return self

    async def prepare(self, record: Record, generate: Generate) -> Prepared:
        """Concurrent: embed, score, search. A TeacherError or ParseError here drops this record alone."""
        return Prepared(record)

    async def recall(self, record: Record, generate: Generate) -> Prepared:
        """On resume, for a record that was kept: what `remember` needs, without the search that `prepare` may do. A
        gate that remembers nothing is not asked."""
        return await self.prepare(record, generate)

    def decide(self, prepared: Prepared) -> Drop | None:
        """Serial, in job order, no await. A verdict that hangs on the record alone is found in `prepare`, and is the
        evidence: such a gate needs no `decide` of its own."""
        return prepared.evidence if isinstance(prepared.evidence, Drop) else None

    def report(self) -> Mapping[str, Json]:
        """What there is to say of it in run.json and the card, besides its drops, when the run has ended."""
        return {}

    def remember(self, prepared: Prepared) -> None:
        """Serial: the record is kept, the index grows. On resume it is called for what was kept before."""
