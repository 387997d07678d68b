"""Tries a recipe without a model: two jobs of it on a scripted teacher, before a cent is spent."""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from kdaug.engine import Stage
from kdaug.progress import Log, reasons
from kdaug.recipe import Recipe, parts
from kdaug.record import Json
from kdaug.running import execute
from kdaug.teacher import Request
from kdaug.teachers.fake import SYLLABLES, Fake

JOBS = 2


def check(recipe: Recipe) -> Iterator[str]:
    """Lines on what the recipe is and what its two jobs came to.

    Its parts, roles and templates are the real ones; only the words are made up, so drops are no fault of the recipe.
    Raises ConfigError for what could never run.
    """
    for number, stage in enumerate(recipe.stages):
        roles = sorted({role for part in parts(stage) for role in part.roles})
        gates = f" [{', '.join(g.name for g in stage.gates)}]" if stage.gates else ""
        yield f"stage {number}: {stage.generator.name}{gates}, asks {', '.join(roles) or 'nobody'}"
    yield f"seeds: {len(recipe.source.seeds)}" + (f" from {recipe.seeds_from}" if recipe.seeds_from else "")
    teacher = Fake(plausible, concurrency=2)
    everybody = {role for stage in recipe.stages for part in parts(stage) for role in part.roles}
    with tempfile.TemporaryDirectory() as folder:
        trial = replace(recipe, max_jobs=JOBS, target=None, stages=[_small(stage) for stage in recipe.stages])
        teachers = dict.fromkeys(("teacher", *sorted(everybody)), teacher)
        outcome = execute(trial, Path(folder) / "run", teachers, log=Log(quiet=True))
        if outcome.error is not None:
            raise outcome.error
        for stage_facts in outcome.facts["stages"]:
            dropped = reasons(Counter(stage_facts["dropped"]))
            yield f"{stage_facts['name']}: {stage_facts['jobs']} jobs, kept {stage_facts['kept']}, dropped {dropped}"
    yield f"ok: {len(teacher.calls)} calls on a scripted teacher, none on a real one"


def _small(stage: Stage) -> Stage:
    return replace(stage, window=JOBS)


def plausible(request: Request) -> str:
    """A reply in the form that a prompt of the shipped templates asks for; sentences of made-up words otherwise."""
    asked = request.messages[-1].content
    rng = Random(f"{request.digest('check')}/{request.nonce}")
    if request.sampling.schema is not None:
        ((kind, wanted),) = request.sampling.schema.items()
        if kind == "json":
            return json.dumps(_example(wanted, wanted, rng))
        return str(rng.choice(wanted)) if isinstance(wanted, list) else _sentence(rng, 3)  # a regex is beyond it
    if numbered := re.search(r"numbered (\d+) to (\d+)", asked):
        first, last = map(int, numbered.groups())
        return "\n".join(f"{n}. {_sentence(rng, 9)}" for n in range(first, last + 1))
    if re.search(r"\nScore: n", asked):
        return f"{_sentence(rng, 12)}\nScore: {rng.randint(1, 5)}"
    if '"Verdict: not equal"' in asked:
        return "Verdict: not equal"
    if re.search(r"classification task. Answer Yes or No", asked):
        return rng.choice(["Yes", "No"])
    if "Class label:" in asked:
        return "\n".join(f"Class label: {label}\nInput: {_sentence(rng, 8)}" for label in ("first", "second"))
    if 'Begin your reply with "Example 1"' in asked:
        return "\n".join(f"Example {n}\nInput: {_sentence(rng, 8)}\nOutput: {_sentence(rng, 8)}" for n in (1, 2))
    return " ".join(_sentence(rng, rng.randint(8, 16)) for _ in range(2))


def _example(schema: Any, root: Any, rng: Random) -> Json:  # Any: a JSON schema, which is known to be one
    """A value that most schemas of the kind that pydantic writes allow: bounds and patterns are not looked at."""
    if "$ref" in schema:
        found = root
        for name in schema["$ref"].split("/")[1:]:
            found = found[name]
        return _example(found, root, rng)
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return _example(schema[several][0], root, rng)
    if "const" in schema or "enum" in schema:
        return schema["const"] if "const" in schema else rng.choice(schema["enum"])  # type: ignore[no-any-return] # JSON
    match schema.get("type", "object"):
        case "object":
            return {name: _example(inner, root, rng) for name, inner in schema.get("properties", {}).items()}
        case "array":
            return [_example(schema.get("items", {}), root, rng) for _ in range(max(1, schema.get("minItems", 0)))]
        case "integer" | "number":
            return int(schema.get("minimum", rng.randint(1, 5)))
        case "boolean":
            return rng.choice([True, False])
        case "null":
            return None
    return _sentence(rng, 3)


def _sentence(rng: Random, words: int) -> str:
    syllables = SYLLABLES.split()
    return " ".join("".join(rng.choices(syllables, k=rng.randint(2, 4))) for _ in range(words)).capitalize() + "."
