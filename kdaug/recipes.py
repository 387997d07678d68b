"""Recipes as YAML, and teachers as `kind:model?key=value` strings. Errors name file, line and field."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import yaml

from kdaug import prompts
from kdaug.errors import ConfigError
from kdaug.prices import Price
from kdaug.recipe import Recipe
from kdaug.record import Record
from kdaug.source import Each, GrowingPool, Source
from kdaug.stage import Stage
from kdaug.teacher import Teacher

# Parts by their short names. A new method adds one line here; `package.module:Class` and the entry-point group
# `kdaug.parts` work without one.
GENERATORS = {
    "self_instruct": "kdaug.generators.self_instruct:SelfInstruct",
    "instances": "kdaug.generators.instances:Instances",
    "evol_instruct": "kdaug.generators.evol_instruct:EvolInstruct",
    "feedback": "kdaug.generators.feedback:Feedback",
    "self_knowledge": "kdaug.generators.self_knowledge:SelfKnowledge",
    "respond": "kdaug.generators.respond:Respond",
    "pass": "kdaug.generators.pass_through:Pass",
}
GATES = {
    "instructions": "kdaug.gates.instructions:InstructionFilters",
    "rouge": "kdaug.gates.rouge:Rouge",
    "dedup": "kdaug.gates.dedup:Dedup",
    "heuristics": "kdaug.gates.heuristics:Heuristics",
    "judge": "kdaug.gates.judge:Judge",
}
TEACHERS = {
    "openai": "kdaug.teachers.openai:OpenAI",
    "vllm": "kdaug.teachers.vllm:VLLM",
    "serve": "kdaug.teachers.serve:Serve",
    "local": "kdaug.teachers.local:Local",
    "batch": "kdaug.teachers.batch:Batch",
    "langchain": "kdaug.teachers.langchain:LangChain",
    "replay": "kdaug.teachers.replay:Replay",
    "fake": "kdaug.teachers.fake:Fake",
    "route": "kdaug.teachers.route:Route",
}
SOURCES = {"each": Each, "growing_pool": GrowingPool}
CAPS = ("max_jobs", "max_cost", "max_tokens", "max_calls", "max_time")
FIELDS = ("description", "seeds", "source", "target", *CAPS, "prices", "seed", "holdout", "stages", "roles")
ENTRY_POINTS = "kdaug.parts"


@dataclass
class RecipeFile:
    """A recipe as it was written: plain values, and the line of each for messages."""

    where: str
    values: dict[str, Any]
    lines: Mapping[tuple[str | int, ...], int] = field(default_factory=dict)
    options: set[str] = field(default_factory=set)  # fields that an option of the command line gave

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
            value = yaml.safe_load(text)
        except yaml.YAMLError as e:
            raise ConfigError(f"--set {assignment}: the value is not YAML ({_first_line(e)})") from e
        keys = path.split(".")
        for start in self._starts(keys[0]):
            _put(self.values, [*start, *keys[1:]] if len(start) else keys, value, assignment)

    def _starts(self, first: str) -> list[list[str | int]]:
        """Where the parts of this name stand in the stages; one empty path for a plain field."""
        if first in FIELDS:
            return [[]]
        found: list[list[str | int]] = []
        for s, stage in enumerate(self.values.get("stages") or []):
            if not isinstance(stage, dict):
                continue
            if first in _names(stage.get("generator")):
                found.append(["stages", s, "generator", first])
            gates = stage.get("gates") or []
            found += [["stages", s, "gates", g, first] for g, gate in enumerate(gates) if first in _names(gate)]
        if not found:
            raise ConfigError(f"--set {first}…: this recipe has no field and no part of that name")
        return found


def load(name: str) -> RecipeFile:
    """A built-in recipe by its name, or a YAML file. Raises ConfigError with file, line and what is wrong."""
    builtin = prompts.shipped() / "recipes" / f"{name}.yaml"
    path = builtin if builtin.is_file() else Path(name)
    if not path.is_file():
        known = builtin_names()
        hint = get_close_matches(name, known, 1)
        raise ConfigError(
            f"no recipe {name!r}: neither a file nor one of {', '.join(known)}"
            + (f". Did you mean {hint[0]}?" if hint else "")
        )
    where = str(path) if path is not builtin else f"{name}.yaml"
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text)
        values = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        mark = getattr(e, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{where}{line}: not valid YAML: {_first_line(e)}") from e
    file = RecipeFile(where, values if isinstance(values, dict) else {}, dict(_lines(node)))
    if not isinstance(values, dict):
        raise file.error("a recipe is a mapping with at least `stages`")
    for key in values:
        if key not in FIELDS:
            raise file.error(unknown("field", str(key), FIELDS), str(key))
    return file


def builtin_names() -> list[str]:
    return sorted(p.stem for p in (prompts.shipped() / "recipes").glob("*.yaml"))


def build(file: RecipeFile, seeds: Sequence[Record], *, seeds_from: str = "", templates: Path | None = None) -> Recipe:
    """The recipe that a file describes, over `seeds`."""
    stages = file.values.get("stages")
    if not isinstance(stages, list) or not stages:
        raise file.error("expected a list with at least one stage", "stages")
    plain: dict[str, Any] = {}
    hints = typing.get_type_hints(Recipe)
    for key in ("target", *CAPS, "seed", "holdout"):
        if file.values.get(key) is not None:
            plain[key] = _coerced(file, file.values[key], hints[key], key)
    plain["prices"] = _prices(file)
    built = [_stage(file, stage, number) for number, stage in enumerate(stages)]
    source = _source(file, seeds)
    try:
        return Recipe(source, built, name=file.name, seeds_from=seeds_from, templates=templates, **plain)
    except ConfigError as e:
        name, _, wrong = str(e).partition(" ")
        if name in file.options:
            raise ConfigError(f"--{name.replace('_', '-')} {wrong}") from e
        raise file.error(str(e)) from e


def teacher(spec: str) -> Teacher:
    """A teacher from `kind:model?key=value&…`, such as `openai:gpt-x?base_url=http://localhost:8000/v1&concurrency=64`.
    Several of them with | between are one: `route:openai:m?base_url=…|openai:m?base_url=…`.

    Raises ConfigError for an unknown kind or key, a value of the wrong type, or a missing extra.
    """
    if not spec.strip():
        raise ConfigError("the name of a teacher is empty: write KIND:MODEL, such as openai:gpt-x or local:smollm2")
    head, _, query = spec.partition("?")
    kind, _, model = head.partition(":")
    if kind not in TEACHERS:
        hint = f" (a model by its name alone? write openai:{spec}, vllm:{spec} or local:{spec})" if not model else ""
        raise ConfigError(f"teacher {spec!r}: {unknown('kind', kind, tuple(TEACHERS))}{hint}")
    made = _load_class(TEACHERS[kind])
    if kind == "route":
        route: Teacher = made([teacher(one) for one in spec.partition(":")[2].split("|")])
        return route
    known = inspect.signature(made).parameters
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
    hints = typing.get_type_hints(made.__init__)
    arguments: dict[str, Any] = {}
    for key, text in parse_qsl(query, keep_blank_values=True):
        if key not in known and not open_ended:
            names = tuple(n for n in known if n not in ("model", "folder", "chat", "reply"))
            raise ConfigError(f"teacher {spec!r}: {unknown('key', key, names)}")
        file = RecipeFile(f"teacher {spec!r}", {})
        value = text if hints.get(key) in (str, str | None) else yaml.safe_load(text)
        arguments[key] = _coerced(file, value, hints.get(key, Any), key)
    subject = next(name for name in ("model", "folder", "chat", "name") if name in known)
    if model:
        arguments[subject] = model
    elif known[subject].default is inspect.Parameter.empty:
        raise ConfigError(f"teacher {spec!r}: which {subject}? write {kind}:{subject.upper()}")
    built: Teacher = made(**arguments)
    if kind == "langchain":
        from kdaug.teachers.retry import Retry

        built = Retry(built)
    return built


def _prices(file: RecipeFile) -> dict[str, Price]:
    """`prices: {gpt-x: {input: 0.4, output: 1.6}}`, in US dollars per million tokens."""
    written = file.values.get("prices") or {}
    if not isinstance(written, dict):
        raise file.error("expected a mapping from model to {input: …, output: …}", "prices")
    found: dict[str, Price] = {}
    for model, price in written.items():
        if not isinstance(price, dict) or price.keys() != {"input", "output"}:
            raise file.error("expected {input: …, output: …}, US dollars per million tokens", "prices", str(model))
        figures = [_coerced(file, price[side], float, "prices", str(model), side) for side in ("input", "output")]
        found[str(model)] = Price(*figures)
    return found


def _source(file: RecipeFile, seeds: Sequence[Record]) -> Source:
    name, arguments = _part(file, file.values.get("source") or "each", "source")
    if name not in SOURCES:
        raise file.error(unknown("source", name, tuple(SOURCES)), "source")
    made: Source = _construct(file, SOURCES[name], {"seeds": seeds, **arguments}, "source", name)
    return made


def _stage(file: RecipeFile, stage: object, number: int) -> Stage:
    at = ("stages", number)
    if not isinstance(stage, dict) or "generator" not in stage:
        raise file.error("a stage is a mapping with `generator` (and perhaps `gates` and `window`)", *at)
    for key in stage:
        if key not in ("generator", "gates", "window"):
            raise file.error(unknown("field", str(key), ("generator", "gates", "window")), *at, str(key))
    gates = stage.get("gates") or []
    if not isinstance(gates, list):
        raise file.error("expected a list of gates", *at, "gates")
    window = stage.get("window")
    if window is not None:
        window = _coerced(file, window, int, *at, "window")
    generator = _make(file, GENERATORS, "generator", stage["generator"], *at, "generator")
    return Stage(generator, [_make(file, GATES, "gate", g, *at, "gates", n) for n, g in enumerate(gates)], window)


def _make(file: RecipeFile, table: Mapping[str, str], what: str, written: object, *at: str | int) -> Any:
    name, arguments = _part(file, written, *at)
    address = table.get(name) or (name if ":" in name else None)
    if address is None:
        found = [p for p in entry_points(group=ENTRY_POINTS) if p.name == name]
        if not found:
            more = tuple(p.name for p in entry_points(group=ENTRY_POINTS))
            raise file.error(unknown(what, name, (*table, *more)) + ", or package.module:Class", *at)
        address = found[0].value
    try:
        made = _load_class(address)
    except ConfigError as e:
        raise file.error(str(e), *at) from e
    return _construct(file, made, arguments, *at, name)


def _part(file: RecipeFile, written: object, *at: str | int) -> tuple[str, dict[str, Any]]:
    """`name`, or `{name: {field: value}}`."""
    if isinstance(written, str):
        return written, {}
    if isinstance(written, dict) and len(written) == 1:
        [(name, arguments)] = written.items()
        if isinstance(name, str) and (arguments is None or isinstance(arguments, dict)):
            return name, {str(k): v for k, v in (arguments or {}).items()}
    raise file.error("expected a name, or {name: {field: value, …}}", *at)


def _construct(file: RecipeFile, made: Any, arguments: Mapping[str, Any], *at: str | int) -> Any:
    """The part itself, its fields checked against the types that it declares."""
    known = [n for n in inspect.signature(made).parameters if n != "seeds"]
    hints = typing.get_type_hints(made if dataclasses.is_dataclass(made) else made.__init__)
    checked: dict[str, Any] = {}
    for key, value in arguments.items():
        if key == "seeds":
            checked[key] = value
            continue
        if key not in known:
            raise file.error(unknown("field", key, tuple(known)), *at, key)
        checked[key] = _coerced(file, value, hints.get(key, Any), *at, key)
    try:
        return made(**checked)
    except TypeError as e:
        raise file.error(f"{e}", *at) from e
    except ConfigError as e:
        raise file.error(str(e), *at) from e


def _load_class(address: str) -> Any:
    module, _, name = address.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as e:
        raise ConfigError(f"cannot import {module} for {address} ({e})") from e
    except AttributeError as e:
        raise ConfigError(f"{module} has no {name}") from e


def _coerced(file: RecipeFile, value: object, hint: Any, *at: str | int) -> Any:
    """`value` as the declared type wants it (a list becomes a tuple, an int a float), or an error that says so."""
    fits, found = _fit(value, hint)
    if not fits:
        wanted = getattr(hint, "__name__", str(hint)).replace("typing.", "")
        raise file.error(f"expected {wanted if not typing.get_args(hint) else str(hint)}, found {value!r}", *at)
    return found


def _fit(value: object, hint: Any) -> tuple[bool, Any]:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return next((fit for a in args if (fit := _fit(value, a))[0]), (False, value))
    if origin is typing.Literal:
        return value in args, value
    if origin in (tuple, list, Sequence):
        if not isinstance(value, (list, tuple)):
            return False, value
        fits = [_fit(item, args[0] if args else Any) for item in value]
        return all(ok for ok, _ in fits), tuple(item for _, item in fits)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return True, float(value)
    if hint in (int, float):
        return isinstance(value, hint) and not isinstance(value, bool), value
    if hint in (str, bool):
        return isinstance(value, hint), value
    if hint is type(None):
        return value is None, value
    if hint is Path:
        return isinstance(value, str), Path(value) if isinstance(value, str) else value
    return True, value


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
    close = get_close_matches(name, known, 1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"unknown {what} {name!r}{hint}; there are {', '.join(known)}"


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
