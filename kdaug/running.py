"""The run of a recipe: from seeds to a dataset folder."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import compress, islice
from pathlib import Path
from typing import Any

from kdaug import prompts
from kdaug.budget import Budget
from kdaug.dataset import Dataset, write_dataset
from kdaug.dropped import Dropped as DroppedRow
from kdaug.dropped import write_dropped
from kdaug.engine import Engine
from kdaug.errors import ConfigError, JournalError, KdaugError
from kdaug.facts import Teller, stage_name
from kdaug.identity import Identity
from kdaug.journal import Failed, Journal
from kdaug.judges import judges_of
from kdaug.progress import Log, watching
from kdaug.recipe import Recipe, check_roles, roles_of, with_caps
from kdaug.record import Record
from kdaug.rows import Rows
from kdaug.seeds import Seeds
from kdaug.selector import BrokenOff, Chosen, choose
from kdaug.source import hold_out, jobs_of
from kdaug.stage import Ending
from kdaug.teacher import Teacher, lets_go


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `error` is set when it failed; what it has is in `dataset` all the same."""

    out: Path
    facts: Mapping[str, Any]
    error: BaseException | None = None

    @property
    def dataset(self) -> Dataset:
        return Dataset(self.out)

    @property
    def exit_code(self) -> int:
        """0 finished; 1 failed; 2 the user's mistake; 3 ended clean with less than was wanted; 130 interrupted."""
        if isinstance(self.error, KdaugError):
            return self.error.exit_code
        return {"finished": 0, "stopped": 3, "interrupted": 130}.get(self.facts["status"], 1)


def run(
    recipe: Recipe,
    out: str | os.PathLike[str],
    *,
    teacher: Teacher | None = None,
    student: Teacher | None = None,
    judge: Teacher | None = None,
    quiet: bool = False,
    redo_failed: bool = False,
    max_cost: float | None = None,
    max_tokens: int | None = None,
    max_calls: int | None = None,
    max_time: float | None = None,
    **roles: Teacher,
) -> Dataset:
    """Runs a recipe into the folder `out`, or goes on with the run that is there, and returns its dataset.

    `redo_failed`: when a stage has no more to do, what failed at a teacher is tried again there, as new jobs. The caps
    (`max_time` in seconds) go before those of the recipe.

    Raises ConfigError before any call; whatever stopped the run when it failed; KeyboardInterrupt after a clean stop
    by Ctrl-C. A target that was not met raises nothing: `Dataset` holds what there is, `run.json` says why.
    """
    recipe = with_caps(recipe, max_cost=max_cost, max_tokens=max_tokens, max_calls=max_calls, max_time=max_time)
    named = {"teacher": teacher, "student": student, "judge": judge, **roles}
    given = {r: t for r, t in named.items() if t is not None}
    outcome = execute(recipe, Path(out), given, log=Log(quiet=quiet), redo_failed=redo_failed)
    if outcome.error is not None:
        raise outcome.error
    if outcome.facts["status"] == "interrupted":
        raise KeyboardInterrupt
    return outcome.dataset


async def arun(
    recipe: Recipe,
    out: str | os.PathLike[str],
    *,
    quiet: bool = False,
    redo_failed: bool = False,
    max_cost: float | None = None,
    max_tokens: int | None = None,
    max_calls: int | None = None,
    max_time: float | None = None,
    **roles: Teacher | None,
) -> Dataset:
    """`run` for a program that has an event loop of its own; signals are then the program's business."""
    recipe = with_caps(recipe, max_cost=max_cost, max_tokens=max_tokens, max_calls=max_calls, max_time=max_time)
    teachers = {r: t for r, t in roles.items() if t is not None}
    outcome = await _Run(recipe, Path(out), teachers, Log(quiet=quiet), "", redo_failed).execute()
    if outcome.error is not None:
        raise outcome.error
    return outcome.dataset


