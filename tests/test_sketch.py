"""JSON schemas as models are shown them."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from kdaug.sketch import sketch


class Tag(BaseModel):
    label: Literal["a", "b"]


class Person(BaseModel):
    name: str
    age: int = Field(ge=0, description="in years")
    tags: list[Tag] = []
    note: str | None = None


class Tree(BaseModel):
    kids: list[Tree] = []


def test_a_pydantic_model_is_drawn_whole() -> None:
    assert sketch(Person.model_json_schema()) == (
        '{"name": string, "age": integer (minimum 0, in years), "tags"?: [{"label": "a" | "b"}, ...], '
        '"note"?: string | null}'
    )


@pytest.mark.parametrize(
    ("schema", "drawn"),
    [
        ({"type": "array", "items": {"type": "number"}, "minItems": 2}, "[number, ...] (minItems 2)"),
        ({"type": ["string", "null"], "maxLength": 9}, "string | null (maxLength 9)"),
        ({"enum": ["x", 1, None]}, '"x" | 1 | null'),
        ({"const": {"a": 1}}, '{"a":1}'),
        ({"properties": {"a": {}}}, '{"a"?: any}'),
    ],
)
def test_what_is_drawn(schema: dict[str, Any], drawn: str) -> None:
    assert sketch(schema) == drawn


@pytest.mark.parametrize(
    "schema",
    [
        Tree.model_json_schema(),
        {"allOf": [{"type": "object"}]},
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {"properties": {"a": {"not": {"type": "null"}}}},
        {"$ref": "http://127.0.0.1/schema"},
        {"$ref": "#/$defs/Gone"},
    ],
)
def test_what_a_sketch_would_leave_out_is_not_drawn(schema: dict[str, Any]) -> None:
    assert sketch(schema) is None
