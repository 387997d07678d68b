"""A gate for answers that must be JSON of a given form."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import orjson

from kdaug.errors import ConfigError
from kdaug.gate import Gate, Prepared
from kdaug.generator import Generate
from kdaug.record import Drop, Json, Record, text_of
from kdaug.schemas import SLOW
from kdaug.structured import form_of
from kdaug.teacher import Until

SHOWN = 20  # characters of what is no JSON


@dataclass(frozen=True)
class JsonSchema(Gate):
    """Drops records whose answer is not JSON, and nothing but JSON, valid under a JSON schema.

    The schema is the record's own, in `meta[meta]` (an object, or its JSON text), or else `schema`. Reasons:
    `json_schema:invalid` with what is wrong, `json_schema:duplicate_key` (JSON leaves open which of the values counts,
    so readers differ), `json_schema:timeout` where a schema with a regular expression takes too long,
    `json_schema:no_schema`, and `json_schema:bad_schema` for a record's own that is none.
    """

    schema: Mapping[str, Any] = field(default_factory=dict)  # Any: JSON
    meta: str = "schema"

    name: ClassVar[str] = "json_schema"

    def __post_init__(self) -> None:
        if self.schema:
            form_of({"json": dict(self.schema)})

    async def prepare(self, record: Record, generate: Generate) -> Prepared:
        return Prepared(record, await self._flaw(record, generate.until))

    async def _flaw(self, record: Record, until: Until) -> Drop | None:
        own = record.meta.get(self.meta)
        schema = _object(own) or dict(self.schema)
        if not schema:
            if own is None or own == {}:
                return Drop("json_schema:no_schema")
            return Drop("json_schema:bad_schema", {"problem": f"meta.{self.meta} is no JSON object"})
        text = text_of(record.completion)
        try:
            wrong = await form_of({"json": schema}).flaw(orjson.loads(text), until)
        except orjson.JSONDecodeError as e:
            there = f", at {text[e.pos : e.pos + SHOWN]!r}" if e.pos < len(text) else ""
            return Drop("json_schema:invalid", {"problem": f"it is not one JSON value ({e}{there})"})
        except ConfigError as e:
            return Drop("json_schema:bad_schema", {"problem": str(e)})
        if wrong is None:
            return _duplicate_key(text)
        return Drop("json_schema:timeout" if wrong == SLOW else "json_schema:invalid", {"problem": wrong})


def _object(own: Json) -> dict[str, Json] | None:
    """A schema as an object or as its JSON text; many file formats have no objects of any form."""
    if isinstance(own, str):
        try:
            own = orjson.loads(own)
        except orjson.JSONDecodeError:
            return None
    return own if isinstance(own, dict) else None


def _duplicate_key(text: str) -> Drop | None:
    try:
        problem = duplicate_key(text)
    except RecursionError:
        return Drop("json_schema:invalid", {"problem": "it is nested too deeply"})
    return Drop("json_schema:duplicate_key", {"problem": problem}) if problem else None


def duplicate_key(text: str) -> str | None:
    """Which key of a JSON text stands twice in an object, in a line. Raises RecursionError."""
    try:
        _STRICT.decode(text)
    except _Twice as e:
        return f"the key {e.key!r} stands more than once in an object"
    return None


class _Twice(Exception):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _with_each_key_once(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    known = dict(pairs)
    if len(known) < len(pairs):
        raise _Twice(Counter(key for key, _ in pairs).most_common(1)[0][0])
    return known


_STRICT = json.JSONDecoder(object_pairs_hook=_with_each_key_once)
