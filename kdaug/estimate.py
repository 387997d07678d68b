"""What a whole run will take, from its first jobs: calls, tokens, cost and time, each with an interval.

The sample is real and stays: it is the beginning of the run in the same folder, so nothing is paid twice. Each figure
is the mean over the sampled jobs times the jobs of the whole; its interval is from resampling these jobs (Efron's
bootstrap), so it knows the spread among jobs, but neither what later jobs do differently nor a slower server.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, prod
from pathlib import Path
from random import Random

from kdaug.errors import ConfigError, KdaugError
from kdaug.journal import Journal
from kdaug.prices import Price, dollars, price_hint, prices_of
from kdaug.progress import Log, duration
from kdaug.recipe import Recipe
from kdaug.running import execute
from kdaug.source import jobs_of
from kdaug.tallies import JobUse, job_uses
from kdaug.teacher import Teacher

RESAMPLES = 1000
LOW, HIGH = 0.05, 0.95  # the ends of the interval


@dataclass(frozen=True)
class Pace:
    """How a teacher's calls are paid and timed: `seconds` of one call, None where none was timed; `slots` at once."""

    price: Price | None
    seconds: float | None
    slots: int


UNKNOWN = Pace(None, None, 1)  # of a teacher that only an earlier part of the run asked


@dataclass(frozen=True)
class Whole:
    """What a run comes to. `cost` in US dollars; None where a price is unknown, or nothing was timed."""

    jobs: float
    kept: float
    calls: float
    prompt_tokens: float
    completion_tokens: float
    cost: float | None
    seconds: float | None


def estimate(
    recipe: Recipe,
    out: Path,
    teachers: Mapping[str, Teacher],
    *,
    jobs: int = 8,
    command: str = "",
    log: Log | None = None,
) -> Iterator[str]:
    """Runs the first `jobs` jobs into `out`, and says in lines what all of the run will take.

    Raises KdaugError when the sample says nothing, and what the run raises.
    """
    if jobs < 1:
        raise ConfigError(f"a sample of {jobs} jobs says nothing: it needs at least 1")
    outcome = execute(replace(recipe, max_jobs=jobs, select=None), out, teachers, log=log, command=command)
    if outcome.error is not None:
        raise outcome.error
    prices, timed = prices_of(teachers.values(), recipe.prices), outcome.facts["seconds_a_call"]
    paces = {t.name: Pace(prices[t.name], timed.get(t.name), t.concurrency) for t in teachers.values()}
    journal = Journal.read_only(out)
    try:
        sample = [job_uses(journal, stage) for stage in range(len(recipe.stages))]
    finally:
        journal.close()
    whole = extrapolate(recipe, sample, paces)
    if whole is None:
        raise KdaugError(f"the sample kept nothing, so it says nothing of the whole: see why with kdaug show {out}")
    others = resampled(recipe, sample, paces)
    kept = sum(job.kept for job in sample[-1])
    yield f"sample: {len(sample[0])} jobs, {kept} records kept; the run goes on from them"
    yield from _table(recipe, whole, others)
    if unpriced := [name for name, pace in paces.items() if pace.price is None]:
        yield f"no price is known for {', '.join(unpriced)}: {price_hint()}"
    if recipe.source.grows:
        yield "a growing pool keeps less of what is proposed the larger it is: expect the upper ends"


def extrapolate(recipe: Recipe, sample: Sequence[Sequence[JobUse]], paces: Mapping[str, Pace]) -> Whole | None:
    """The whole by the means of a sample, a sequence of jobs for each stage; None where it never meets the target."""
    yields = [sum(job.kept for job in jobs) / len(jobs) if jobs else 0.0 for jobs in sample]
    first = _first_jobs(recipe, yields)
    if first is None:
        return None
    first = count = max(first, len(sample[0]))  # the sample itself may have done more than was needed
    calls, tokens = defaultdict[str, float](float), {name: [0.0, 0.0] for name in paces}
    for jobs, kept in zip(sample, yields, strict=True):
        for job in jobs:
            for name, used in job.used.items():
                calls[name] += count / len(jobs) * used.calls
                tokens.setdefault(name, [0.0, 0.0])[0] += count / len(jobs) * used.prompt_tokens
                tokens[name][1] += count / len(jobs) * used.completion_tokens
        count *= kept
    of = {name: paces.get(name, UNKNOWN) for name in calls}
    costs = [None if (p := of[n].price) is None else p.cost(*map(round, tokens[n])) for n in calls]
    times = [None if (s := of[n].seconds) is None else s * calls[n] / of[n].slots for n in calls]
    prompt_tokens, completion_tokens = (sum(side) for side in zip(*tokens.values(), strict=True))
    kept_in_all = min(count, recipe.target) if recipe.target else count
    return Whole(first, kept_in_all, sum(calls.values()), prompt_tokens, completion_tokens, _sum(costs), _sum(times))


def resampled(recipe: Recipe, sample: Sequence[Sequence[JobUse]], paces: Mapping[str, Pace]) -> list[Whole | None]:
    """The whole by other samples that might have been drawn: as many jobs of this one, each perhaps several times."""
    rng = Random(0)
    return [extrapolate(recipe, [rng.choices(jobs, k=len(jobs)) for jobs in sample], paces) for _ in range(RESAMPLES)]


def ends(values: Sequence[float]) -> tuple[float, float]:
    """Between which the middle 90 % of the values lie."""
    ordered = sorted(values)
    return ordered[int(LOW * len(ordered))], ordered[int(HIGH * len(ordered))]


def _first_jobs(recipe: Recipe, yields: Sequence[float]) -> float | None:
    """How many jobs of the first stage the run needs for its target, or has."""
    limits = [float(n) for n in (jobs_of(recipe.source), recipe.max_jobs) if n]
    rate = prod(yields)
    if recipe.target is not None and rate:
        limits.append(recipe.target / rate)
    return min(limits, default=None)


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _table(recipe: Recipe, whole: Whole, others: Sequence[Whole | None]) -> Iterator[str]:
    goal = f"{recipe.target:,} records" if recipe.target else f"{len(recipe.source.seeds):,} seeds"
    yield f"{f'the whole, for {goal}':<34}{'mean':>12}   90 % interval"
    rows: tuple[tuple[str, Callable[[float], str]], ...] = (
        ("jobs", _whole_number),
        ("kept", _whole_number),
        ("calls", _whole_number),
        ("prompt_tokens", _whole_number),
        ("completion_tokens", _whole_number),
        ("cost", dollars),
        ("seconds", duration),
    )
    for name, form in rows:
        mean = getattr(whole, name)
        if mean is None:
            yield f"  {name:<32}{'unknown':>12}"
            continue
        low, high = ends([inf if other is None else getattr(other, name) for other in others])
        end = "no end" if high == inf else form(high)
        yield f"  {name.replace('_', ' '):<32}{form(mean):>12}   {form(low)} to {end}"


def _whole_number(value: float) -> str:
    return f"{value:,.0f}"
