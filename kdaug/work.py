"""The concurrent half of a job: its generator, then every gate's `prepare` on what that made."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from hashlib import blake2b
from random import Random

from kdaug.calls import Calls, Closing
from kdaug.errors import BudgetExceeded, KdaugError, ParseError, TeacherError, Unrecorded, shorten
from kdaug.gate import Prepared
from kdaug.journal import Commit, Dropped, Kept
from kdaug.record import Discarded, Drop, Record
from kdaug.scope import Scope
from kdaug.source import Page
from kdaug.stage import Job, Line, Worked


class Work:
    """Does the work of jobs. `halt` ends the run, with what by and why."""

    def __init__(self, calls: Calls, seed: int, halt: Callable[[str, BaseException | None], None]) -> None:
        self._calls, self._seed, self._halt = calls, seed, halt

    async def __call__(self, line: Line, job: Job) -> Worked | None:
        """The concurrent half of a job; None when the run ends before it is done."""
        try:
            with self._calls.lull.at_work(line.index, job.number):
                if job.decided is not None:
                    return await self._prepare_again(line, job, job.decided)
                made, failed = await self._generate(line, job)
                one_by_one = (self._prepare(line, job, place, child) for place, child in enumerate(made))
                if len(made) > 1 and line.gates:
                    return Worked(list(await asyncio.gather(*one_by_one)), failed)
                return Worked([await child for child in one_by_one], failed)
        except Closing:
            return None
        except BudgetExceeded as e:
            self._halt(e.cap, None)
            return None
        except Unrecorded as e:  # a replay works ahead of where the run ended: it matters only if it comes to this job
            job.unrecorded = e
            if job.decided is not None:
                self._halt("failed", e)
            return None
        except KdaugError as e:
            self._halt("failed", e)
            return None
        except Exception as e:
            gates = "".join(f", {gate.name}" for gate in line.gates)
            e.add_note(f"in stage {line.index} ({line.stage.generator.name}{gates}), job {job.number}")
            raise

    async def _generate(self, line: Line, job: Job) -> tuple[Sequence[Record | Discarded | Dropped], bool]:
        if job.made is not None:
            return [job.made], False
        parents = job.parents
        if isinstance(parents, Page):
            rows = enumerate(parents.read())
            return [row if isinstance(row, Record) else Dropped(place, None, row) for place, row in rows], False
        try:
            rng = Random(derived_seed(self._seed, line.index, job.number))
            made = await line.stage.generator(parents, self._scope(line, job), rng)
            return _records(made, line.stage.generator.name), False
        except ParseError as e:
            drop, failed = Drop(e.reason, {"reply": shorten(e.text, 1000)}), False
        except TeacherError as e:
            if e.fatal:
                raise
            drop, failed = Drop(e.reason, {"error": str(e)}), True
        return [Dropped(0, parents[0] if len(parents) == 1 else None, drop)], failed

    async def _prepare(
        self, line: Line, job: Job, place: int, child: Record | Discarded | Dropped
    ) -> tuple[Record, list[Prepared]] | Dropped:
        if isinstance(child, Dropped):
            return child
        if isinstance(child, Discarded):
            return Dropped(place, child.record, child.drop)
        record, prepared = child, []
        try:
            for number, gate in enumerate(line.gates):
                ready = await gate.prepare(record, self._scope(line, job, f"{place}.{number}.{gate.name}"))
                if not isinstance(ready, Prepared):
                    raise KdaugError(f"{gate.name}.prepare gave {ready!r}: it returns Prepared(record, evidence)")
                prepared.append(ready)
                record = ready.record
        except ParseError as e:
            return Dropped(place, record, Drop(e.reason, {"reply": shorten(e.text, 1000)}))
        except TeacherError as e:
            if e.fatal:
                raise
            return Dropped(place, record, Drop(e.reason, {"gate": line.gates[len(prepared)].name, "error": str(e)}))
        return child, prepared

    async def _prepare_again(self, line: Line, job: Job, commit: Commit) -> Worked:
        """What the remembering gates need of the records that this job kept."""

        async def again(kept: Kept) -> tuple[Record, list[Prepared]]:
            named = [(g, f"{kept.child}.{n}.{g.name}") for n, g in enumerate(line.gates) if g in line.remembering]
            return kept.record, [await g.recall(kept.record, self._scope(line, job, name)) for g, name in named]

        return Worked(list(await asyncio.gather(*map(again, commit.kept))))

    def _scope(self, line: Line, job: Job, name: str = "") -> Scope:
        return Scope(self._calls, line.index, job.number, job.replies, name)


def _records(made: object, name: str) -> Sequence[Record | Discarded]:
    """What a generator made, if it is what one makes. Raises KdaugError."""
    if isinstance(made, (list, tuple)) and all(isinstance(record, (Record, Discarded)) for record in made):
        return made
    raise KdaugError(f"the generator {name} gave {shorten(repr(made))}: it returns a list of Record")


def derived_seed(seed: int, *path: object) -> int:
    """The seed of one place of a run. A hash of our own: seeding Random with text costs twice the time."""
    return int.from_bytes(blake2b(f"{seed}/{path}".encode(), digest_size=8).digest())
