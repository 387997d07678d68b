"""Whether a judge can be trusted: it is asked about answers of which it is known which one is better.

The pairs are a user's own, labelled by people, or planted: a good answer beside one that was made worse on purpose. The
check is a run like any other, so it is resumed, and its replies are in its journal.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import orjson

from kdaug.errors import ConfigError
from kdaug.generators.judge_trial import JudgeTrial
from kdaug.intervals import bootstrap, wilson
from kdaug.judges import CHECK
from kdaug.progress import Log
from kdaug.recipe import Recipe
from kdaug.record import Record, assistant, text_of
from kdaug.running import execute
from kdaug.source import Each
from kdaug.stage import Stage
from kdaug.teacher import Teacher
from kdaug.words import count_words

HUMAN = "human"  # the kind of a pair that people labelled; planted ones bear the name of what was done to them
PADDING = (
    "It is worth noting that there is a great deal that could be said about this, and many people have said it.",
    "In other words, what has been said above is what matters here, and it should be kept in mind.",
    "Of course, much depends on the circumstances, which may differ from one case to the next.",
)


@dataclass(frozen=True)
class Bounds:
    """What a judge must meet with the worse end of each figure's interval: a small check proves little. `first_place`
    is how far the share may be from a half; of `turned`, `first_place`, `length_slope` and `self_preference` less is
    better."""

    read: float = 0.9
    planted: float = 0.7
    turned: float = 0.35
    first_place: float = 0.2
    length_slope: float = 0.25
    agreement: float = 0.6
    correlation: float = 0.3
    self_preference: float = 0.2


@dataclass(frozen=True)
class Figure:
    """A measured value with its interval, over `n` cases; `passed` is None where no bound applies."""

    name: str
    value: float
    low: float
    high: float
    n: int
    means: str
    bound: float | None = None
    passed: bool | None = None


def judge_check(
    out: Path,
    judge: Teacher,
    records: Sequence[Record],
    *,
    second: Teacher | None = None,
    rubric: str = "",
    planted: int = 20,
    bounds: Bounds | None = None,
    log: Log | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Checks a judge in the folder `out`, and writes `judge_check.json` there; returns what is in it.

    `records`: preferences that people labelled, answers that they marked (`meta.score`, or a label), or good answers;
    from `planted` of the good ones pairs are made. `second`: another judge, beside whom self-preference is measured.

    Raises ConfigError where nothing can be measured, and what the run raises.
    """
    trials = cases(records, planted)
    if not trials:
        raise ConfigError("no record has an answer: a judge is checked on answers, so give --data with some")
    trial = JudgeTrial(rubric, second=second is not None)
    recipe = Recipe(Each(trials), [Stage(trial)], name="judge-check")
    players = {"judge": judge} | ({} if second is None else {"second": second})
    outcome = execute(recipe, out, players, log=log, command=command)
    if outcome.error is not None:
        raise outcome.error
    if outcome.exit_code:
        way_out = "the same command goes on with it" if outcome.facts["kept"] else f"see why with kdaug show {out}"
        raise ConfigError(f"the check was stopped ({outcome.facts['status']}): {way_out}")
    made = list(outcome.dataset.records())
    figures = list(measure(trials, made, bounds or Bounds(), second=second is not None))
    check = {
        "judge": judge.name,
        "passed": all(figure.passed is not False for figure in figures),
        "rubric": rubric,
        "trials": len(trials),
        "figures": [asdict(figure) for figure in figures],
    }
    (out / CHECK).write_bytes(orjson.dumps(check, option=orjson.OPT_INDENT_2))
    return check


# -- what the judge is asked about -------------------------------------------------------------------------------------


def cases(records: Sequence[Record], planted: int) -> list[Record]:
    """The trials: what people labelled as it is, and pairs planted from the first `planted` good answers."""
    labelled = [
        replace(r, meta={**r.meta, "kind": HUMAN}) for r in records if r.rejected is not None or mark_of(r) is not None
    ]
    good = [r for r in records if r.completion is not None and r.label is not False and mark_of(r) in (None, 1.0)]
    return [*labelled, *(pair for i in range(min(planted, len(good))) for pair in _planted(good, i))]


def mark_of(record: Record) -> float | None:
    """What people gave this answer: `meta.score`, else 1 or 0 by its label."""
    score = record.meta.get("score")
    if isinstance(score, (int, float)):
        return float(score)
    return None if record.label is None else float(record.label)


