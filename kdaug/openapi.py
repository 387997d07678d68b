"""OpenAPI documents (3.1, 3.0, Swagger 2): each operation as a tool, with the JSON schema of its arguments.

An operation that cannot be told whole is not told at all: no argument is lost on the way.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from kdaug.references import Inliner, Unresolved, target

BODY = "body"
_VERBS = ("get", "put", "post", "delete", "patch", "head", "options", "trace")
_NOT_SCHEMA = ("name", "in", "required", "description", "allowEmptyValue", "collectionFormat", "schema", "content")
_IGNORED = ("accept", "content-type", "authorization")  # headers that the specification leaves to others
_OPENAPI_ONLY = ("nullable", "x-nullable", "discriminator", "xml", "externalDocs")
# What may stand in an object whose fields become arguments of the tool.
_FLAT = frozenset(
    ("type", "properties", "required", "title", "description", "example", "examples", "default", "deprecated")
)


class Place(NamedTuple):
    """An operation in its document."""

    verb: str
    path: str
    item: Mapping[str, Any]
    operation: Mapping[str, Any]

    def __str__(self) -> str:
        told = self.operation.get("operationId")
        return f"{self.verb.upper()} {self.path}" + (f" ({told})" if told else "")

    @property
    def name(self) -> str:
        """As APIs of function calls take it: letters, digits, _ and -, 64 at most."""
        told = re.sub(r"[^A-Za-z0-9_-]", "_", str(self.operation.get("operationId") or ""))
        plain = told or re.sub(r"[^A-Za-z0-9]+", "_", f"{self.verb} {self.path}").strip("_")
        return (plain if plain[0].isalpha() or plain[0] == "_" else f"_{plain}")[:64]

    @property
    def description(self) -> str:
        return str(self.operation.get("description") or self.operation.get("summary") or "")


def places(document: Mapping[str, Any]) -> Iterator[Place]:
    """Raises Unresolved for a path that cannot be read."""
    for path, item in document["paths"].items():
        item = _mapping(_there(item, document), f"the path {path}")
        for verb in _VERBS:
            if verb in item:
                yield Place(verb, path, item, _mapping(item[verb], f"{verb.upper()} {path}"))


def arguments(place: Place, document: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON schema of an operation's arguments: its parameters, and the fields of its body where that is a plain
    object; any other body, and one with a field of a parameter's name, is one argument, `body`. Raises Unresolved for
    an operation that cannot be told so."""
    reader = _Reader(document)
    fields, required = {}, []
    parameters = reader.parameters(place)
    for (where, name), one in parameters.items():
        if where == BODY or (where == "header" and name.lower() in _IGNORED):
            continue
        if name in fields:
            raise Unresolved(f"it has two parameters of the name {name!r}")
        fields[name] = reader.parameter(one)
        required += [name] * (one.get("required") is True or where == "path")
    told: dict[str, Any] = {"type": "object", "properties": fields, "required": required}
    if (body := reader.body(place, parameters)) is not None:
        _add(told, body, needed=reader.needed)
    return {**told, "$defs": reader.defs} if reader.defs else told


def _add(told: dict[str, Any], body: Any, *, needed: bool) -> None:
    """Adds a body to a schema of arguments."""
    fields, required, flat = told["properties"], told["required"], _flat(body)
    if flat is None or flat["properties"].keys() & fields.keys():
        if BODY in fields:
            raise Unresolved(f"it has a body, and a parameter of the name {BODY!r}")
        fields[BODY] = body
        required += [BODY] * needed
        return
    fields |= flat["properties"]
    if needed:
        required += flat["required"]
    elif flat["required"]:  # a body may be left out, but not a part of what it needs
        told["dependentRequired"] = dict.fromkeys(flat["properties"], flat["required"])


def _flat(schema: Any) -> dict[str, Any] | None:
    """The fields of an object, `allOf` merged; None where the fields alone would not say all."""
    if not isinstance(schema, Mapping) or schema.get("type", "object") != "object":
        return None
    parts = schema.get("allOf", [])
    open_ended = schema.get("additionalProperties", False) is not False or (parts and "additionalProperties" in schema)
    if open_ended or schema.keys() - _FLAT - {"allOf", "additionalProperties"}:
        return None
    fields, required = dict(schema.get("properties", {})), [*schema.get("required", ())]
    for part in parts:
        inner = None if "additionalProperties" in part and len(parts) > 1 else _flat(part)
        if inner is None:
            return None
        for name, told in inner["properties"].items():
            fields[name] = told if fields.get(name, told) == told else {"allOf": [fields[name], told]}
        required += inner["required"]
    required = list(dict.fromkeys(required))
    return {"properties": fields, "required": required} if fields and {*required} <= fields.keys() else None


