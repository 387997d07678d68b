"""A JSON schema as a sketch of the values that it allows: what models are shown, as they copy a schema that they see.

    {"name": string, "age": integer (minimum 0), "tags"?: ["a" | "b", ...]}

SmolLM2-135M, greedy, 8 requests for a person with a name and an age: it kept to the sketch 8 times, to the schema in
six wordings never.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

# Keywords that say nothing of the form, and those that are named behind a value as they stand.
SILENT = frozenset({"$defs", "definitions", "$schema", "$id", "title", "default", "examples", "additionalProperties"})
BOUNDS: tuple[str, ...] = (
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength"),
    *("minItems", "maxItems", "uniqueItems", "pattern", "format"),
)
SHAPES = frozenset(
    {"type", "properties", "required", "items", "enum", "const", "anyOf", "oneOf", "$ref", "description"}
)


class _Beyond(Exception):
    """A schema says what no sketch can."""


def sketch(schema: Mapping[str, Any]) -> str | None:
    """The sketch of a schema; None where one would leave something out (`allOf`, `if`, a schema that holds itself)."""
    try:
        return _sketch(schema, schema, ())
    except _Beyond:
        return None


def _sketch(schema: Any, root: Mapping[str, Any], within: tuple[str, ...]) -> str:
    """`within`: the references that were followed to get here."""
    if not isinstance(schema, Mapping) or schema.keys() - SILENT - SHAPES - {"description", *BOUNDS}:
        raise _Beyond
    if isinstance(schema.get("additionalProperties"), Mapping):  # a dictionary whose values have a form
        raise _Beyond
    told = [f"{name} {_plain(schema[name])}" for name in BOUNDS if name in schema]
    told += [str(schema["description"])] if "description" in schema else []
    return _shape(schema, root, within) + (f" ({', '.join(told)})" if told else "")


def _shape(schema: Mapping[str, Any], root: Mapping[str, Any], within: tuple[str, ...]) -> str:
    if (reference := schema.get("$ref")) is not None:
        if reference in within:
            raise _Beyond
        return _sketch(_found(reference, root), root, (*within, reference))
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " | ".join(_sketch(one, root, within) for one in schema[several])
    if "const" in schema or "enum" in schema:
        return " | ".join(map(_plain, schema.get("enum", [schema.get("const")])))
    kinds = schema.get("type", "object" if "properties" in schema else "any")
    if isinstance(kinds, list):
        return " | ".join(_shape({**schema, "type": kind}, root, within) for kind in kinds)
    if kinds == "array":
        return f"[{_sketch(schema['items'], root, within) if 'items' in schema else 'any'}, ...]"
    if kinds == "object" and "properties" in schema:
        needed = schema.get("required", ())
        fields = (
            f"{_plain(name)}{'' if name in needed else '?'}: {_sketch(inner, root, within)}"
            for name, inner in schema["properties"].items()
        )
        return "{" + ", ".join(fields) + "}"
    return str(kinds)


def _found(reference: str, root: Mapping[str, Any]) -> Any:
    if not reference.startswith("#/"):
        raise _Beyond
    found: Any = root
    for name in reference.split("/")[1:]:
        if not isinstance(found, Mapping) or name not in found:
            raise _Beyond
        found = found[name]
    return found


def _plain(value: Any) -> str:
    return orjson.dumps(value).decode()
