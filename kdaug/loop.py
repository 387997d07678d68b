"""Rounds of self-improvement: a plain loop over run, train and evaluate, which goes on wherever it was killed.

    loops/gsm8k/
      loop.json          what is looped, and of each round: the checkpoints it came from, its records, its figure
      log.txt
      start/             before the first round: evaluation.json, and student/ where the plan trains one first
      round-0/
        run/             the round's run, a folder as any other
        data/            what is trained on, where that is more than the run's dataset
        student/         the trained student, which opens with transformers
        asked/           the run of the evaluation
        evaluation.json

Each step leaves a finished folder or one that goes on; so the loop holds no state but what the folders say.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from kdaug import __version__
from kdaug.dataset import Dataset, is_dataset, write_dataset
from kdaug.errors import ConfigError
from kdaug.export import whole
from kdaug.loop_plan import Measure, Plan, Trainer, what_changed
from kdaug.progress import Log, reasons
from kdaug.read import read
from kdaug.recipe import Recipe
from kdaug.record import Record
from kdaug.running import Outcome, execute
from kdaug.source import hold_out
from kdaug.teacher import Teacher

CAPS = ("max_calls", "max_tokens", "max_cost")


@dataclass(frozen=True, slots=True)
class Round:
    """A finished round: checkpoints by the hash of their files, which is also what a student's training.json says of
    its parent. `asked` played the student in the run, `parent` is what was trained, `student` what became of it. `new`:
    those of its `records` that no earlier round has kept."""

    number: int
    asked: str
    parent: str
    student: str
    records: int
    figure: float | None = None
    new: int = 0


@dataclass(frozen=True, slots=True)
class Rounds:
    """What a loop came to. `ended`: rounds, plateau, nothing_kept, nothing_new, interrupted, or the cap that was
    reached; `because`: more of that, in words."""

    out: Path
    start: float | None
    rounds: tuple[Round, ...]
    ended: str
    because: str = ""

    @property
    def best(self) -> Path | None:
        """The student with the best figure (the last one where nothing is measured), or None before the first round."""
        if not self.rounds:
            return None
        figures = [r.figure for r in self.rounds if r.figure is not None]
        if len(figures) < len(self.rounds):
            return self.out / f"round-{len(self.rounds) - 1}" / "student"
        sign = orjson.loads((self.out / "loop.json").read_bytes())["sign"]
        return self.out / f"round-{max(range(len(figures)), key=lambda n: sign * figures[n])}" / "student"

    @property
    def exit_code(self) -> int:
        return 0 if self.ended in ("rounds", "plateau") else 130 if self.ended == "interrupted" else 3


def loop(
    recipe_of: Callable[[Sequence[Record]], Recipe],
    plan: Plan,
    *,
    student: str,
    players: Callable[[str], Mapping[str, Teacher]],
    out: str | Path,
    rounds: int,
    log: Log | None = None,
    on_step: Any = None,
) -> Rounds:
    """Runs `rounds` rounds in the folder `out`, or goes on with those that are there; more rounds may be asked later.

    `recipe_of(more)`: the recipe with `more` among its seeds. `players(model)`: the teachers by their roles, where the
    model (a name or a folder) plays the student. A recipe's caps are those of all rounds together.

    Raises ConfigError before any call for what cannot work, what a run or a training raises, and KeyboardInterrupt
    after a clean stop.
    """
    return _Loop(recipe_of, plan, student, players, Path(out), log or Log(), on_step).go(rounds)


class _Loop:
    """A loop in its folder."""

    def __init__(
        self,
        recipe_of: Callable[[Sequence[Record]], Recipe],
        plan: Plan,
        student: str,
        players: Callable[[str], Mapping[str, Teacher]],
        out: Path,
        log: Log,
        on_step: Any,
    ) -> None:
        self.recipe_of, self.plan, self.base, self.players = recipe_of, plan, student, players
        self.out, self.log, self.on_step = out, log, on_step
        self.begun: float | None = None
        self.done: list[Round] = []
        self.grown: list[Record] = []
        self.known: list[frozenset[str]] = []  # the ids of each round's records
        self.because = ""
        self.spent = dict.fromkeys(CAPS, 0.0)

    def go(self, rounds: int) -> Rounds:
        if rounds < 1:
            raise ConfigError(f"--rounds {rounds}: at least 1")
        self.recipe = self.recipe_of(())
        self._settle_identity()
        self.begun = self._begin()
        ended = "rounds"
        for number in range(rounds):
            if self._plateau():
                ended = "plateau"
                break
            if why := self._round(number):
                ended = why
                break
            self._tell("running")
        self.log.say(f"loop: {len(self.done)} rounds, ended by {ended}{self.because and f': {self.because}'}")
        return self._tell(ended)

    # -- the steps of a round ----------------------------------------------------------------------------------------

    def _begin(self) -> float | None:
        """The student before the first round, trained on the seeds where the plan says so: its figure."""
        folder = self.out / "start"
        if self.plan.first is not None:
            seeds = self._written(folder / "data", self._seeds(self.plan.first))
            self.log.say(f"start: trained on {len(seeds):,} seeds")
            self.plan.first.fit(seeds, student=self.base, out=folder / "student", on_step=self.on_step)
        return self._measure(self.last, "start", folder)

    def _round(self, number: int) -> str | None:
        """Run, train, evaluate; why it could not be finished, where it could not."""
        folder, asked = self.out / f"round-{number}", self.last
        recipe = self.recipe_of(self.grown) if self.plan.grow and self.grown else self.recipe
        recipe = replace(recipe, round=number)
        if not _is_over(folder / "run"):  # one that is over asks nothing
            within = self._within_caps(recipe)
            if isinstance(within, str):
                return within
            recipe = within
        self.log.say(f"round {number}: run, the student is {asked}")
        outcome = execute(recipe, folder / "run", self.players(asked), log=self._quiet())
        if why := self._ended(outcome) or self._nothing_new(number):
            return why
        parent = self.base if self.plan.start == "base" else asked
        data = self._data(number)
        trainer = self.plan.trainer(number)
        new = len(self.known[number].difference(*self.known[:number]))
        self.log.say(f"round {number}: {outcome.facts['kept']:,} records kept, {new:,} new; trained from {parent}")
        trainer.fit(data, student=parent, out=folder / "student", on_step=self.on_step)
        figure = self._measure(str(folder / "student"), f"round {number}", folder)
        played, began, came = (checkpoint_id(model) for model in (asked, parent, str(folder / "student")))
        self.done.append(Round(number, played, began, came, outcome.facts["kept"], figure, new))
        self._account(outcome)
        return None

    def _ended(self, outcome: Outcome) -> str | None:
        """Whether a run ends the loop: by a cap, Ctrl-C, or because there is nothing to learn from."""
        if outcome.error is not None:
            raise outcome.error
        by = str(outcome.facts["ended_by"])
        if by == "interrupted":
            raise KeyboardInterrupt
        if by in (*CAPS, "max_time"):
            return by
        if outcome.facts["kept"]:
            return None
        dropped = sum((Counter(stage["dropped"]) for stage in outcome.facts["stages"]), Counter[str]())
        self.because = f"dropped {reasons(dropped, 20)}; kdaug show {outcome.out}"
        return "nothing_kept"

    def _nothing_new(self, number: int) -> str | None:
        """Whether the student would be the last round's once more: made of the same, from the same."""
        plan = self.plan
        self.known.append(frozenset(record.id for record in Dataset(self.out / f"round-{number}" / "run")))
        if number == 0 or plan.start == "last" or plan.trainer(number) != plan.trainer(number - 1):
            return None
        now, before = (frozenset().union(*(self.known[n] for n in plan.trained_on(r))) for r in (number, number - 1))
        if now != before:
            return None
        self.because = f"what round {number} kept was trained on before; kdaug show {self.out / f'round-{number}/run'}"
        return "nothing_new"

    def _measure(self, model: str, called: str, folder: Path) -> float | None:
        """The figure of a model, from the folder where it was measured before."""
        measure, file = self.plan.evaluate, folder / "evaluation.json"
        if measure is None:
            return None
        if not file.is_file():
            table = _table(measure, model, called, self.players, folder, self._quiet())
            with whole(file) as fresh:
                fresh.write_bytes(orjson.dumps(table, option=orjson.OPT_INDENT_2))
        row = orjson.loads(file.read_bytes())["rows"][0]["figures"][measure.metric]
        figure = float(row["value"])
        interval = "" if row["low"] is None else f" [{row['low']:.3f}, {row['high']:.3f}]"
        self.log.say(f"{called}: {measure.metric} {figure:.3f}{interval}")
        return figure

    # -- what a step goes on from ------------------------------------------------------------------------------------

    @property
    def last(self) -> str:
        """The newest student: that of the last round."""
        if self.done:
            return str(self.out / f"round-{len(self.done) - 1}" / "student")
        return self.base if self.plan.first is None else str(self.out / "start" / "student")

    def _data(self, number: int) -> Any:
        """What a round's student is trained on: the run's dataset, or that with seeds and earlier rounds."""
        plan, folder = self.plan, self.out / f"round-{number}"
        rounds = plan.trained_on(number)
        kept = [r for n in rounds for r in _kept(self.out / f"round-{n}" / "run", self.plan.train.kind)]
        if plan.grow:
            self.grown = [*self.grown, *_kept(folder / "run", "completion")]
        if len(rounds) == 1 and not plan.with_seeds:
            return Dataset(folder / "run")
        return self._written(folder / "data", [*(self._seeds(plan.train) if plan.with_seeds else ()), *kept])

    def _seeds(self, trainer: Trainer) -> list[Record]:
        """The seeds to train on: those held out are none of them."""
        seeds = list(self.recipe.source.seeds)
        held_out = hold_out(seeds, self.recipe.holdout)
        return [s for s in seeds if s.kind == trainer.kind and s.id not in held_out]

    def _written(self, folder: Path, records: Iterable[Record]) -> Dataset:
        """Records as a dataset, each once, so that the student's card can say where they are."""
        if not is_dataset(folder):
            once = {record.id: record for record in records}
            write_dataset(folder, lambda: iter(once.values()), facts={"kdaug": __version__, "recipe": self.identity})
        return Dataset(folder)

    def _plateau(self) -> bool:
        plan = self.plan
        if not plan.patience or plan.evaluate is None:
            return False
        figures = [plan.evaluate.sign * f for f in (self.begun, *(r.figure for r in self.done)) if f is not None]
        before, since = figures[: -plan.patience], figures[-plan.patience :]
        return len(self.done) >= plan.patience and max(since) <= max(before) + plan.min_gain

    def _within_caps(self, recipe: Recipe) -> Recipe | str:
        """The recipe with what earlier rounds left of its caps, or the cap that they used up."""
        left: dict[str, Any] = {}
        for name in CAPS:
            cap = getattr(recipe, name)
            if cap is not None:
                left[name] = type(cap)(cap - self.spent[name])
                if left[name] <= 0:
                    return name
        return replace(recipe, **left) if left else recipe

    def _account(self, outcome: Outcome) -> None:
        used = outcome.facts["usage"].values()
        self.spent["max_calls"] += sum(u["calls"] for u in used)
        self.spent["max_tokens"] += sum(u["prompt_tokens"] + u["completion_tokens"] for u in used)
        self.spent["max_cost"] += outcome.facts["bill"]["cost"] or 0.0

    # -- the loop's own file -----------------------------------------------------------------------------------------

    def _settle_identity(self) -> None:
        """A folder belongs to one loop. Raises ConfigError for another's, and where the student is measured by what it
        learns from."""
        self._check_measure()
        self.identity = {
            "plan": self.plan.describe(),
            "recipe": self.recipe.fingerprint,
            "base": checkpoint_id(self.base),
            "dataset": {
                "holdout": self.recipe.holdout,
                "target": self.recipe.target,
                "select": self.recipe.describe_selection(),
            },
        }
        self.described = self.recipe.describe()
        file = self.out / "loop.json"
        if file.is_file():
            before = orjson.loads(file.read_bytes())
            about = (self.base, self.recipe.seeds_from)
            if changed := what_changed(before, {**self.identity, "described": self.described}, *about):
                raise ConfigError(f"{self.out} holds another loop ({'; '.join(changed[:5])}): choose another --out")
        elif self.out.is_dir() and any(self.out.iterdir()):
            raise ConfigError(f"{self.out} holds other files and is no loop's folder: choose another --out")
        self._tell("running")
        self.log.path = self.out / "log.txt"

    def _check_measure(self) -> None:
        measure = self.plan.evaluate
        if measure is None:
            return
        seeds = {record.prompt for record in self.recipe.source.seeds}
        both = [record for record in read(measure.tasks) if record.prompt in seeds]
        if both:
            raise ConfigError(
                f"{measure.tasks}: {len(both)} of its prompts are among the seeds, so the student would be measured by "
                "what it learns from: give tasks of their own"
            )

    def _tell(self, ended: str) -> Rounds:
        sign = 1 if self.plan.evaluate is None else self.plan.evaluate.sign
        rounds = [dataclasses.asdict(r) for r in self.done]
        body = {
            **self.identity,
            "described": self.described,
            "student": self.base,
            "sign": sign,
            "start": self.begun,
            "ended": ended,
            "rounds": rounds,
        }
        with whole(self.out / "loop.json") as fresh:
            fresh.write_bytes(orjson.dumps(body, option=orjson.OPT_INDENT_2))
        return Rounds(self.out, self.begun, tuple(self.done), ended, self.because)

    def _quiet(self) -> Log:
        """A run's own lines go to its own log."""
        return Log(quiet=True)


