"""Requests: what a reply may be constrained to, in one form."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from kdaug.errors import ConfigError, TeacherError
from kdaug.record import user
from kdaug.teacher import Request, as_schema


class Person(BaseModel):
    name: str


PERSON = {
    "properties": {"name": {"title": "Name", "type": "string"}},
    "required": ["name"],
    "title": "Person",
    "type": "object",
}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        (Person, {"json": PERSON}),
        (PERSON, {"json": PERSON}),
        ({"type": "object"}, {"json": {"type": "object"}}),
        ({"json": PERSON}, {"json": PERSON}),
        ({"regex": "a+"}, {"regex": "a+"}),
        (("yes", "no"), {"choice": ["yes", "no"]}),
        ({"choice": ["yes"]}, {"choice": ["yes"]}),
    ],
)
def test_a_schema_has_one_form(given: Any, expected: Any) -> None:
    assert as_schema(given) == expected


@pytest.mark.parametrize("given", ["a+", 3, [], [1], {"choice": "yes"}, {"regex": 3}, {"json": "object"}])
def test_what_is_no_schema_says_what_one_is(given: Any) -> None:
    with pytest.raises(ConfigError, match="schema="):
        as_schema(given)


def test_who_pays_is_no_part_of_what_is_asked() -> None:
    async def count(request: Request, failed: TeacherError | None = None) -> None: ...

    plain, counted = Request(user("Hi.")), Request(user("Hi."), nonce=3, again=count)
    assert plain == counted
    assert plain.digest("m") == counted.digest("m")
