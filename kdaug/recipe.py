"""A recipe: what is to be made, and the fingerprint of all that its outcome depends on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from kdaug import prompts
from kdaug.budget import Caps
from kdaug.declared import check
from kdaug.errors import ConfigError
from kdaug.gate import Gate
from kdaug.generator import Generator
from kdaug.prices import Price
from kdaug.record import Record
from kdaug.rows import Rows
from kdaug.sandbox import require_sandbox
from kdaug.seeds import ids_of
from kdaug.selector import Selector
from kdaug.source import Source
from kdaug.stage import Stage
from kdaug.teacher import Sampling, Teacher, needs_raw_prompts, role_option, takes_raw_prompts

WHOLE = ("target", "max_jobs", "max_tokens", "max_calls")
NUMBERS: dict[str, Any] = {  # fields of a recipe
    **dict.fromkeys(WHOLE, int | None),
    **dict.fromkeys(("max_cost", "max_time"), float | None),
    **dict.fromkeys(("holdout", "max_failure_rate"), float),
}


@dataclass(frozen=True)
class Recipe:
    """What is to be made: a source of parents, and stages that make records of them.

    `target`: records that the last stage is to keep. `select`: which of them make the dataset; it is applied when that
    is derived, so another one may be named later, and nothing is asked anew. `max_jobs`: draws from the source at most.
    `max_cost` (US dollars), `max_tokens` and `max_calls` are never exceeded, all resumed parts of a run together; after
    `max_time` seconds no new call is made. `prices`: by model, before the table of genai-prices. `seed` drives every
    random choice of kdaug's own. `holdout`: share of the seeds whose descendants form the test split.
    `max_failure_rate`: the run stops when more of the last 200 jobs than this failed at the teacher. `templates`: a
    folder whose files replace shipped templates of the same name. `judge_checks`: what `kdaug judge-check` wrote of the
    judges, for the card, which says of each judge whether it passed. `round`: of a loop, where what one round asks as
    another did is asked anew (a teacher that samples by a call's nonce draws another reply).

    Raises ConfigError where it could never run.
    """

    source: Source
    stages: Sequence[Stage]
    target: int | None = None
    select: Selector | None = None
    max_jobs: int | None = None
    max_cost: float | None = None
    max_tokens: int | None = None
    max_calls: int | None = None
    max_time: float | None = None
    prices: Mapping[str, Price] = field(default_factory=dict)
    seed: int = 0
    holdout: float = 0.0
    max_failure_rate: float = 0.2
    templates: Path | None = None
    judge_checks: Sequence[Path] = ()
    round: int = 0
    name: str = "custom"
    seeds_from: str = ""

    def __post_init__(self) -> None:
        if not self.stages:
            raise ConfigError("a recipe needs at least one stage")
        if isinstance(self.source, Rows):
            self._check_curating()
        elif not self.source.seeds:
            raise ConfigError("a recipe needs at least one seed record: the source has none")
        for stage in self.stages:
            if not isinstance(stage, Stage):
                raise ConfigError(f"{stage!r} is no stage: write Stage({stage!r}, [gates])")
            if isinstance(stage.generator, Gate):
                raise ConfigError(f"{stage.generator.name} is a gate, no generator: write Stage(Pass(), [gates])")
            for gate in stage.gates:
                if not isinstance(gate, (Gate, type)):
                    raise ConfigError(f"{gate!r} is no gate: a gate is a subclass of kdaug.Gate")
        for name, kind in NUMBERS.items():
            check("Recipe", name, getattr(self, name), kind)
        for limit in ("max_cost", "max_time", "max_failure_rate"):
            if (value := getattr(self, limit)) is not None and not isfinite(value):
                raise ConfigError(f"{limit} is {value}: give a number, or leave it out")
        for limit in ("target", "max_jobs"):
            value = getattr(self, limit)
            if value is not None and value < 1:
                raise ConfigError(f"{limit} is {value}: it must be at least 1")
        if self.max_time is not None and self.max_time <= 0:
            raise ConfigError(f"max_time is {self.max_time}: it must be more than 0 seconds")
        _ = self.caps  # wrong ones are refused here
        if not 0 <= self.holdout < 1:
            raise ConfigError(f"holdout is {self.holdout}: it is a share of the seeds, from 0 to below 1")
        with prompts.overlay(self.templates):
            for part in (part for stage in self.stages for part in parts(stage)):
                _check_part(part)
        ends = (self.target, self.max_jobs, self.max_time, *dataclasses.astuple(self.caps))
        if self.source.grows and not any(ends):
            raise ConfigError("a growing pool never ends by itself: set target (or a cap such as max_jobs)")

    def _check_curating(self) -> None:
        """Rows go to gates by the page, and their roots are not known before."""
        if (first := self.stages[0].generator.name) != "pass":
            raise ConfigError(f"the rows to curate go to a first stage of pass, not of {first}: put one before it")
        if self.holdout:
            raise ConfigError("holdout is a share of the seeds, and data to curate has none: leave it out")

    @property
    def caps(self) -> Caps:
        return Caps(self.max_cost, self.max_tokens, self.max_calls)

    def describe(self) -> dict[str, Any]:
        """All that the run's outcome depends on, as plain JSON: its hash is the fingerprint."""
        with prompts.overlay(self.templates):
            return {
                "name": self.name,
                "seed": self.seed,
                "source": _describe(self.source),
                # Elsewhere the split is made when the dataset is written, so it may change between runs.
                "holdout": self.holdout if self.source.grows else None,
                "stages": [
                    {"generator": _describe(s.generator), "gates": [_describe(g) for g in s.gates]} for s in self.stages
                ],
            }

    def describe_selection(self) -> Any:
        """What selects, as plain JSON; None where nothing does. It is no part of the fingerprint: as a target, it only
        changes what is derived from a run."""
        return _describe(self.select)

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.describe())


