"""What every method comes to on a small model: calls, what was proposed and kept, and what was dropped, and why.

Each built-in method runs for two jobs on the embedded SmolLM2-135M-Instruct, which plays every role, with few samples
and questions a job (LEAST), and 80 tokens a reply at the most, so that most replies that want more are dropped as cut.
All runs go on at once and share the model, so that its batches are full. A model of this size follows few prompts
to the letter: what is looked at is that each method goes through, and says why it lost what it did.

`--quick`: one method of each family.  `--only a,b`: these alone; their rows in the result are renewed.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness import RESULTS, Bound, finish, options, table

from kdaug import recipes
from kdaug.errors import KdaugError
from kdaug.methods import FAMILIES, Method, find, methods
from kdaug.progress import reasons
from kdaug.prompts import shipped
from kdaug.read import read
from kdaug.recipe import Recipe, roles_of
from kdaug.recipe_file import load
from kdaug.running import arun
from kdaug.teacher import Completion, Request
from kdaug.teachers.local import Local

JOBS = 2
MOST_TOKENS = 80  # of a reply
MOST_CALLS = 16  # of a method; then a run ends by max_calls
ENDS = ("source", "max_jobs", "max_calls")
LEAST = {
    "samples": 3,
    "children": 2,
    "queries": 6,
    "questions": 2,
    "topics": 2,
    "per_prompt": 3,
    "total": 6,
    "count": 3,
    "judgements": 1,
    "max_rounds": 3,
    "dev": 2,
    "candidates": 2,
    "steps": 2,
}
MOST_SECONDS = 1_500  # after that a run ends by max_time, and has not come to its end


class Shared(Local):
    """The embedded model for several runs at once, whose replies are short; it stays until the last of them ends."""

    async def generate(self, request: Request) -> Completion:
        how = request.sampling
        short = replace(how, max_tokens=min(how.max_tokens, MOST_TOKENS))
        return await super().generate(replace(request, sampling=short))

    async def open(self, state: Path) -> None:
        async with self._opening:
            await super().open(state)

    async def aclose(self) -> None:
        pass

    async def end(self) -> None:
        await super().aclose()

    def __post_init__(self) -> None:
        super().__post_init__()
        self._opening = asyncio.Lock()


def recipe_of(method: Method) -> Recipe:
    file = load(method.name)
    seeds = recipes.seeds_of(file, None if method.seeds else str(shipped() / "seeds" / "seeds.jsonl"))
    built = recipes.build(file, read(seeds))
    stages = [replace(stage, generator=small(stage.generator)) for stage in built.stages]
    caps: dict[str, Any] = {"max_jobs": JOBS, "max_calls": MOST_CALLS, "max_time": MOST_SECONDS}
    return replace(built, stages=stages, target=None, select=None, **caps)


def small(generator: Any) -> Any:  # Any: whatever fields it has
    now = {name: getattr(generator, name, None) for name in LEAST}
    less = {name: LEAST[name] for name, value in now.items() if isinstance(value, int) and value > LEAST[name]}
    return replace(generator, **less) if less else generator


async def tried(method: Method, teacher: Shared, folder: Path) -> dict[str, Any]:
    """One method's run, told as JSON."""
    out = folder / method.name
    error = None
    try:
        recipe = recipe_of(method)
        roles: dict[str, Any] = dict.fromkeys(("teacher", *roles_of(recipe)), teacher)
        await arun(recipe, out, quiet=True, **roles)
    except KdaugError as e:
        error = str(e)
    except Exception as e:  # noqa: BLE001 - a bug in one method is told, and the others go on
        traceback.print_exc()
        error = f"{type(e).__name__}: {e}"
    facts = json.loads((out / "run.json").read_text("utf-8")) if (out / "run.json").is_file() else {}
    dropped = Counter[str]()
    for stage in facts.get("stages", ()):
        dropped.update(stage.get("dropped", {}))
    kept, calls = facts.get("kept", 0), sum(used["calls"] for used in facts.get("usage", {}).values())
    words = error or f"kept {kept} of {kept + dropped.total()}, {calls} calls"
    print(f"{method.name}: {words}", file=sys.stderr, flush=True)
    return {
        "family": method.family,
        "error": error,
        "ended_by": facts.get("ended_by", ""),
        "calls": calls,
        "proposed": kept + dropped.total(),
        "kept": kept,
        "dropped": dict(dropped.most_common()),
    }


async def tried_all(every: Sequence[Method]) -> dict[str, dict[str, Any]]:
    teacher = Shared()
    with tempfile.TemporaryDirectory() as folder:
        told = await asyncio.gather(*(tried(method, teacher, Path(folder)) for method in every))
    await teacher.end()
    return dict(zip((method.name for method in every), told, strict=True))


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
    parser.add_argument("--only", default="", metavar="NAME,NAME", help="these methods alone")
    given = parser.parse_args()
    began = time.perf_counter()
    figures = asyncio.run(tried_all(list(chosen(given.quick, given.only))))
    if given.only and (RESULTS / "methods.json").is_file():
        before = json.loads((RESULTS / "methods.json").read_text("utf-8"))["figures"]
        figures = {
            method.name: both[method.name] for both in [before | figures] for method in methods() if method.name in both
        }
    rows = [
        (
            f"`{name}`",
            told["family"],
            *(str(told[figure]) for figure in ("calls", "proposed", "kept")),
            told["error"] or reasons(Counter(told["dropped"]), 6),
        )
        for name, told in figures.items()
    ]
    print(table(("method", "family", "calls", "proposed", "kept", "dropped"), rows))
    ran = sum(told["error"] is None and told["ended_by"] in ENDS and told["calls"] > 0 for told in figures.values())
    silent = sum(told["kept"] == 0 for told in figures.values())
    print(f"{silent} of {len(figures)} kept nothing in {JOBS} jobs; {time.perf_counter() - began:.0f} s in all")
    bounds = [Bound("share of the methods that ran to their end and asked somebody", ran / max(1, len(figures)), 1.0)]
    return finish("methods", given, figures, bounds)


if __name__ == "__main__":
    raise SystemExit(main())