class _Reader:
    """The schemas of one operation, as JSON schema has them. `defs`: those that lead back into themselves; `needed`:
    whether the body is, as it is unless it says otherwise."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document, self._names = document, dict[str, str]()
        self._place = Inliner(document, self._circle)
        self.defs: dict[str, Any] = {}
        self.needed = True

    def parameters(self, place: Place) -> dict[tuple[str, str], Mapping[str, Any]]:
        """By place and name: those of an operation go before those of its path."""
        found = {}
        for one in (*_listed(place.item, "parameters"), *_listed(place.operation, "parameters")):
            one = _mapping(_there(one, self._document), "a parameter")
            if not isinstance(one.get("name"), str) or not isinstance(one.get("in"), str):
                raise Unresolved(f"a parameter has no name, or no place: {dict(one)}")
            found[(one["in"], BODY if one["in"] == BODY else one["name"])] = one
        return found

    def parameter(self, one: Mapping[str, Any]) -> Any:
        if "schema" in one:
            told = one["schema"]
        elif "content" in one:
            told = _media(one, f"the parameter {one['name']!r}")
        else:  # Swagger 2
            told = {key: value for key, value in one.items() if key not in _NOT_SCHEMA and not key.startswith("x-")}
            told |= {"nullable": True} if one.get("x-nullable") is True else {}
            told |= {"type": "string", "format": "binary"} if told.get("type") == "file" else {}
        told = self.schema(told)
        return {**told, "description": one["description"]} if "description" in one and isinstance(told, dict) else told

    def body(self, place: Place, parameters: Mapping[tuple[str, str], Mapping[str, Any]]) -> Any:
        """The schema of the body; None where there is none."""
        if "requestBody" in place.operation:
            one = _mapping(_there(place.operation["requestBody"], self._document), "the requestBody")
            told = _media(one, "the requestBody") if one.get("content") else None
        else:
            one = parameters.get((BODY, BODY), {})
            told = one.get("schema", {}) if one else None
        self.needed = one.get("required") is not False
        return None if told is None else self.schema(told)

    def schema(self, told: Any) -> Any:
        return _translated(self._place(told))

    def _circle(self, ref: str) -> Any:
        if ref not in self._names:
            last = re.sub(r"\W", "_", ref.rpartition("/")[2]) or "root"
            name = last if last not in self._names.values() else f"{last}_{len(self._names)}"
            self._names[ref] = name
            self.defs[name] = _translated(self._place(target(ref, self._document), (ref,), (ref,)))
        return {"$ref": f"#/$defs/{self._names[ref]}"}


def _media(one: Mapping[str, Any], what: str) -> Any:
    """The schema of the content that is written most easily: JSON, a form, whatever else there is."""
    content = _mapping(one["content"], f"the content of {what}")
    kinds = sorted(content, key=_rank)
    if not kinds:
        raise Unresolved(f"{what} has no content")
    return _mapping(content[kinds[0]], f"the content of {what}").get("schema", {})


def _rank(media: str) -> int:
    """A stable sort by it keeps the document's order."""
    bare = media.partition(";")[0].strip().lower()
    if bare == "application/json":
        return 0
    if bare.endswith(("+json", "/json")):
        return 1
    return 2 if bare in ("application/x-www-form-urlencoded", "multipart/form-data") else 3


def _translated(schema: Any) -> Any:
    """What OpenAPI 3.0 says in its own way, as JSON schema says it."""
    if isinstance(schema, list):
        return [_translated(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    told = {key: _translated_under(key, inner) for key, inner in schema.items() if key not in _OPENAPI_ONLY}
    for bound, limit in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(told.get(bound), bool) and told.pop(bound) and limit in told:
            told[bound] = told.pop(limit)
    return _nullable(told) if True in (schema.get("nullable"), schema.get("x-nullable")) else told


def _translated_under(key: str, inner: Any) -> Any:
    if key in ("enum", "const", "default", "example", "examples", "required"):
        return inner
    if key in ("properties", "patternProperties") and isinstance(inner, Mapping):
        return {name: _translated(one) for name, one in inner.items()}
    return _translated(inner)


def _nullable(told: dict[str, Any]) -> dict[str, Any]:
    if isinstance(told.get("type"), str) and not told.keys() & {"allOf", "anyOf", "oneOf", "not", "const", "$ref"}:
        options = {"enum": [*told["enum"], None]} if "enum" in told and None not in told["enum"] else {}
        return {**told, "type": [told["type"], "null"], **options}
    notes: dict[str, Any] = {key: told.pop(key) for key in ("description", "title", "default") if key in told}
    return {"anyOf": [told, {"type": "null"}], **notes}


def _there(value: Any, document: Mapping[str, Any]) -> Any:
    """A parameter, a body or a path, itself or where its `$ref` leads."""
    ref = value.get("$ref") if isinstance(value, Mapping) else None
    return target(ref, document) if isinstance(ref, str) else value


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise Unresolved(f"{what} is no object")
    return value


def _listed(one: Mapping[str, Any], key: str) -> Sequence[Any]:
    found = one.get(key, [])
    if not isinstance(found, list):
        raise Unresolved(f"{key} is no list")
    return found