def with_caps(
    recipe: Recipe, *, max_cost: float | None, max_tokens: int | None, max_calls: int | None, max_time: float | None
) -> Recipe:
    """The recipe under those caps that are not None, and under its own elsewhere."""
    caps = {"max_cost": max_cost, "max_tokens": max_tokens, "max_calls": max_calls, "max_time": max_time}
    given: dict[str, Any] = {name: cap for name, cap in caps.items() if cap is not None}
    return dataclasses.replace(recipe, **given) if given and isinstance(recipe, Recipe) else recipe


def fingerprint_of(description: Mapping[str, Any]) -> str:
    body = json.dumps({k: v for k, v in description.items() if k != "name"}, sort_keys=True)
    return hashlib.blake2b(body.encode(), digest_size=8).hexdigest()


def check_roles(recipe: Recipe, teachers: Mapping[str, Teacher]) -> None:
    """Raises ConfigError when a part of the recipe asks a role that nobody plays, what plays one is no teacher, a part
    needs a sandbox that this machine does not give, or the recipe is none."""
    if not isinstance(recipe, Recipe):
        raise ConfigError(f"{recipe!r} is no recipe: give a kdaug.Recipe (the command line runs built-in ones by name)")
    for role, teacher in teachers.items():
        if isinstance(teacher, (str, type)) or not hasattr(teacher, "generate"):
            raise ConfigError(f'{role}={teacher!r} is no teacher: give an object such as kd.OpenAI("gpt-4.1-mini")')
    for stage in recipe.stages:
        for part in parts(stage):
            if "sandbox" in getattr(part, "needs", ()):
                _check_sandbox(part)
            for role in part.roles:
                if role not in teachers and not (role == "judge" and "teacher" in teachers):
                    raise ConfigError(
                        f"{part.name} asks the role {role!r}: give one with {role_option(role, 'SPEC')} "
                        f"(or {role}= in Python)"
                    )
            for role in getattr(part, "raw_roles", ()):
                teacher = teachers.get(role) or teachers["teacher"]
                if not takes_raw_prompts(teacher):
                    raise needs_raw_prompts(teacher, role)