def _planted(good: Sequence[Record], number: int) -> Iterator[Record]:
    record, rng = good[number], Random(number)
    text, other = text_of(record.completion), text_of(good[(number + 1) % len(good)].completion)
    made = {kind: worse(text, other, rng) for kind, worse in DEGRADATIONS.items()}
    made = {kind: worse for kind, worse in made.items() if worse and worse != text}
    for place, (kind, worse) in enumerate(made.items()):  # the judge answers each prompt once itself
        yield replace(record, rejected=assistant(worse), label=None, meta={"kind": kind, "own": place == 0})


def truncated(text: str, other: str, rng: Random) -> str:
    """Its first half, in words."""
    words = list(re.finditer(r"\S+", text))
    return text[: words[(len(words) - 1) // 2].end()] if len(words) >= 4 else ""


def shuffled(text: str, other: str, rng: Random) -> str:
    """Its sentences in another order; nothing where there are less than three."""
    sentences = re.split(r"(?<=[.!?])\s+", text.strip())
    return " ".join(rng.sample(sentences, len(sentences))) if len(set(sentences)) >= 3 else ""


def swapped(text: str, other: str, rng: Random) -> str:
    """The answer to another request."""
    return other


def padded(text: str, other: str, rng: Random) -> str:
    """Itself, and sentences that say nothing."""
    return " ".join([PADDING[0], text, *PADDING[1:]])


DEGRADATIONS: Mapping[str, Callable[[str, str, Random], str]] = {
    "truncated": truncated,
    "shuffled": shuffled,
    "swapped": swapped,
    "padded": padded,
}


# -- what came of it ---------------------------------------------------------------------------------------------------


def measure(trials: Sequence[Record], made: Sequence[Record], bounds: Bounds, *, second: bool) -> Iterator[Figure]:
    """Every figure that the records allow. `made`: of `trials`, with the scores of `JudgeTrial`."""
    asked = sum(1 + 2 * (r.rejected is not None) + (1 + second) * bool(r.meta.get("own")) for r in trials)
    told = sum(sum(name in r.scores for name in TOLD) for r in made)
    yield _share("read", told, asked, "verdicts and marks that could be read", bounds.read)
    compared = [r for r in made if "there" in r.scores]
    yield from _planted_figures(compared, bounds)
    if compared:
        orders = [(r.scores["there"], r.scores["back"]) for r in compared]
        turned = sum(there != back for there, back in orders)
        yield _share(
            "turned", turned, len(orders), "pairs whose verdict turned with the order", bounds.turned, most=True
        )
        firsts = [s for there, back in orders for s in (there, 1 - back) if s != 0.5]
        if firsts:
            first = _share("first_place", int(sum(firsts)), len(firsts), "verdicts for the answer that was shown first")
            far = max(abs(first.low - 0.5), abs(first.high - 0.5))
            yield replace(first, bound=bounds.first_place, passed=far <= bounds.first_place)
    yield from _length_slope(made, bounds)
    yield from _human_figures(made, bounds)
    yield from _self_preference(made, bounds, second)


TOLD = ("mark_chosen", "mark_rejected", "there", "own_there", "second_there")  # one a verdict or mark


def _planted_figures(compared: Sequence[Record], bounds: Bounds) -> Iterator[Figure]:
    """How often the answer that was made worse loses, in all and by what was done to it."""
    won = {kind: [_win(r) for r in compared if r.meta["kind"] == kind] for kind in DEGRADATIONS}
    every = [one for kind in won.values() for one in kind]
    if every:
        yield _share("planted", sum(every), len(every), "planted pairs won by the good answer", bounds.planted)
    for kind, some in won.items():
        if some:
            yield _share(f"planted.{kind}", sum(some), len(some), f"of those whose other answer is {kind}")


def _length_slope(made: Sequence[Record], bounds: Bounds) -> Iterator[Figure]:
    """Marks that an answer gains by being twice as long, without saying more: over the padded pairs."""
    slopes = [
        (r.scores["mark_rejected"] - r.scores["mark_chosen"]) / _doublings(r)
        for r in made
        if r.meta["kind"] == "padded" and {"mark_chosen", "mark_rejected"} <= r.scores.keys()
    ]
    if slopes:
        means = "marks gained by mere length, a doubling"
        yield _mean("length_slope", slopes, means, bounds.length_slope, most=True)


def _human_figures(made: Sequence[Record], bounds: Bounds) -> Iterator[Figure]:
    pairs = [_win(r) for r in made if r.meta["kind"] == HUMAN and "there" in r.scores]
    if pairs:
        yield _share("agreement", sum(pairs), len(pairs), "pairs judged as people did", bounds.agreement)
    marks = [
        (r.scores["mark_chosen"], mark)
        for r in made
        if r.meta["kind"] == HUMAN and "mark_chosen" in r.scores and (mark := mark_of(r)) is not None
    ]
    if len({human for _, human in marks}) > 1:
        low, high = bootstrap(marks, correlation)
        means, value = "rank correlation with people's marks", correlation(marks)
        passed = low >= bounds.correlation
        yield Figure("correlation", value, low, high, len(marks), means, bounds.correlation, passed)


def _self_preference(made: Sequence[Record], bounds: Bounds, second: bool) -> Iterator[Figure]:
    """An own answer may be the better one: only beside another judge does its share tell a bias."""
    wanted = {"own_there", "second_there"} if second else {"own_there"}
    own = [(_win(r, "own_"), _win(r, "second_")) for r in made if wanted <= r.scores.keys()]
    if not own:
        return
    yield _share("own_answer", sum(mine for mine, _ in own), len(own), "own answers preferred to the given one")
    if second:
        means = "so much more often than the second judge prefers them"
        yield _mean(
            "self_preference", [mine - theirs for mine, theirs in own], means, bounds.self_preference, most=True
        )


def _win(record: Record, prefix: str = "") -> int:
    """Only in both orders is it one."""
    return int(record.scores.get(f"{prefix}there") == 1.0 == record.scores.get(f"{prefix}back"))


def _doublings(record: Record) -> float:
    return math.log2(count_words(text_of(record.rejected)) / count_words(text_of(record.completion)))


def _share(name: str, hits: int, n: int, means: str, bound: float | None = None, *, most: bool = False) -> Figure:
    low, high = wilson(hits, n)
    passed = None if bound is None else (high <= bound if most else low >= bound)
    return Figure(name, hits / n, low, high, n, means, bound, passed)


def _mean(name: str, values: Sequence[float], means: str, bound: float, *, most: bool) -> Figure:
    low, high = bootstrap(values, fmean)
    return Figure(name, fmean(values), low, high, len(values), means, bound, high <= bound if most else low >= bound)


def correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Spearman's: Pearson's of the ranks, where equal values share their mean rank. 0 where one side is all equal."""
    one, other = (_ranks(side) for side in zip(*pairs, strict=True))
    middle = (len(pairs) - 1) / 2
    spread = math.sqrt(sum((a - middle) ** 2 for a in one) * sum((b - middle) ** 2 for b in other))
    together = sum((a - middle) * (b - middle) for a, b in zip(one, other, strict=True))
    return together / spread if spread else 0.0


def _ranks(values: Sequence[float]) -> list[float]:
    places: dict[float, list[int]] = {}
    for place, value in enumerate(sorted(values)):
        places.setdefault(value, []).append(place)
    return [fmean(places[value]) for value in values]


# -- for people --------------------------------------------------------------------------------------------------------


def parse_bounds(assignments: Sequence[str]) -> Bounds:
    """From `NAME=VALUE`. Raises ConfigError for a name that is no bound."""
    given: dict[str, float] = {}
    known = [f.name for f in fields(Bounds)]
    for assignment in assignments:
        name, _, value = assignment.partition("=")
        try:
            given[name] = float(value)
        except ValueError:
            raise ConfigError(f"--bound {assignment}: expected NAME=NUMBER, such as planted=0.8") from None
        if name not in known:
            raise ConfigError(f"--bound {assignment}: there are {', '.join(known)}")
    return Bounds(**given)


def table(check: Mapping[str, Any]) -> Iterator[str]:
    yield f"{'':<20}{'value':>7}  {'95 % interval':<16}{'n':>5}  {'bound':<7}{'':<8}what it is"
    for figure in (Figure(**plain) for plain in check["figures"]):
        interval = f"{figure.low:.2f} to {figure.high:.2f}"
        verdict = {None: "", True: "passed", False: "FAILED"}[figure.passed]
        bound = "" if figure.bound is None else f"{figure.bound:g}"
        measured = f"{figure.name:<20}{figure.value:>7.2f}  {interval:<16}{figure.n:>5}"
        yield f"{measured}  {bound:<7}{verdict:<8}{figure.means}"
    yield f"{check['judge']}: {'passed' if check['passed'] else 'not passed'}"
