"""Replies to a schema: what is valid, mended, corrected or a drop, with every kind of teacher."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import orjson
import pytest
from pydantic import BaseModel
from servers.run import FakeOpenAI

from kdaug.errors import ConfigError, ParseError
from kdaug.generator import Generate
from kdaug.progress import Log
from kdaug.recipe import Recipe
from kdaug.record import Message, Record, assistant, user
from kdaug.running import Outcome, execute
from kdaug.show import Story
from kdaug.source import Each
from kdaug.stage import Stage
from kdaug.structured import form_of
from kdaug.teacher import Completion, Request, Schema, Teacher, as_schema
from kdaug.teachers.fake import Fake
from kdaug.teachers.local import Local
from kdaug.teachers.openai import OpenAI


class Person(BaseModel):
    name: str
    age: int


PERSON = as_schema(Person)
ADA = '{"name":"Ada","age":36}'
assert PERSON is not None


def read(schema: Schema, text: str, *, cut: bool = False) -> tuple[str, str]:
    reading = asyncio.run(form_of(schema).read(Completion(text, finish_reason="length" if cut else "stop")))
    return reading.fit, reading.text


@pytest.mark.parametrize(
    "text",
    [
        f"```json\n{ADA}\n```",
        f"Sure! Here is the JSON:\n\n```\n{ADA}\n```\nLet me know if you need more.",
        f"{{}} will not do, so: {ADA}",
        "{'name': 'Ada', 'age': 36}",
        '{"name": "Ada", "age": 36,}',
        '{name: "Ada", "age": 36',
        '// a person\n{"name": "Ada", /* about */ "age": 36}',
        f"{ADA}\n{ADA}",
    ],
)
def test_json_is_mended(text: str) -> None:
    assert read(PERSON, text) == ("repaired", ADA)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Ada is 36.",
        '{"name": "Ada"}',
        '{"name": "Ada", "age": "old"}',
        '{"name": "Ada", "age": 36} or {"name": "Ada", "age": 37}',
        '{"friend": {"name": "Ada", "age": 36}, "name": ]',  # a part of it would be valid
        '{"name": "Ada", "age": 1e999}',
        "[" * 5000,
    ],
)
def test_what_is_not_in_it_is_not_made_up(text: str) -> None:
    assert read(PERSON, text)[0] == "wrong"


@pytest.mark.parametrize("text", ["[NaN]", "So: [NaN]", "[-Infinity]", "So: [1e999]"])
def test_what_json_cannot_hold_is_not_made_a_null(text: str) -> None:
    assert read({"json": {"items": {"type": ["number", "null"]}}}, text)[0] == "wrong"


def test_valid_json_stays_word_for_word() -> None:
    text = '\n{"name": "Ada",\n "age": 36}'
    assert read(PERSON, text) == ("valid", text)


def test_a_reply_that_was_cut_off_gets_no_invented_end() -> None:
    assert read(PERSON, '{"age": 36, "name": "Ada Love') == ("repaired", '{"age":36,"name":"Ada Love"}')
    assert read(PERSON, '{"age": 36, "name": "Ada Love', cut=True)[0] == "wrong"
    assert read(PERSON, ADA, cut=True)[0] == "valid"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("good", ("valid", "good")),
        ("**Good.**", ("repaired", "good")),
        ("I would say it is very good.", ("repaired", "very good")),
        ("Neither good nor bad", ("wrong", "")),
        ("goodness", ("wrong", "")),
        ("", ("wrong", "")),
    ],
)
def test_a_choice_is_found_where_it_alone_is_named(text: str, expected: tuple[str, str]) -> None:
    assert read({"choice": ["good", "very good", "bad"]}, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1984", ("valid", "1984")),
        (' "1984"\n', ("repaired", "1984")),
        ("in 1984", ("wrong", "")),
        ("198", ("wrong", "")),
    ],
)
def test_a_regex_matches_the_whole(text: str, expected: tuple[str, str]) -> None:
    assert read({"regex": "[0-9]{4}"}, text) == expected


@pytest.mark.parametrize("schema", [{"regex": "[("}, {"json": {"type": "thing"}}, {"json": {"properties": 4}}])
def test_what_is_no_schema_is_said_before_any_call(schema: Schema) -> None:
    with pytest.raises(ConfigError, match="schema: "):
        form_of(schema)


def test_a_reference_is_never_fetched() -> None:
    with pytest.raises(ConfigError, match="schema: "):
        read({"json": {"$ref": "http://127.0.0.1:1/schema"}}, "{}")


def test_the_form_is_told_where_the_user_spoke_last() -> None:
    talk = (Message("system", "Be brief."), Message("user", "Who?"), Message("assistant", "Ada"))
    asked = form_of({"choice": ["yes", "no"]}).asked(Request(talk))
    assert [m.role for m in asked.messages] == ["system", "user", "assistant"]
    assert asked.messages[1].content.startswith("Who?\n\n")
    assert asked.messages[1].content.endswith(": yes / no")


# -- through a run -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Introduce:
    """Asks for a reply of a form, and makes a record of it."""

    schema: Any = field(default_factory=lambda: PERSON)
    max_tokens: int = 1024
    name: ClassVar[str] = "introduce"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    async def __call__(self, parents: Sequence[Record], generate: Generate, rng: Random) -> list[Record]:
        (parent,) = parents
        reply = await generate(parent.prompt, schema=self.schema, temperature=0.0, max_tokens=self.max_tokens)
        return [parent.child(by=self.name, completion=assistant(reply.text), replies=[reply])]


def go(out: Path, teacher: Teacher, *prompts: str, schema: Any = PERSON, max_tokens: int = 1024) -> Outcome:
    seeds = [Record(prompt=user(p)) for p in prompts]
    recipe = Recipe(Each(seeds), [Stage(Introduce(schema, max_tokens))], max_failure_rate=1.0)
    outcome = execute(recipe, out, {"teacher": teacher}, log=Log(quiet=True))
    assert outcome.error is None, outcome.error
    return outcome


def answers(outcome: Outcome) -> dict[str, str]:
    return {r.prompt[0].content: r.completion[0].content for r in outcome.dataset.records() if r.completion}


def moody(request: Request) -> str | Completion:
    """Does at first what the prompt's first word says, and then as it is told."""
    if len(request.messages) > 1:
        assert request.messages[1].role == "assistant"
        assert "Write it again" in request.messages[2].content
        return ADA if request.messages[0].content.startswith("corrected") else "I will not."
    match request.messages[0].content.split()[0]:
        case "valid":
            return ADA
        case "repaired":
            return f"Here: {ADA}"
        case "cut":
            return Completion('{"name": "Ad', finish_reason="length")
    return '{"name": "Ada"}'


