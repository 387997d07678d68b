"""Replies of a wanted form: asked for in words, read with a mild repair, and corrected once.

The form is told in words (templates/prompts/structured/) to every teacher, also to one that holds its replies to a
schema by itself: it cannot show its model what the fields are for, and there are endpoints that take a
`response_format` and ignore it. A teacher that cannot constrain its replies ignores the schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import orjson

from kdaug import schemas
from kdaug.errors import ConfigError
from kdaug.prompts import render
from kdaug.record import Json, Message
from kdaug.sketch import sketch
from kdaug.teacher import Completion, Fit, Request, Schema, Until, patiently

START = re.compile(r"[\[{]")
EDGES = " \t\r\n\"'`*.!"  # what models put round a choice


class Reading(NamedTuple):
    """What a reply comes to: `text` in the wanted form, or the `problem` where it is wrong."""

    fit: Fit
    text: str = ""
    problem: str = ""


@dataclass(frozen=True, eq=False)
class Form:
    """The form of a reply: a JSON schema, a regular expression or a choice. Raises ConfigError for one that is none."""

    kind: str
    wanted: Any  # a JSON value that fits the kind

    def __post_init__(self) -> None:
        if self.kind == "json":
            schemas.validator(self._schema)
        elif self.kind == "regex":
            try:
                re.compile(self.wanted)
            except (re.error, RecursionError, OverflowError) as e:
                raise ConfigError(f"schema: {self.wanted!r} is no regular expression: {e}") from e

    def asked(self, request: Request) -> Request:
        """The request with the form in words, at the end of what the user said last."""
        drawn = sketch(self.wanted) if self.kind == "json" else None
        wanted = self._schema if self.kind == "json" else self.wanted
        words = render("structured/ask", kind=self.kind, wanted=wanted, sketch=drawn)
        messages = list(request.messages)
        at = max((i for i, m in enumerate(messages) if m.role == "user"), default=None)
        if at is None:
            messages.append(Message("user", words))
        elif words:
            messages[at] = replace(messages[at], content=f"{messages[at].content}\n\n{words}")
        return replace(request, messages=tuple(messages))

    async def corrected(self, request: Request, reply: Completion) -> Request:
        """The next turn of a request whose reply was wrong: it says what the matter is."""
        words = render("structured/correct", problem=(await self.read(reply)).problem)
        # Several APIs refuse an empty turn.
        turns = (Message("assistant", reply.text.strip() or "(empty)"), Message("user", words))
        return replace(request, messages=request.messages + turns)

    async def read(self, reply: Completion) -> Reading:
        """A reply that was cut off is not repaired: its end would be made up."""
        match self.kind:
            case "json":
                return await self._read_json(reply.text, reply.cut)
            case "regex":
                return await self._read_regex(reply.text)
            case _:
                return self._read_choice(reply.text)

    async def _read_json(self, text: str, cut: bool) -> Reading:
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError as e:
            problem = "it breaks off in the middle" if cut else f"it is not one JSON value ({e})"
        else:
            wrong = await self.flaw(value)
            return Reading("wrong", problem=wrong) if wrong else Reading("valid", text)
        found: list[str] = []
        for plain in () if cut else _values(text):
            wrong = await self.flaw(orjson.loads(plain))
            if not wrong and plain not in found:
                found.append(plain)
            problem = wrong or problem
        if len(found) == 1:
            return Reading("repaired", found[0])
        return Reading("wrong", problem="it holds several JSON values" if found else problem)

    async def _read_regex(self, text: str) -> Reading:
        given = (text, text.strip(), text.strip(EDGES))
        match = await schemas.matching(self.wanted, given)
        if match is None:
            return Reading("wrong", problem=schemas.SLOW)
        if True not in match:
            return Reading("wrong", problem=f"it does not match {self.wanted} as a whole")
        return Reading("valid" if match[0] else "repaired", given[match.index(True)])

    def _read_choice(self, text: str) -> Reading:
        if text in self.wanted:
            return Reading("valid", text)
        bare = {option.strip(EDGES).casefold(): option for option in self.wanted}
        if (option := bare.get(text.strip(EDGES).casefold())) is not None:
            return Reading("repaired", option)
        # The longest first, so that "very good" is not taken for "good".
        longest = sorted((re.escape(option) for option in bare if option), key=len, reverse=True)
        named = set(re.findall(rf"(?<!\w)(?:{'|'.join(longest)})(?!\w)", text.casefold())) if longest else set()
        if len(named) == 1:
            return Reading("repaired", bare[named.pop()])
        return Reading("wrong", problem=f"it {'names several' if named else 'is none'} of the given choices")

    async def flaw(self, value: Json, until: Until = patiently) -> str | None:
        """What a JSON schema finds wrong with a value, in a line; `kdaug.schemas.SLOW` where that is not told within
        its limits."""
        return await schemas.flaw(self._schema, value, until)

    @cached_property
    def _schema(self) -> str:
        return orjson.dumps(self.wanted).decode()


def form_of(schema: Schema) -> Form:
    """The form that `as_schema` describes. Raises ConfigError where it cannot be kept to."""
    try:
        return _form(orjson.dumps(schema))
    except orjson.JSONEncodeError as e:
        raise ConfigError(f"schema: cannot be written as JSON: {e}") from e


@lru_cache(maxsize=256)
def _form(body: bytes) -> Form:
    ((kind, wanted),) = orjson.loads(body).items()
    return Form(kind, wanted)


def _values(text: str) -> Iterator[str]:
    """The objects and lists in a text, as JSON; where the first is not whole, what `json_repair` makes of it.

    Nothing is looked for within one that is not whole: its parts are not what was asked for.
    """
    decoder, at, count = json.JSONDecoder(), 0, 0
    while start := START.search(text, at):
        try:
            value, at = decoder.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            break
        count += 1
        yield from _plain(value)
    if start and not count:
        import json_repair

        try:
            value = json_repair.loads(text[start.start() :], skip_json_loads=True)
        except (ValueError, RecursionError):
            return
        if isinstance(value, dict | list):
            yield from _plain(value)


def _plain(value: Any) -> Iterator[str]:
    """A value as JSON: none where no JSON can hold it (NaN, an integer of more than 64 bits, half of a letter)."""
    try:
        json.dumps(value, allow_nan=False)  # orjson would make a null of NaN
        yield orjson.dumps(value).decode()
    except (ValueError, RecursionError, orjson.JSONEncodeError):
        return
