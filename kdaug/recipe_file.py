"""A recipe as it is written: YAML, `--set` and options, each value with its place for messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from kdaug import prompts
from kdaug.address import load_class
from kdaug.errors import ConfigError
from kdaug.plain_yaml import plain_yaml

CAPS = ("max_jobs", "max_cost", "max_tokens", "max_calls", "max_time")
FIELDS = (
    "description", "method", "seeds", "templates", "source", "target", *CAPS, "prices", "seed", "holdout", "select",
    "stages", "gates", "roles", "judge_checks", "loop",
)  # fmt: skip


@dataclass
class RecipeFile:
    """A recipe as it was written: plain values, and the line of each for messages."""

    where: str
    values: dict[str, Any]
    lines: Mapping[tuple[str | int, ...], int] = field(default_factory=dict)
    options: set[str] = field(default_factory=set)  # fields that an option of the command line gave
    folder: Path | None = None  # where it lies; None for one of ours

    @property
    def name(self) -> str:
        return Path(self.where).stem

    def error(self, message: str, *path: str | int) -> ConfigError:
        """An error at the field `path`: its line, or that of the nearest field above it that was in the file."""
        known = next((path[:n] for n in range(len(path), -1, -1) if path[:n] in self.lines), None)
        line = f":{self.lines[known]}" if known is not None else ""
        if path and path[0] in self.options:
            return ConfigError(f"--{str(path[0]).replace('_', '-')}: {message}")
        at = f"{'.'.join(map(str, path))}: " if path else ""
        return ConfigError(f"{self.where}{line}: {at}{message}")

    def put(self, name: str, value: Any) -> None:
        """A field from an option of the command line, which goes before the file."""
        self.values[name] = value
        self.options.add(name)

    def set(self, assignment: str) -> None:
        """`--set a.b=c`: a field by its path (`stages.0.gates.1.rouge.threshold=0.8`) or, shorter, by the part that it
        belongs to (`rouge.threshold=0.8`). The value is YAML."""
        path, sign, text = assignment.partition("=")
        if not sign or not path:
            raise ConfigError(f"--set {assignment}: expected PATH=VALUE, such as rouge.threshold=0.8")
        try:
            value = plain_yaml(text)
        except yaml.YAMLError as e:
            raise ConfigError(f"--set {assignment}: the value is not YAML ({_first_line(e)})") from e
        keys = path.split(".")
        for start in self._starts(keys[0]):
            _put(self.values, [*start, *keys[1:]] if len(start) else keys, value, assignment)

    def _starts(self, first: str) -> list[list[str | int]]:
        """Where the parts of this name stand in the stages; one empty path for a plain field."""
        if first in FIELDS:
            return [[]]
        parts = [(place, name) for place, written in self._parts() for name in _names(written)]
        if found := [[*place, name] for place, name in parts if first in (name, self._short(name))]:
            return found
        raise ConfigError(f"--set {first}…: this recipe has no field and no part of that name")

    def _parts(self) -> Iterator[tuple[list[str | int], object]]:
        """Where parts stand, and what is written there."""
        for g, gate in enumerate(self.values.get("gates") or []):
            yield ["gates", g], gate
        yield ["select"], self.values.get("select")
        for s, stage in enumerate(self.values.get("stages") or []):
            if isinstance(stage, dict):
                yield ["stages", s, "generator"], stage.get("generator")
                for g, gate in enumerate(stage.get("gates") or []):
                    yield ["stages", s, "gates", g], gate

    def _short(self, name: str) -> Any:
        """What a part that is written as module:Class calls itself."""
        return getattr(load_class(name, self.folder), "name", name) if ":" in name else name


def load(name: str) -> RecipeFile:
    """A built-in recipe by its name, or a YAML file. Raises ConfigError with file, line and what is wrong."""
    builtin = prompts.shipped() / "recipes" / f"{name}.yaml"
    path = builtin if builtin.is_file() else Path(name)
    if not path.is_file():
        known = builtin_names()
        hint = get_close_matches(name.lower(), known, 1, cutoff=0.65)
        raise ConfigError(
            f"no recipe {name!r}: neither a file nor one of {', '.join(known)}"
            + (f". Did you mean {hint[0]}?" if hint else "")
        )
    where = str(path) if path is not builtin else f"{name}.yaml"
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text)
        values = plain_yaml(text)
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        mark = getattr(e, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{where}{line}: not valid YAML: {_first_line(e)}") from e
    file = RecipeFile(where, values if isinstance(values, dict) else {}, dict(_lines(node)))
    if path is not builtin:
        file.folder = path.absolute().parent
    if not isinstance(values, dict):
        raise file.error("a recipe is a mapping with at least `stages` or `gates`")
    for key in values:
        if key not in FIELDS:
            raise file.error(unknown("field", str(key), FIELDS), str(key))
    return file


def builtin_names() -> list[str]:
    return sorted(p.stem for p in (prompts.shipped() / "recipes").glob("*.yaml"))


def _put(values: Any, path: Sequence[str | int], value: Any, assignment: str) -> None:
    """Sets a value deep inside; a part that stands by its bare name becomes a mapping on the way."""
    for depth, key in enumerate(path[:-1]):
        step: Any = int(key) if isinstance(values, list) and str(key).isdigit() else key
        try:
            inner = values[step] if isinstance(values, list) else values.get(step)
        except (IndexError, TypeError, AttributeError) as e:
            raise ConfigError(f"--set {assignment}: there is no {'.'.join(map(str, path[: depth + 1]))}") from e
        if isinstance(inner, str) and str(path[depth + 1]) == inner:
            inner = {inner: {}}
            values[step] = inner
        elif inner is None:
            inner = {}
            values[step] = inner
        values = inner
    if not isinstance(values, dict):
        raise ConfigError(f"--set {assignment}: there is no field {path[-1]} there")
    values[path[-1]] = value


def _names(written: object) -> list[str]:
    return [written] if isinstance(written, str) else list(written) if isinstance(written, dict) else []


def _lines(node: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], int]]:
    """(path, line) of every value of a composed YAML document."""
    if node is None:
        return
    yield path, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, inner in node.value:
            yield from _lines(inner, (*path, str(key.value)))
            yield (*path, str(key.value)), key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for number, inner in enumerate(node.value):
            yield from _lines(inner, (*path, number))


def unknown(what: str, name: str, known: Sequence[str]) -> str:
    """For a message: what is not known, what may have been meant, and what there is."""
    close = get_close_matches(name, known, 1, cutoff=0.65)  # "nope" is no "openai"
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"unknown {what} {name!r}{hint}; there are {', '.join(known)}"


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