def test_every_path_is_counted_and_kept(out: Path) -> None:
    teacher = Fake(moody, name="openai:moody")
    outcome = go(out, teacher, "valid 1", "valid 2", "repaired", "corrected", "wrong", "cut")
    assert answers(outcome) == dict.fromkeys(("valid 1", "valid 2", "repaired", "corrected"), ADA)
    assert outcome.facts["stages"][0]["dropped"] == {"parse:schema": 2}
    assert outcome.facts["forms"] == {"openai:moody": {"valid": 2, "repaired": 1, "corrected": 1, "failed": 2}}
    assert len(teacher.calls) == 8  # one turn more for the corrected and the wrong, none for what was cut off
    assert "openai:moody: of 6 replies to a schema 2 valid, 1 repaired, 1 corrected, 2 failed" in Story(out).funnel()
    assert "| `openai:moody` | 2 | 1 | 1 | 2 |" in (out / "dataset" / "README.md").read_text("utf-8")
    with sqlite3.connect(out / "journal.sqlite") as journal:  # the replies word for word
        texts = [orjson.loads(reply)["text"] for (reply,) in journal.execute("SELECT reply FROM replies")]
    assert sorted(texts) == sorted(
        [ADA] * 3 + [f"Here: {ADA}", "I will not.", '{"name": "Ad'] + ['{"name": "Ada"}'] * 2
    )


def test_a_resumed_run_asks_neither_turn_again(out: Path) -> None:
    first = go(out, Fake(moody), "repaired", "corrected", "wrong")
    with sqlite3.connect(out / "journal.sqlite") as journal:
        journal.execute("DELETE FROM commits")
        journal.execute("DELETE FROM replies WHERE CAST(reply AS TEXT) LIKE '%I will not%'")  # as a kill leaves it
    again = Fake(moody)
    assert answers(go(out, again, "repaired", "corrected", "wrong")) == answers(first)
    assert [len(request.messages) for request in again.calls] == [3]


def test_a_pydantic_model_is_read_back() -> None:
    reply = Completion(ADA)
    assert Person.model_validate(reply.parsed) == Person(name="Ada", age=36)
    with pytest.raises(ParseError):
        _ = Completion("Ada").parsed


@pytest.fixture(scope="module")
def server() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as server:
        yield server


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (Person, lambda text: Person.model_validate_json(text)),
        (["yes", "no"], "yes".__eq__),
        ({"regex": "[0-9]{4}"}, "1984".__eq__),
    ],
)
def test_an_endpoint_that_constrains_is_told_the_schema(
    server: FakeOpenAI, out: Path, schema: Any, expected: Callable[[str], Any]
) -> None:
    server.configure(schemas="keep")
    outcome = go(out, OpenAI("m", base_url=server.url), "a", "b", schema=schema)
    assert all(expected(text) for text in answers(outcome).values())
    assert outcome.facts["forms"] == {"openai:m": {"valid": 2, "repaired": 0, "corrected": 0, "failed": 0}}


def test_an_endpoint_that_refuses_a_schema_is_asked_without(server: FakeOpenAI, out: Path) -> None:
    server.configure(schemas="refuse")
    outcome = go(out, OpenAI("m", base_url=server.url), *"abc")
    assert outcome.facts["stages"][0]["dropped"] == {"parse:schema": 3}
    outcomes = server.stats()["outcomes"]
    assert outcomes == {"schema": 1, "ok": 6}  # refused once, then two turns each


@pytest.mark.slow
def test_a_small_local_model_picks_and_fills(out: Path) -> None:
    """Nothing constrains it but the words; 135M parameters follow those of the shipped templates."""
    teacher = Local(dtype="float32")  # as on any machine
    questions = ("Is the sky blue?", "Is ice hot?", "Is two more than one?", "Is a stone alive?")
    outcome = go(out / "choice", teacher, *questions, schema=["yes", "no"], max_tokens=32)
    assert list(answers(outcome)) == list(questions)
    assert set(answers(outcome).values()) <= {"yes", "no"}
    outcome = go(out / "json", teacher, "Invent a person.", "Invent a child.", schema=Person, max_tokens=128)
    assert all(Person.model_validate_json(text).name for text in answers(outcome).values())
    assert len(answers(outcome)) == 2
