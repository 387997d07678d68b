"""The engine: concurrent work prepares, serial work decides, in job order.

    feed:    draw the parents of job j (it sees what jobs 0 … j-window kept) and start its work
    work:    generator, then every gate's prepare, concurrently with the jobs of the window
    settle:  one job at a time, in order: every gate's decide, remember, commit; the kept go to the next stage

A job that the journal has decided is settled from there by the same `feed` and `settle`; a job that it only has
replies for works as ever, and is answered from them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

from kdaug.budget import Budget
from kdaug.calls import Calls
from kdaug.errors import KdaugError, TeacherUnavailable, Unrecorded
from kdaug.journal import Commit, Dropped, Failed, Journal, Kept
from kdaug.record import Drop, Json, Record
from kdaug.source import Page, Source
from kdaug.stage import FAILURE_WINDOW, WINDOW_PER_SLOT, Ending, Job, Line, Stage, StageStats, Stats, Worked
from kdaug.teacher import Teacher
from kdaug.work import Work, derived_seed

TARGET_REACHED = "target:reached"  # the reason of what a job made beyond the target
BARREN = 200  # live jobs in a row that keep nothing: where 1 in 50 keeps some, that comes once in 57 times by chance


class Engine:
    """One run of stages over a source. `teachers` by role; `windows` one a stage (see `stage.resolve_windows`)."""

    def __init__(
        self,
        source: Source,
        stages: Sequence[Stage],
        *,
        teachers: Mapping[str, Teacher],
        journal: Journal,
        state: Path,
        windows: Sequence[int],
        held_out: frozenset[str] = frozenset(),
        seed: int = 0,
        target: int | None = None,
        max_jobs: int | None = None,
        max_time: float | None = None,
        max_failure_rate: float = 0.2,
        budget: Budget | None = None,
        redo_failed: bool = False,
        round: int = 0,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._source, self._journal = source.start(held_out), journal
        self._seed, self._target, self._max_failures = seed, target, max_failure_rate
        self._max_jobs, self._max_time, self._redo = max_jobs, max_time, redo_failed
        self._over = asyncio.Event()
        self._draws = Random()
        self._calls = Calls(teachers, journal, state, self._over, budget, say, round)
        self._work = Work(self._calls, seed, self.halt)
        names = [f"{i}.{stage.generator.name}" for i, stage in enumerate(stages)]
        self.stats = Stats([StageStats(name) for name in names], self._calls.stats, target, budget, teachers)
        self._lines = [self._line(i, stage, windows[i], source.seeds) for i, stage in enumerate(stages)]
        self._moved = asyncio.Event()
        self._ending: Ending | None = None
        self._unrecorded: Unrecorded | None = None
        self._capped = False

    async def run(self) -> Ending:
        """Runs until the source ends, a target or cap is reached, something fails, or `halt` is called.

        Calls in flight are awaited and journalled even then, but for those of teachers that let go. At a cap or an
        interruption what is answered by then is decided too, up to the first job that is not. An unforeseen exception
        (a bug in a generator or gate) is raised as it is.
        """
        try:
            async with asyncio.TaskGroup() as self._work_group:
                feeding = [self._work_group.create_task(self._feed(line)) for line in self._lines]
                feeding.append(self._work_group.create_task(self._calls.send()))
                settling = [self._work_group.create_task(self._settle(line)) for line in self._lines]
                if self._max_time is not None:
                    asyncio.get_running_loop().call_later(self._max_time, self.halt, "max_time")
                await self._over.wait()
                for task in feeding if self._closing else [*feeding, *settling]:
                    task.cancel()
                for line in self._lines:
                    line.jobs.put_nowait(None)
                await self._calls.let_go()
        except BaseExceptionGroup as group:
            raise _first(group) from None
        finally:
            self._over.set()
            await self._calls.aclose()
            await self._journal.drained()
        assert self._ending is not None
        return self._ending

    def reports(self, stage: int) -> dict[str, Mapping[str, Json]]:
        """What the gates of a stage have to say, by gate."""
        return {gate.name: report for gate in self._lines[stage].gates if (report := gate.report())}

    @property
    def halting(self) -> bool:
        return self._ending is not None

    @property
    def sent(self) -> int:
        return self._calls.sent

    @property
    def _closing(self) -> bool:
        """Whether it ends before its time, and nothing is wrong."""
        return self._ending is not None and self._ending.by not in ("source", "target", "failed")

    def halt(self, by: str, error: BaseException | None = None, why: str = "") -> None:
        """Ends the run cleanly: no new call is made, those in flight are awaited and kept."""
        if self._ending is None or (by == "target" and self._ending.error is None):
            self._ending = Ending(by, error, why)
            self._over.set()

    # -- one stage -------------------------------------------------------------------------------------------------

    def _line(self, index: int, stage: Stage, window: int, seeds: Sequence[Record]) -> Line:
        gates = [gate.start(seeds) for gate in stage.gates]
        journal = self._journal
        decided, committed, asked = journal.commits(index), journal.committed(index), journal.asked(index)
        redone = journal.redone(index)
        return Line(index, stage, gates, window, self.stats.stages[index], decided, committed, asked, redone)

    async def _feed(self, line: Line) -> None:
        number = 0
        while True:
            if number >= line.window:
                for record in await line.returned.get():
                    if line.index == 0:
                        self._source.accept(record)
            job = await self._draw(line, number)
            if job is None and self._redo and not line.planned:
                await self._plan_redoing(line, number)
                job = await self._draw(line, number)
            if job is None:
                break
            self._recollect(line, job)
            while self._ahead(line) or (job.decided is None and self._enough(line)):
                self._moved.clear()
                await self._moved.wait()
            line.jobs.put_nowait(self._start(line, job))
            number += 1
            if number < line.window:
                await asyncio.sleep(0)  # the first calls are on their way while the window fills
        line.jobs.put_nowait(None)

    def _ahead(self, line: Line) -> bool:
        """Whether the next stage has all that it can use by now."""
        if line is self._lines[-1]:
            return False
        return line.kept.qsize() >= max(1, self._lines[line.index + 1].window // WINDOW_PER_SLOT)

    def _enough(self, line: Line) -> bool:
        """Whether what is at work will meet the target, if as much of it is kept as before: more would be paid for in
        vain."""
        if self._target is None:
            return False
        records, jobs = float(self._target - self._lines[-1].stats.kept), 0.0
        for below in reversed(self._lines[line.index :]):
            done = below.stats
            jobs = records * (done.jobs + 1) / (done.kept + 1) - (below.started - done.jobs)
            records = jobs - (self._lines[below.index - 1].stats.kept - below.started)  # those that wait for it
        return jobs <= 0

    async def _draw(self, line: Line, number: int) -> Job | None:
        if (failed := line.redone.get(number)) is not None:
            return self._again(line, number, failed)
        if line.ended:
            return None
        if line.index > 0:
            record = await self._lines[line.index - 1].kept.get()
            self._moved.set()
            parents: tuple[Record, ...] | Page | None = None if record is None else (record,)
        else:
            # One generator for all draws, seeded anew for each: a fresh one would cost a replay a fifth of its time.
            self._draws.seed(derived_seed(self._seed, "draw", number))
            parents = self._source.draw(self._draws)
            if self._max_jobs is not None and line.drawn >= self._max_jobs:
                self._capped, parents = parents is not None, None
        line.ended = parents is None
        line.drawn += 1
        return None if parents is None else Job(number, parents)

    async def _plan_redoing(self, line: Line, number: int) -> None:
        """At the end of a stage, once: what failed at a teacher is to be tried again, as jobs from `number` on."""
        line.planned = True
        # Of `number` jobs, the one that gave its place to the next has been heard of: these are all that are open.
        settled = [await line.returned.get() for _ in range(min(number, line.window - 1))]
        for records in settled:
            line.returned.put_nowait(records)
        known = set(line.redone.values())
        if again := [failed for failed in line.failed if failed not in known]:
            line.redone |= dict(enumerate(again, number))
            await self._journal.set_redone(line.index, line.redone)

    def _again(self, line: Line, number: int, failed: Failed) -> Job:
        commit = self._journal.commit(line.index, failed.job)
        row = next(d for d in commit.dropped if d.child == failed.child)
        assert row.record is not None
        return Job(number, (row.record,), row.drop, row.record if "gate" in row.drop.detail else None)

    def _recollect(self, line: Line, job: Job) -> None:
        """What an earlier process decided of the job."""
        if job.number < line.committed:
            decided = next(line.decided)
            if not self._reopened(decided):
                job.decided = decided

    def _start(self, line: Line, job: Job) -> Job:
        number = job.number
        line.started += 1
        if job.decided is None or (line.remembering and job.decided.kept):
            if number < line.asked and (job.decided is None or any(g.roles for g in line.remembering)):
                job.replies = self._journal.replies(line.index, number)
            line.stats.live += job.decided is None
            job.outcome = self._work_group.create_task(self._work(line, job))
        return job

    def _reopened(self, commit: Commit) -> bool:
        """Whether an earlier target, another than today's, cut this job: then it is decided anew, from its replies."""
        return any(
            d.drop.reason == TARGET_REACHED and d.drop.detail.get("target") != self._target for d in commit.dropped
        )

    async def _settle(self, line: Line) -> None:
        last = line is self._lines[-1]
        while (job := await line.jobs.get()) is not None:
            # Shielded: the end of a run may cancel this hand, but not the job that it waits for.
            outcome = None if job.outcome is None else await asyncio.shield(job.outcome)
            if job.decided is not None:
                commit = self._recall(line, job.decided, outcome, last)
            elif outcome is None and job.unrecorded is None:
                return  # the run is ending and this job stays open: nothing after it is decided
            elif outcome is None:
                self._unrecorded = job.unrecorded  # here a replay ends, unless what came before meets the target
                break
            else:
                line.stats.live -= 1
                commit = self._decide(line, outcome, last)
                self._journal.add_commit(line.index, job.number, commit)
                await self._journal.keep_up()
                self._watch(line, outcome, commit)
            self._count(line, job, commit)
            if last and self._target is not None and line.stats.kept >= self._target:
                self.halt("target")
            if self.halting and not self._closing:
                return
            self._moved.set()
            line.returned.put_nowait([k.record for k in commit.kept])
            if not last:
                for kept in commit.kept:
                    line.kept.put_nowait(kept.record)
        if self.halting:
            return  # what is not drawn yet stays so
        if not last:
            line.kept.put_nowait(None)
        elif self._unrecorded is not None:
            self.halt("failed", self._unrecorded)
        else:
            self.halt("max_jobs" if self._capped else "source")

    def _decide(self, line: Line, outcome: Worked, last: bool) -> Commit:
        kept: list[Kept] = []
        dropped: list[Dropped] = []
        room = self._room(line, last)
        for place, child in enumerate(outcome.children):
            if isinstance(child, Dropped):
                dropped.append(child)
                continue
            record, prepared = child
            if room is not None and len(kept) >= room:
                dropped.append(Dropped(place, record, Drop(TARGET_REACHED, {"target": self._target})))
                continue
            drop = next((d for g, p in zip(line.gates, prepared, strict=True) if (d := g.decide(p)) is not None), None)
            final = prepared[-1].record if prepared else record
            if drop is not None:
                if not isinstance(drop, Drop):
                    raise KdaugError(f"a gate of {line.stats.name} decided {drop!r}: decide returns a Drop or None")
                dropped.append(Dropped(place, final, drop))
                continue
            for gate, evidence in zip(line.gates, prepared, strict=True):
                gate.remember(evidence)
            kept.append(Kept(place, final))
        return Commit(tuple(kept), tuple(dropped))

    def _room(self, line: Line, last: bool) -> int | None:
        """How many more the target lets the last stage keep."""
        return self._target - line.stats.kept if last and self._target is not None else None

    def _recall(self, line: Line, commit: Commit, outcome: Worked | None, last: bool) -> Commit:
        """A job decided before: the gates that remember hear of what it kept."""
        if outcome is not None:
            for child in outcome.children:
                assert not isinstance(child, Dropped)
                for gate, evidence in zip(line.remembering, child[1], strict=True):
                    gate.remember(evidence)
        room = self._room(line, last)
        return commit if room is None else replace(commit, kept=commit.kept[:room])

    def _count(self, line: Line, job: Job, commit: Commit) -> None:
        line.stats.jobs += 1
        line.stats.kept += len(commit.kept)
        line.stats.dropped.update(d.drop.reason for d in commit.dropped)
        if job.redoes is not None:
            line.stats.dropped.subtract([job.redoes.reason])
        if self._redo:
            failures = (d for d in commit.dropped if d.drop.reason.startswith("teacher:") and d.record is not None)
            line.failed += (Failed(job.number, d.child) for d in failures)

    def _watch(self, line: Line, outcome: Worked, commit: Commit) -> None:
        """Stops the run when too many of the last live jobs ended in a TeacherError: then it is not the records; and a
        growing pool, which has no end of its own, when none of them kept anything."""
        line.barren = 0 if commit.kept else line.barren + 1
        if self._source.grows and line.barren >= BARREN:
            self.halt("barren", why=f"the last {line.barren} jobs of {line.stats.name} kept nothing")
        line.failures.append(outcome.teacher_failed)
        failed, allowed = sum(line.failures), self._max_failures * FAILURE_WINDOW
        if failed > allowed:
            stage, last = line.stats.name, outcome.children[-1]
            why = last.drop.detail.get("error", "") if isinstance(last, Dropped) else ""
            message = (
                f"{failed} of the last {len(line.failures)} jobs of {stage} failed at the teacher, the last with: {why}"
            )
            self.halt(
                "failed", TeacherUnavailable(f"{message} (mend it and run the same command: it goes on from here)")
            )


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The exception that mattered in a task group: the first that is no mere cancellation."""
    for error in group.exceptions:
        return _first(error) if isinstance(error, BaseExceptionGroup) else error
    raise AssertionError("an exception group is never empty")