def execute(
    recipe: Recipe,
    out: Path,
    teachers: Mapping[str, Teacher],
    *,
    log: Log | None = None,
    command: str = "",
    redo_failed: bool = False,
) -> Outcome:
    """`run` that tells how it ended instead of raising. Ctrl-C (or SIGTERM) stops it cleanly, a second one at once."""
    if _in_a_loop():
        raise ConfigError(
            "an event loop runs here already (a notebook?): write `data = await kd.arun(…)` in place of run"
        )
    this = _Run(recipe, out, teachers, log or Log(), command, redo_failed)

    async def main() -> Outcome:
        with _signals(this):
            return await this.execute()

    return asyncio.run(main())


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _Run:
    """One run of a recipe in a folder."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        teachers: Mapping[str, Teacher],
        log: Log,
        command: str,
        redo_failed: bool,
    ) -> None:
        check_roles(recipe, teachers)
        self._recipe, self._out, self.teachers, self.log = recipe, out, teachers, log
        self._redo_failed = redo_failed
        self._held_out = hold_out(recipe.source.seeds, recipe.holdout)
        judges = judges_of(recipe, teachers, recipe.judge_checks)
        self._tell = Teller(recipe, teachers, command, recipe.describe(), judges)
        self._seconds: dict[str, float] = {}
        self.engine: Engine | None = None
        self._left = threading.Event()  # nobody waits for the end any more

    async def execute(self) -> Outcome:
        with prompts.overlay(self._recipe.templates):
            self._make_folder()
            journal = Journal(self._out)
            try:
                self.log.path = self._out / "log.txt"
                windows = Identity(
                    journal, self._out, self._recipe, self._tell.description, self.teachers, self.log.say
                ).settle()
                self._say_what_is_taken()
                self.engine = self._engine(journal, windows)
                self._write_facts(self._tell.beginning())
                ending = await self._watch(self.engine)
                return await self._finished(journal, ending)
            except BaseException as e:
                if self.engine is not None:
                    self._broke_off(e)
                raise
            finally:
                journal.close()

    async def _watch(self, engine: Engine) -> Ending:
        jobs = jobs_of(self._recipe.source)
        if jobs is not None:
            jobs = min(jobs, self._recipe.max_jobs or jobs)
        started = time.perf_counter()
        async with watching(engine.stats, self.log, jobs=jobs):
            loading = asyncio.create_task(_load_writers())
            try:
                return await engine.run()
            except KdaugError as e:
                return Ending("failed", e)
            finally:
                self._seconds["run"] = round(time.perf_counter() - started, 3)
                loading.cancel()

    async def _finished(self, journal: Journal, ending: Ending) -> Outcome:
        """`_finish` in a thread, so that signals are heard; where it is broken off, it ends at its next step."""
        finishing = asyncio.create_task(asyncio.to_thread(self._finish, journal, ending))
        try:
            return await asyncio.shield(finishing)
        except asyncio.CancelledError:
            self._left.set()
            await asyncio.gather(finishing, return_exceptions=True)
            raise

    def _step(self) -> None:
        if self._left.is_set():
            raise BrokenOff

    def _broke_off(self, error: BaseException) -> None:
        """A second Ctrl-C, or a bug in a part: the journal has all that was answered, the dataset is as it was."""
        status = "failed" if isinstance(error, Exception) else "interrupted"
        with suppress(JournalError):  # a full disk takes no more, and that is what `error` says
            self._write_facts(self._tell.beginning(status, type(error).__name__))
        self.log.say(f"{status}: it broke off; what was answered is in the journal, the dataset is not renewed")
        for line in self._tell.resuming():
            self.log.say(line)

    def _engine(self, journal: Journal, windows: Sequence[int]) -> Engine:
        recipe = self._recipe
        return Engine(
            recipe.source,
            recipe.stages,
            teachers=self.teachers,
            journal=journal,
            state=self._out / "teachers",
            windows=windows,
            held_out=self._held_out,
            seed=recipe.seed,
            target=recipe.target,
            max_jobs=recipe.max_jobs,
            max_time=recipe.max_time,
            max_failure_rate=recipe.max_failure_rate,
            budget=Budget(recipe.caps, self._tell.prices, journal) if recipe.caps else None,
            redo_failed=self._redo_failed,
            round=recipe.round,
            say=self.log.say,
        )

    def _make_folder(self) -> None:
        if self._out.is_dir() and any(self._out.iterdir()) and not (self._out / "journal.sqlite").exists():
            raise ConfigError(f"{self._out} holds other files and is no run folder: choose another --out")
        try:
            self._out.mkdir(parents=True, exist_ok=True)
            (self._out / "log.txt").open("a").close()
        except OSError as e:
            raise ConfigError(f"cannot write to {self._out}: {e.strerror}. Choose another --out") from e

    def _say_what_is_taken(self) -> None:
        """Seeds and teachers as they were understood."""
        source, asked = self._recipe.source, roles_of(self._recipe)
        seeds = source.seeds if isinstance(source.seeds, Seeds) else f"{len(source.seeds)} records"
        self.log.say(f"data: {source}" if isinstance(source, Rows) else f"seeds: {seeds}")
        for document in seeds.lost if isinstance(seeds, Seeds) else ():
            self.log.say(f"left out: {document}", show=False)
        for role in sorted(asked, reverse=True):
            if role in self.teachers:
                self.log.say(f"{role}: {self.teachers[role].name}")
            else:
                self.log.say(f"{role}: {self.teachers['teacher'].name}, the teacher itself (no {role} was given)")
        for role in sorted(self.teachers.keys() - asked - {"teacher"}):
            self.log.say(f"{role}: {self.teachers[role].name}, whom nothing in this recipe asks")

    # -- what a run leaves behind ----------------------------------------------------------------------------------

    def _finish(self, journal: Journal, ending: Ending) -> Outcome:
        """Derives the dataset from the journal, also of a run that failed: what was paid for can be used."""
        assert self.engine is not None
        error, started = ending.error, time.perf_counter()
        chosen, unselected = self._select(journal)
        facts = self._tell.ending(journal, ending, self.engine, chosen, unselected)
        try:
            if unselected is not None:
                raise unselected
            records = self._kept(journal, chosen)
            counts = write_dataset(self._out / "dataset", records, held_out=self._held_out, facts=facts)
            write_dropped(self._out / "dropped.parquet", self._dropped(journal, chosen))
            self._seconds["dataset"] = round(time.perf_counter() - started, 3)
            timed = self.engine.stats.calls.seconds
            facts |= {"splits": counts.splits, "left_out": counts.left_out, "seconds": self._seconds}
            facts["seconds_a_call"] = {name: seconds / calls for name, (calls, seconds) in timed.items()}
        except KdaugError as e:
            error, facts["status"] = error or e, "failed"
        try:
            self._write_facts(facts)
        except JournalError as e:
            error = error or e
        if ending.error is not None:
            self.log.say(f"error: {ending.error}", show=False)
        begun = facts["usage"] or not isinstance(ending.error, ConfigError)  # else a mistake before any call: one line
        for line in self._tell.last_lines(facts, ending):
            self.log.say(line, show=bool(begun))
        return Outcome(self._out, facts, error)

    def _select(self, journal: Journal) -> tuple[Chosen | None, KdaugError | None]:
        """What the recipe selects, or why it cannot: the run is kept, and another selection asks nothing anew."""
        if self._recipe.select is None:
            return None, None
        started = time.perf_counter()
        try:
            selector = self._recipe.select
            self.log.say(f"select.{selector.name}: looking for {selector.n:,} among what was kept")
            return choose(selector, self._kept(journal), self._held_out, self._step), None
        except KdaugError as e:
            return None, e
        finally:
            self._seconds["select"] = round(time.perf_counter() - started, 3)

    def _kept(self, journal: Journal, chosen: Chosen | None = None) -> Callable[[], Iterator[Record]]:
        last = len(self._recipe.stages) - 1
        if chosen is None:
            return lambda: islice(journal.kept(last), self._recipe.target)
        return lambda: compress(journal.kept(last), chosen.mask)

    def _dropped(self, journal: Journal, chosen: Chosen | None = None) -> Iterator[DroppedRow]:
        for index in range(len(self._recipe.stages)):
            name, redone = stage_name(self._recipe, index), journal.superseded(index)
            for job, row in journal.dropped(index):
                if Failed(job, row.child) not in redone:
                    yield DroppedRow(name, job, row.record, row.drop.reason, row.drop.detail)
        if chosen is not None and self._recipe.select is not None:
            name, last = f"select.{self._recipe.select.name}", len(self._recipe.stages) - 1
            kept = ((job, k.record) for job, commit in enumerate(journal.commits(last)) for k in commit.kept)
            for place, (job, record) in enumerate(islice(kept, len(chosen.mask))):
                if not chosen.mask[place]:
                    drop = chosen.why(place)
                    yield DroppedRow(name, job, record, drop.reason, drop.detail)

    def _write_facts(self, facts: Mapping[str, Any]) -> None:
        """Raises JournalError where the disk does not take them."""
        draft = self._out / "run.json.tmp"
        try:
            draft.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            draft.replace(self._out / "run.json")
        except OSError as e:
            way_out = "free the disk or make the folder writable, then run the same command: nothing is lost"
            raise JournalError(f"cannot write {self._out / 'run.json'} ({e.strerror}): {way_out}") from e


async def _load_writers() -> None:
    """Loads what the dataset and its card will be written with while a teacher thinks: later nobody waits for it."""
    await asyncio.sleep(0.2)  # the first calls are out by then
    await asyncio.to_thread(_import_writers)


def _import_writers() -> None:
    import jinja2  # noqa: F401 - only loaded
    import pyarrow.json
    import pyarrow.parquet  # noqa: F401
    import yaml  # noqa: F401


@contextmanager
def _signals(this: _Run) -> Iterator[None]:
    """Ctrl-C: a clean stop; again: at once; SIGTERM is a first Ctrl-C."""
    loop, main = asyncio.get_running_loop(), asyncio.current_task()
    assert main is not None

    def stop() -> None:
        engine = this.engine
        if engine is None or engine.halting:
            this.log.say("breaking off")
            main.cancel()
            return
        sent = 0 if all(map(lets_go, this.teachers.values())) else engine.sent
        this.log.say(f"stopping: {sent} calls in flight finish first (Ctrl-C again: stop at once)")
        engine.halt("interrupted")

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
    except (NotImplementedError, ValueError, RuntimeError):
        yield  # Windows, or not the main thread: Python's own handling stays
        return
    try:
        yield
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
