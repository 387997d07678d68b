"""Tags: named by a model, plain, each once, counted, and kept in the record's meta through a run."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from scripted import Scripted, in_turn

from kdaug.errors import ConfigError, ParseError
from kdaug.gates.tags import Tags, plain
from kdaug.generators.pass_through import Pass
from kdaug.progress import Log
from kdaug.recipe import Recipe
from kdaug.record import Drop, Record, user
from kdaug.running import execute
from kdaug.source import Each
from kdaug.stage import Stage
from kdaug.teacher import Request
from kdaug.teachers.fake import Fake

RECORD = Record(prompt=user("Write a poem about the Rhine."), meta={"mine": 1})


def test_they_are_made_alike_and_counted() -> None:
    generate = Scripted(in_turn('["Poetry", "poetry ", "creative-writing", "Köln", "..."]'))
    prepared = asyncio.run(Tags().prepare(RECORD, generate))
    assert prepared.record.meta == {"mine": 1, "tags": ["poetry", "creative writing", "köln"]}
    assert prepared.record.scores == {"tags": 3.0} and prepared.record.id == RECORD.id
    assert Tags().decide(prepared) is None
    assert Tags(min=4).decide(prepared) == Drop("tags:few", {"tags": ["poetry", "creative writing", "köln"], "min": 4})


def test_no_tag_is_a_failure() -> None:
    with pytest.raises(ParseError):
        asyncio.run(Tags().prepare(RECORD, Scripted(in_turn('["?"]'))))
    with pytest.raises(ConfigError):
        Tags(min=0)
    assert plain("C++ / Python_3") == "c python 3"


def test_in_a_run_what_is_no_list_is_a_counted_drop(out: Path) -> None:
    seeds = [Record(prompt=user(f"Name river {n}.")) for n in range(4)]

    def reply(request: Request) -> str:  # the second turn, which says what is wrong, does not help either
        asked = request.messages[0].content
        return "I like rivers." if "river 0" in asked else "3" if "river 1" in asked else '["river", "geography"]'

    outcome = execute(
        Recipe(Each(seeds), [Stage(Pass(), [Tags()])]), out, {"teacher": Fake(reply)}, log=Log(quiet=True)
    )
    assert outcome.facts["stages"][0]["dropped"] == {"parse:schema": 2}
    assert [r.meta["tags"] for r in outcome.dataset.records()] == [["river", "geography"]] * 2
