"""Answers against their passages: quotes, citations, numbers and words that are not there are found."""

from __future__ import annotations

import asyncio

import pytest
from scripted import Scripted, in_turn

from kdaug.errors import ConfigError
from kdaug.gates.grounded import Grounded
from kdaug.record import Drop, Json, Record, assistant, user

PASSAGES: Json = [
    "The Orla is a river of 1,240 km. It rises in the Grey Hills and flows north to the sea.",
    {"text": "In 1893 a flood “destroyed nearly every bridge” along the lower Orla, said the engineer A. Brandt."},
]


def drop_of(answer: str, gate: Grounded | None = None, passages: Json = PASSAGES) -> Drop | None:
    gate = gate or Grounded()
    record = Record(
        prompt=user("Tell me of the Orla in 3 lines."), completion=assistant(answer), meta={"passage": passages}
    )
    return gate.decide(asyncio.run(gate.prepare(record, Scripted(in_turn()))))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("The Orla flows north to the sea [1]; a flood destroyed bridges in 1893 [2].", None),
        ("The river is 1240 km long [1, 2].", None),
        ("1. The Orla rises in the Grey Hills.\n2. It flows north.", None),
        ('A flood "Destroyed nearly  EVERY bridge" along the Orla.', None),
        ("„destroyed … every bridge“ along the lower Orla, said the engineer Brandt", None),
        ("Yes.", None),
        ("The Orla flows north [3].", "grounded:citation"),
        ("The Orla flows north [0].", "grounded:citation"),
        ("The Orla flows north [1; 7].", "grounded:citation"),
        ('A flood "destroyed every single bridge" along the Orla.', "grounded:quote"),
        ("“every bridge … destroyed nearly” along the Orla", "grounded:quote"),
        ("«stroyed nearly every bridge» along the Orla", "grounded:quote"),
        ("The river is 1,204 km long.", "grounded:number"),
        ("In 1894 a flood destroyed bridges.", "grounded:number"),
        ("The Orla flows north [2].", "grounded:cited"),
        ("The Orla flows north. [2] It rises in the Grey Hills.", "grounded:cited"),
        ("It flows north [1]. In 1893 a flood destroyed bridges [1].", "grounded:cited"),
        ("There was a flood in 1893 [1, 2]! In 1893 a flood [1-2].", None),
        ("The flood was in 1893. [2] The Orla flows north to the sea.", None),
        ("In 3 lines: 3 [2].", None),
        ("The Orla is famous for salmon fishing, castles, vineyards and music festivals.", "grounded:words"),
    ],
)
def test_what_the_passages_do_not_say_is_found(answer: str, reason: str | None) -> None:
    drop = drop_of(answer)
    assert (drop.reason if drop else None) == reason


def test_fields_say_what_is_looked_at() -> None:
    assert drop_of('"not a word of that" 77 [9]', Grounded(quotes=False, numbers=False, min=0)) == Drop(
        "grounded:citation", {"passages": 2, "cited": 9}
    )
    uncited = drop_of("The Orla flows north.", Grounded(cite=True))
    assert uncited and uncited.reason == "grounded:citation"
    for nothing in (None, [], "", [{"title": "x"}], 7):
        missing = drop_of("The Orla flows north.", passages=nothing)
        assert missing and missing.reason == "grounded:no_passage"
    assert drop_of("It flows north to the sea.", passages="The river flows north to the sea.") is None
    with pytest.raises(ConfigError, match="from 0 to 1"):
        Grounded(min=2)


def test_the_share_of_words_is_a_score() -> None:
    record = Record(prompt=user("?"), completion=assistant("rivers flow purple"), meta={"passage": "a river may flow"})
    prepared = asyncio.run(Grounded(min=0).prepare(record, Scripted(in_turn())))
    assert prepared.record.scores == {"grounded": pytest.approx(2 / 3)}
