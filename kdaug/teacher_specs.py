"""Teachers as `kind:model?key=value` strings."""

from __future__ import annotations

import inspect
import typing
from typing import Any
from urllib.parse import parse_qsl

import yaml

from kdaug.address import load_class
from kdaug.coercion import coerced
from kdaug.errors import ConfigError
from kdaug.plain_yaml import plain_yaml
from kdaug.recipe_file import RecipeFile, unknown
from kdaug.teacher import Teacher

TEACHERS = {
    "openai": "kdaug.teachers.openai:OpenAI",
    "vllm": "kdaug.teachers.vllm:VLLM",
    "serve": "kdaug.teachers.serve:Serve",
    "local": "kdaug.teachers.local:Local",
    "batch": "kdaug.teachers.batch:Batch",
    "langchain": "kdaug.teachers.langchain:LangChain",
    "replay": "kdaug.teachers.replay:Replay",
    "fake": "kdaug.teachers.fake:WhiteBoxFake",
    "route": "kdaug.teachers.route:Route",
}


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
    made = load_class(TEACHERS[kind])
    if kind == "route":
        route: Teacher = made([teacher(one) for one in spec.partition(":")[2].split("|")])
        return route
    known = inspect.signature(made).parameters
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
    hints = typing.get_type_hints(made.__init__)
    arguments: dict[str, Any] = {}
    if "&" in model or "&" in kind:
        raise ConfigError(f"teacher {spec!r}: the keys stand behind a ?, as in {kind}:MODEL?rpm=500&concurrency=64")
    for key, text in parse_qsl(query, keep_blank_values=True):
        if not text or key in arguments:
            raise ConfigError(f"teacher {spec!r}: {key} {'stands twice' if text else 'has no value'}")
        if key not in known and not open_ended:
            names = tuple(n for n in known if n not in ("model", "folder", "chat", "reply"))
            raise ConfigError(f"teacher {spec!r}: {unknown('key', key, names)}")
        file = RecipeFile(f"teacher {spec!r}", {})
        try:
            value = text if hints.get(key) in (str, str | None) else plain_yaml(text)
        except yaml.YAMLError as e:
            raise ConfigError(f"teacher {spec!r}: {key}={text} is no value (YAML: {str(e).splitlines()[0]})") from e
        arguments[key] = coerced(file, value, hints.get(key, Any), key)
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
