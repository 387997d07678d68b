"""`kdaug loop`: rounds of run, train and evaluate."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdaug.cli.command import add, folder, speaking
from kdaug.cli.running import recipe_options, recipe_over, run_options, seeds_of, teachers_of, with_options
from kdaug.cli.student import EVERY, progress

if TYPE_CHECKING:
    from kdaug.loop import Rounds
    from kdaug.record import Record
    from kdaug.teacher import Teacher


def add_loop(commands: Any) -> None:
    sub = add(
        commands,
        "loop",
        _loop,
        "Rounds of run, train and evaluate: what a student made is what the next one learns from.",
        "kdaug loop star --seeds problems.jsonl --student smollm2 --rounds 3 --out loops/star",
    )
    recipe_options(sub, student="the model that begins the loop: a folder, a Hub id, or smollm2 (smollm2)")
    sub.add_argument("--rounds", type=int, required=True, metavar="K", help="how many; more may be asked later")
    sub.add_argument(
        "--engine", default="local", metavar="KIND", help="what the student runs in: local, vllm?… (local)"
    )
    sub.add_argument("--evaluate", metavar="FILE", help="tasks to measure each student by, none of them a seed")
    sub.add_argument("--out", type=folder, required=True, metavar="DIR", help="the loop's folder")
    run_options(sub)


def _loop(given: argparse.Namespace) -> int:
    from kdaug.loop import loop
    from kdaug.progress import Log
    from kdaug.recipe import Recipe
    from kdaug.recipe_file import load
    from kdaug.recipes import plan_of

    model, given.student = given.student or "smollm2", None
    file = with_options(given, load(given.recipe))
    if given.evaluate is not None:
        file.set(f"loop.evaluate.tasks={given.evaluate}")
    plan, (seeds, seeds_from) = plan_of(file), seeds_of(given, file)

    def recipe_of(more: Sequence[Record]) -> Recipe:
        return recipe_over(given, file, [*seeds, *more] if more else seeds, seeds_from)

    def players(student: str) -> Mapping[str, Teacher]:
        given.student = played(given.engine, student)
        return teachers_of(given, file, recipe_of(()), "local")

    with speaking():
        came = loop(
            recipe_of,
            plan,
            student=model,
            players=players,
            out=given.out,
            rounds=given.rounds,
            log=Log(quiet=given.quiet),
            on_step=None if given.quiet else progress(EVERY),
        )
    for line in table(came):
        print(line)
    return came.exit_code


def played(engine: str, model: str) -> str:
    """A model as a teacher of a kind: `vllm?concurrency=8` and `models/a` are `vllm:models/a?concurrency=8`."""
    kind, mark, query = engine.partition("?")
    return f"{kind.rstrip(':')}:{model}{mark}{query}"


def table(came: Rounds) -> list[str]:
    def shown(figure: float | None) -> str:
        return "" if figure is None else f"{figure:8.3f}"

    lines = [f"start                {shown(came.start)}"]
    for r in came.rounds:
        new = "" if r.new == r.records else f" ({r.new:,} new)"
        lines.append(f"round {r.number:<3} {r.records:>7,} kept{new}{shown(r.figure)}")
    if came.ended not in ("rounds", "plateau"):
        lines.append(f"ended by {came.ended}{came.because and f': {came.because}'}")
    return [*lines, *([f"student: {came.best}"] if came.best is not None else [])]
