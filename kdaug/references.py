"""References within a JSON document (`$ref`), put in place where a schema is needed that stands by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

MOST = 20_000  # objects and lists of one schema: references that lead twice to the next are few lines and without end
_LITERAL = frozenset({"enum", "const", "default", "example", "examples"})  # values, where $ref is a key as any other
_NAMED = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})
_SAME_VALUE = frozenset({"allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas"})
_ANNOTATIONS = frozenset({"description", "title", "default", "deprecated", "example", "examples", "summary"})


class Unresolved(ValueError):
    """A reference that cannot be put in place; it says why."""


def target(ref: str, document: Any) -> Any:  # Any: JSON
    """What a reference (`#/a/b~1c`) leads to, through others. Raises Unresolved."""
    seen: list[str] = []
    while True:
        if ref in seen:
            raise Unresolved(f"$ref {ref!r} leads round in a circle")
        seen.append(ref)
        found = _at(ref, document)
        if not isinstance(found, Mapping) or len(found) != 1 or not isinstance(found.get("$ref"), str):
            return found
        ref = found["$ref"]


def _at(ref: str, document: Any) -> Any:
    if ref != "#" and not ref.startswith("#/"):
        raise Unresolved(f"$ref {ref!r} leads out of the document")
    found = document
    for step in unquote(ref).split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and step.isdecimal() and int(step) < len(found):
            found = found[int(step)]
        elif isinstance(found, Mapping) and step in found:
            found = found[step]
        else:
            raise Unresolved(f"$ref {ref!r} leads nowhere in the document")
    return found


@dataclass
class Inliner:
    """Puts in place what the references of a schema lead to. `circle` says what stands for one that leads back into
    itself (a tree's node)."""

    document: Any
    circle: Callable[[str], Any]
    _count: int = field(default=0, init=False)

    def __call__(self, schema: Any, within: tuple[str, ...] = (), here: tuple[str, ...] = ()) -> Any:
        """`within`: the references on the way; `here`: those among them that speak of the same value. Raises
        Unresolved."""
        if not isinstance(schema, Mapping | list):
            return schema
        self._count += 1
        if self._count > MOST:
            raise Unresolved(f"the schema has more than {MOST:,} parts when its references are put in place")
        if isinstance(schema, list):
            return [self(one, within, here) for one in schema]
        if isinstance(ref := schema.get("$ref"), str):
            beside = {key: inner for key, inner in schema.items() if key != "$ref"}
            return _joined(self._placed(ref, within, here), self(beside, within, here))
        return {key: self._under(key, inner, within, here) for key, inner in schema.items()}

    def _placed(self, ref: str, within: tuple[str, ...], here: tuple[str, ...]) -> Any:
        if ref in here:
            raise Unresolved(f"$ref {ref!r} leads round in a circle")
        found = target(ref, self.document)
        return self.circle(ref) if ref in within else self(found, (*within, ref), (*here, ref))

    def _under(self, key: str, inner: Any, within: tuple[str, ...], here: tuple[str, ...]) -> Any:
        if key in _LITERAL:
            return inner
        here = here if key in _SAME_VALUE else ()
        if key in _NAMED and isinstance(inner, Mapping):  # its keys are names, not keywords
            return {name: self(one, within, here) for name, one in inner.items()}
        return self(inner, within, here)


def _joined(found: Any, beside: Mapping[str, Any]) -> Any:
    """What a reference leads to, and what stands beside it."""
    if not beside:
        return found
    notes = {key: value for key, value in beside.items() if key in _ANNOTATIONS}
    rest = {key: value for key, value in beside.items() if key not in _ANNOTATIONS}
    if rest or not isinstance(found, Mapping):
        return {"allOf": [found, rest], **notes}
    return {**found, **notes}


def standing_alone(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema that may stand within another one, where its own `#/$defs/…` would lead elsewhere: what leads back into
    itself is open there. One with references that cannot be put in place stays as it is."""

    def open_end(ref: str) -> Any:
        found = target(ref, schema)
        return {"type": found["type"]} if isinstance(found, Mapping) and "type" in found else {}

    try:
        placed = Inliner(schema, open_end)({k: v for k, v in schema.items() if k not in ("$defs", "definitions")})
    except Unresolved:
        return dict(schema)
    found: dict[str, Any] = placed
    return found