def _check_sandbox(part: Generator | Gate) -> None:
    try:
        require_sandbox()
    except ConfigError as e:
        raise ConfigError(f"{part.name}: {e}") from e


def _check_part(part: Generator | Gate) -> None:
    """Raises ConfigError for what is no part at all, for sampling that no teacher takes, and for a template that is not
    there or is wrong."""
    if isinstance(part, type):
        raise ConfigError(f"{part.__name__} is a class: write {part.__name__}() in the stage")
    if not isinstance(getattr(part, "name", None), str) or not isinstance(getattr(part, "roles", None), Collection):
        raise ConfigError(f"{part!r} is no generator or gate: it needs a name and roles (a Gate inherits them)")
    given = {name: getattr(part, name, None) for name in ("temperature", "top_p", "max_tokens", "logprobs")}
    try:
        Sampling(**{name: value for name, value in given.items() if isinstance(value, (int, float))})  # type: ignore[arg-type] # as Sampling has them
    except ConfigError as e:
        raise ConfigError(f"{part.name}: {e}") from e
    for name in getattr(part, "renders", ()):
        prompts.check(name)


def roles_of(recipe: Recipe) -> set[str]:
    """The roles that a recipe asks."""
    return {role for stage in recipe.stages for part in parts(stage) for role in part.roles}


def parts(stage: Stage) -> list[Generator | Gate]:
    """A stage's generator and gates."""
    return [stage.generator, *stage.gates]


def _describe(part: object) -> Any:
    """A component as plain JSON: its type, the fields that configure it, the hash of its templates."""
    if isinstance(part, Record):
        return part.id
    if isinstance(part, (str, int, float, bool)) or part is None:
        return part
    if isinstance(part, Mapping):
        return {str(k): _describe(v) for k, v in part.items()}
    if isinstance(part, Sequence):
        if part and isinstance(part[0], Record):
            ids = "".join(ids_of(part))
            return f"{len(part)} records {hashlib.blake2b(ids.encode(), digest_size=8).hexdigest()}"
        return [_describe(item) for item in part]
    if isinstance(part, (set, frozenset)):
        return sorted(_describe(item) for item in part)
    if isinstance(part, Path) or (callable(part) and hasattr(part, "__qualname__")):
        return str(part) if isinstance(part, Path) else f"{part.__module__}.{part.__qualname__}"
    if dataclasses.is_dataclass(part):
        fields = {
            f.name: getattr(part, f.name) for f in dataclasses.fields(part) if f.metadata.get("fingerprint", f.init)
        }
    else:
        fields = {k: v for k, v in vars(part).items() if not k.startswith("_")}
    kind = type(part)
    described = {"type": f"{kind.__module__}:{kind.__qualname__}", **{k: _describe(v) for k, v in fields.items()}}
    name = getattr(part, "name", None)
    if isinstance(name, str) and (templates := prompts.digest(name)):
        described["templates"] = templates
    return described


def template_digests(recipe: Recipe) -> dict[str, str]:
    """The hash of each part's templates, by its name."""
    names = [part.name for stage in recipe.stages for part in parts(stage)]
    return {name: found for name in names if (found := prompts.digest(name))}


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """`stages.0.gates.1.threshold: 0.7 -> 0.8`, one a difference."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = [*old, *(k for k in new if k not in old)]
        return [d for k in names for d in differences(old.get(k), new.get(k), f"{path}.{k}" if path else k)]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [d for i, (a, b) in enumerate(zip(old, new, strict=True)) for d in differences(a, b, f"{path}.{i}")]
    return [] if old == new else [f"{path}: {old} -> {new}"]