def checkpoint_id(model: str) -> str:
    """Which weights these are: the hash of a model's files, as training.json has it of the student it began with."""
    from kdaug.train.student import digest, locate

    return digest(locate(model))


def _is_over(run: Path) -> bool:
    """Whether a run came to its end, so that it asks nothing more."""
    file = run / "run.json"
    return file.is_file() and orjson.loads(file.read_bytes())["ended_by"] in ("source", "target")


def _kept(run: Path, kind: str) -> list[Record]:
    """A run's records of a kind that are not held out."""
    data = Dataset(run)
    there = "train" in data.counts.get(kind, {})  # type: ignore[call-overload] # a kind of records
    return list(data.records(kind, "train")) if there else []  # type: ignore[arg-type] # as above


def _table(
    measure: Measure,
    model: str,
    called: str,
    players: Callable[[str], Mapping[str, Teacher]],
    folder: Path,
    log: Log,
) -> dict[str, Any]:
    if measure.metric == "nll":
        from kdaug.train.evaluate import compare_held_out

        return compare_held_out({called: model}, read(measure.tasks), measure.tasks.name).to_json()
    from kdaug.train.generation import compare_on_tasks
    from kdaug.train.tasks import read_tasks

    tasks = read_tasks(measure.tasks, measure.metric)
    asked = {called: players(model)["student"]}
    how: dict[str, Any] = {"max_tokens": measure.max_tokens, "out": folder / "asked", "log": log}
    return compare_on_tasks(asked, tasks, measure.metric, measure.tasks.name, **how).to_json()
