"""Which models judge in a run, and what a check of each of them found (`kdaug judge-check`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from kdaug.errors import ConfigError
from kdaug.recipe import Recipe, parts
from kdaug.teacher import Teacher

CHECK = "judge_check.json"


def read_check(path: Path) -> dict[str, Any]:
    """A check as `kdaug judge-check` wrote it: its file, or the folder with it. Raises ConfigError for what is none."""
    file = path / CHECK if path.is_dir() else path
    try:
        found = orjson.loads(file.read_bytes())
    except OSError as e:
        raise ConfigError(f"no check of a judge at {file} ({e.strerror}): make one with kdaug judge-check") from e
    except orjson.JSONDecodeError as e:
        raise ConfigError(f"{file} is no JSON ({e}): make it anew with kdaug judge-check") from e
    if not isinstance(found, dict) or not isinstance(found.get("judge"), str) or "passed" not in found:
        raise ConfigError(f"{file} is no check of a judge: it needs `judge` and `passed`, as kdaug judge-check writes")
    return found


def judges_of(recipe: Recipe, teachers: Mapping[str, Teacher], checks: Sequence[Path]) -> list[dict[str, Any]]:
    """Each model that judges, with the roles that it judges in, and its check where one is given: `passed` is None
    where none is. A part of a recipe says with an attribute `judges` which of its roles do."""
    known = {check["judge"]: check for check in map(read_check, checks)}
    roles: dict[str, list[str]] = {}
    for role in dict.fromkeys(r for stage in recipe.stages for p in parts(stage) for r in getattr(p, "judges", ())):
        teacher = teachers.get(role) or teachers.get("teacher")
        if teacher is not None:
            roles.setdefault(teacher.name, []).append(role)
    return [
        {
            "name": name,
            "roles": played,
            "passed": known.get(name, {}).get("passed"),
            "failed": [f["name"] for f in known.get(name, {}).get("figures", ()) if f.get("passed") is False],
        }
        for name, played in roles.items()
    ]
