"""What every method comes to on a small model: calls, what was proposed and kept, and what was dropped, and why.

Each built-in method runs for a few jobs on the embedded SmolLM2-135M-Instruct, which plays every role and is loaded
once. Replies end after 256 tokens at the latest, so many that want more are dropped as cut. A model of this size
follows few prompts to the letter: what is looked at is that each method goes through, and says why it lost what it did.

`--quick`: one method of each family.  `--only a,b`: these alone.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness import Bound, finish, options, table

from kdaug import recipes
from kdaug.errors import KdaugError
from kdaug.methods import FAMILIES, Method, find, methods
from kdaug.progress import Log, reasons
from kdaug.prompts import shipped
from kdaug.read import read
from kdaug.recipe import Recipe, roles_of
from kdaug.recipe_file import load
from kdaug.running import execute
from kdaug.teacher import Completion, Request
from kdaug.teachers.local import Loaded, Local

JOBS = 4
MOST_TOKENS = 256  # of a reply


class Resident(Local):
    """The embedded model, loaded once for all runs, whose replies are short."""

    _held: Loaded | None = None

    def _load(self) -> Loaded:
        self._held = self._held or super()._load()
        return self._held

    async def generate(self, request: Request) -> Completion:
        how = request.sampling
        short = replace(how, max_tokens=min(how.max_tokens, MOST_TOKENS))
        return await super().generate(replace(request, sampling=short))


def recipe_of(method: Method) -> Recipe:
    file = load(method.name)
    seeds = recipes.seeds_of(file, None if method.seeds else str(shipped() / "seeds" / "seeds.jsonl"))
    return replace(recipes.build(file, read(seeds)), max_jobs=JOBS, target=None, select=None)


def tried(method: Method, teacher: Resident, folder: Path) -> dict[str, Any]:
    """One method's run, told as JSON."""
    began = time.perf_counter()
    try:
        recipe = recipe_of(method)
        teachers = dict.fromkeys(("teacher", *roles_of(recipe)), teacher)
        outcome = execute(recipe, folder / method.name, teachers, log=Log(quiet=True))
    except KdaugError as e:
        return {"family": method.family, "error": str(e), "calls": 0}
    facts = outcome.facts
    dropped = sum(
        (Counter(stage["dropped"]) for stage in facts.get("stages", ()) if "dropped" in stage), Counter[str]()
    )
    kept = facts.get("kept", 0)
    return {
        "family": method.family,
        "error": None if outcome.error is None else str(outcome.error),
        "calls": sum(used["calls"] for used in facts.get("usage", {}).values()),
        "proposed": kept + sum(dropped.values()),
        "kept": kept,
        "dropped": dict(dropped.most_common()),
        "seconds": round(time.perf_counter() - began, 1),
    }


def chosen(quick: bool, only: str) -> Iterator[Method]:
    if only:
        yield from map(find, only.split(","))
        return
    every = methods()
    for family in FAMILIES:
        own = [method for method in every if method.family == family]
        yield from own[:1] if quick else own


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--only", default="", metavar="NAME,NAME", help="these methods alone; nothing is saved")
    given = parser.parse_args()
    given.no_save = given.no_save or bool(given.only)
    figures: dict[str, Any] = {}
    teacher = Resident()
    with tempfile.TemporaryDirectory() as folder:
        for method in chosen(given.quick, given.only):
            figures[method.name] = told = tried(method, teacher, Path(folder))
            words = told["error"] or f"kept {told['kept']} of {told['proposed']}, {told['calls']} calls"
            print(f"{method.name}: {words}", file=sys.stderr, flush=True)
    rows = [
        (
            f"`{name}`",
            told["family"],
            str(told["calls"]),
            str(told.get("proposed", "")),
            str(told.get("kept", "")),
            told["error"] or reasons(Counter(told["dropped"]), 6),
        )
        for name, told in figures.items()
    ]
    print(table(("method", "family", "calls", "proposed", "kept", "dropped"), rows))
    ran = sum(told["error"] is None and told["calls"] > 0 for told in figures.values())
    silent = sum(told.get("kept", 0) == 0 for told in figures.values())
    print(f"{silent} of {len(figures)} kept nothing in {JOBS} jobs")
    bounds = [Bound("share of the methods that ran to their end and asked somebody", ran / max(1, len(figures)), 1.0)]
    return finish("methods", given, figures, bounds)


if __name__ == "__main__":
    raise SystemExit(main())
