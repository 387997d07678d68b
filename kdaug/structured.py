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
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from kdaug.errors import ConfigError, shorten
from kdaug.prompts import render
from kdaug.record import Json, Message
from kdaug.sketch import sketch
from kdaug.teacher import Completion, Fit, Request, Schema

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

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
            _ = self._validator
        elif self.kind == "regex":
            try:
                re.compile(self.wanted)
            except re.error as e:
                raise ConfigError(f"schema: {self.wanted!r} is no regular expression: {e}") from e

    def asked(self, request: Request) -> Request:
        """The request with the form in words, at the end of what the user said last."""
        drawn = sketch(self.wanted) if self.kind == "json" else None
        wanted = orjson.dumps(self.wanted).decode() if self.kind == "json" else self.wanted
        words = render("structured/ask", kind=self.kind, wanted=wanted, sketch=drawn)
        messages = list(request.messages)
        at = max((i for i, m in enumerate(messages) if m.role == "user"), default=None)
        if at is None:
            messages.append(Message("user", words))
        elif words:
            messages[at] = replace(messages[at], content=f"{messages[at].content}\n\n{words}")
        return replace(request, messages=tuple(messages))

    def corrected(self, request: Request, reply: Completion) -> Request:
        """The next turn of a request whose reply was wrong: it says what the matter is."""
        words = render("structured/correct", problem=self.read(reply).problem)
        # Several APIs refuse an empty turn.
        turns = (Message("assistant", reply.text.strip() or "(empty)"), Message("user", words))
        return replace(request, messages=request.messages + turns)

    def read(self, reply: Completion) -> Reading:
        """A reply that was cut off is not repaired: its end would be made up."""
        match self.kind:
            case "json":
                return self._read_json(reply.text, reply.cut)
            case "regex":
                return self._read_regex(reply.text)
            case _:
                return self._read_choice(reply.text)

    def _read_json(self, text: str, cut: bool) -> Reading:
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError as e:
            problem = "it breaks off in the middle" if cut else f"it is not one JSON value ({e})"
        else:
            wrong = self.flaw(value)
            return Reading("wrong", problem=wrong) if wrong else Reading("valid", text)
        found: list[str] = []
        for plain in () if cut else _values(text):
            wrong = self.flaw(orjson.loads(plain))
            if not wrong and plain not in found:
                found.append(plain)
            problem = wrong or problem
        if len(found) == 1:
            return Reading("repaired", found[0])
        return Reading("wrong", problem="it holds several JSON values" if found else problem)

    def _read_regex(self, text: str) -> Reading:
        if re.fullmatch(self.wanted, text):
            return Reading("valid", text)
        for bare in (text.strip(), text.strip(EDGES)):
            if re.fullmatch(self.wanted, bare):
                return Reading("repaired", bare)
        return Reading("wrong", problem=f"it does not match {self.wanted} as a whole")

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

    @cached_property
    def _validator(self) -> Validator:
        from jsonschema import Draft202012Validator, SchemaError
        from jsonschema.validators import validator_for
        from referencing import Registry

        kind = validator_for(self.wanted, default=Draft202012Validator)
        try:
            kind.check_schema(self.wanted)
        except SchemaError as e:
            raise ConfigError(f"schema: not a JSON schema: {shorten(e.message)} (at {e.json_path})") from e
        made: Validator = kind(self.wanted, registry=Registry())  # an empty one: a $ref is never fetched
        return made

    def flaw(self, value: Json) -> str | None:
        """What a JSON schema finds wrong with a value, in a line."""
        from jsonschema.exceptions import best_match
        from referencing.exceptions import Unresolvable

        try:
            error = best_match(self._validator.iter_errors(value))
        except (Unresolvable, re.error) as e:
            raise ConfigError(f"schema: cannot be applied: {shorten(str(e))}") from e
        except RecursionError:
            return "it is nested too deeply"
        return None if error is None else f"{shorten(error.message, 300)} (at {error.json_path})"


def form_of(schema: Schema) -> Form:
    """The form that `as_schema` describes. Raises ConfigError where it cannot be kept to."""
    return _form(orjson.dumps(schema))


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
    """A value as JSON: none where no JSON can hold it (an integer of more than 64 bits, half of a letter)."""
    try:
        yield orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        return
