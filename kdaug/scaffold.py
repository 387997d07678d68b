"""A folder to begin with: a built-in recipe, its seeds and its prompts, written out for the user to change."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from kdaug import prompts
from kdaug.errors import ConfigError
from kdaug.methods import Method
from kdaug.recipe import parts
from kdaug.recipe_file import RecipeFile, builtin_names, load
from kdaug.recipes import stages_in
from kdaug.teacher import role_option

SEEDS = "seeds.jsonl"  # of a recipe that names none
ONE_A_LINE = ", one JSON object a line"


def scaffold(recipe: str, folder: Path) -> Iterator[str]:
    """Writes a built-in recipe, its seeds and every shipped prompt; gives lines that say what is there.

    Raises ConfigError for a recipe that is none of ours, and a folder that has something in it.
    """
    if recipe not in builtin_names():
        raise ConfigError(f"no built-in recipe {recipe!r}: choose one of {', '.join(builtin_names())}")
    yield from _write(recipe, folder, [path.name for path in (prompts.shipped() / "prompts").iterdir()])
    yield f"try it without a model:   kdaug check {shlex.quote(str(folder))}/recipe.yaml"


def scaffold_method(method: Method, folder: Path) -> Iterator[str]:
    """As `scaffold`, with the prompts of this method alone; the last lines are the command that runs it on a scripted
    teacher and, of a method with rounds, the one that trains."""
    own = [part for stage in method.stages for part in parts(stage)]
    used = {part.name for part in own}
    used |= {template.partition("/")[0] for part in own for template in getattr(part, "renders", ())}
    yield from _write(method.name, folder, [name for name in used if (prompts.shipped() / "prompts" / name).is_dir()])
    at = shlex.quote(str(folder))
    roles = " ".join(role_option(role, "fake") for role in method.roles)
    yield f"try it without a model:   kdaug run {at}/recipe.yaml {roles} --out {at}/run"
    if method.loop:
        mine = replace(method, file=str(folder / "recipe.yaml"), seeds=method.seeds or SEEDS)
        yield f"train, and begin again:   {mine.command}"


def _write(recipe: str, folder: Path, templates: Sequence[str]) -> Iterator[str]:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists and is not empty: choose another folder")
    file, shipped = load(recipe), prompts.shipped()
    seeds = str(file.values.get("seeds") or SEEDS)
    text = (shipped / "recipes" / f"{recipe}.yaml").read_text(encoding="utf-8")
    text += "" if file.values.get("seeds") else f"seeds: {seeds}\n"
    text += "templates: templates\n" if templates else ""
    tools = _tools(file)
    begin = shipped / "seeds" / seeds
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.yaml").write_text(text, encoding="utf-8")
        if begin.is_dir():
            shutil.copytree(begin, folder / seeds)
        else:
            shutil.copy(begin, folder / seeds)
        for name in tools:
            shutil.copy(shipped / "seeds" / name, folder / name)
        for name in sorted(templates):
            shutil.copytree(shipped / "prompts" / name, folder / "templates" / "prompts" / name)
    except OSError as e:
        raise ConfigError(f"cannot write to {folder}: {e.strerror}") from e
    yield f"{folder}/recipe.yaml      the recipe ({recipe})"
    yield f"{folder}/{seeds}      what it begins with: put yours in their place" + ONE_A_LINE * seeds.endswith(".jsonl")
    yield from (f"{folder}/{name}      the tools that it calls: put yours in their place" for name in tools)
    if templates:
        yield f"{folder}/templates/       the prompts: change what you like, delete the rest"


def _tools(file: RecipeFile) -> list[str]:
    """The shipped files that its parts name."""
    own: list[Any] = [part for stage in stages_in(file) for part in parts(stage) if is_dataclass(part)]
    named = [getattr(part, field.name) for part in own for field in fields(part) if field.metadata.get("beside")]
    files = {name for name in named if isinstance(name, str)}
    return sorted(name for name in files if (prompts.shipped() / "seeds" / name).is_file())
