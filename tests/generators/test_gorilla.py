"""Gorilla: calls are compared as trees, instructions name no API, and documentation may be another's."""

from __future__ import annotations

import asyncio
import json
from random import Random
from typing import Any

import pytest
from scripted import Scripted, in_turn

from kdaug.api_calls import verdict_of
from kdaug.errors import ConfigError, ParseError
from kdaug.gate import Prepared
from kdaug.gates.api_call import ApiCall
from kdaug.generators.gorilla import Gorilla
from kdaug.record import Discarded, Record, assistant, text_of, user

KNOWN = ("load('x', pretrained=True)", "load('y', size=2)")


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ('m = load("x", pretrained=True)', "match"),
        ("load('x', device='cpu', pretrained=True)", "match"),
        ("load('x', 3, pretrained=True)", "match"),
        ("print(wrap(load('x', pretrained=True)).eval())", "match"),
        ("load('z', pretrained=True)", "hallucination"),
        ("load('y', pretrained=True)", "wrong"),
        ("load('x')", "wrong"),
        ("load('x', pretrained=False)", "wrong"),
        ("hub.load('x', pretrained=True)", "hallucination"),
        ("x = 3", "hallucination"),
        ("load('x', pretrained=True", "syntax"),
    ],
)
def test_trees(code: str, verdict: str) -> None:
    assert verdict_of(code, KNOWN[0], KNOWN) == verdict


def test_keywords_have_no_order() -> None:
    assert verdict_of("f(b=[1, 2], a='t')", "f(a='t', b=[1,2])", ()) == "match"
    with pytest.raises(ValueError, match="no call"):
        verdict_of("f()", "f", ())


API = Record(
    prompt=user("Finds boxes."),
    completion=assistant("hub.load('vision/box', pretrained=True)"),
    meta={"domain": "image"},
)
OTHER = Record(prompt=user("Translates."), completion=assistant("pipeline('de-en')"))


def make(*instructions: str, **how: Any) -> list[Any]:
    items = [{"instruction": text, "explanation": "It does."} for text in instructions]
    generate = Scripted(in_turn(json.dumps({"items": items})))
    return list(asyncio.run(Gorilla(**how)([API, OTHER], generate, Random(0))))


def test_an_instruction_names_no_api() -> None:
    plain, function, model, empty = make(
        "Where in this photo are cars? Load it for me.", "Use hub.load on it", "Try Vision/Box.", " ", with_document=0.0
    )
    assert plain.prompt == user("Where in this photo are cars? Load it for me.") and plain.parents == (API.id,)
    assert "hub.load('vision/box', pretrained=True)" in text_of(plain.completion)
    assert [m.drop.reason for m in (function, model, empty)] == ["gorilla:leak", "gorilla:leak", "gorilla:empty"]


def test_documentation_may_be_wrong() -> None:
    (right,) = make("Where are cars?", with_document=1.0, wrong_document=0.0)
    assert '"domain":"image"' in text_of(right.prompt) and right.parents == (API.id,)
    (wrong,) = make("Where are cars?", with_document=1.0, wrong_document=1.0)
    assert "Translates." in text_of(wrong.prompt) and wrong.parents == (API.id, OTHER.id)
    gate = ApiCall().start([OTHER, API])
    assert gate.decide(Prepared(right)) is None and gate.decide(Prepared(wrong)) is None


def test_the_gate() -> None:
    gate = ApiCall().start([API, OTHER])
    for code, reason in {
        "pipeline('de-en')": "wrong",
        "hub.load('a/b')": "hallucination",
        "hub.load(": "syntax",
    }.items():
        drop = gate.decide(Prepared(API.child(by="x", completion=assistant(f"```python\n{code}\n```"))))
        assert drop is not None and drop.reason == f"api_call:{reason}"
    drop = gate.decide(Prepared(Record(prompt=user("a"), completion=assistant("f()"))))
    assert drop is not None and drop.reason == "api_call:no_reference"
    for completion in ("no call", "f", ""):
        with pytest.raises(ConfigError):
            ApiCall().start([Record(prompt=user("a"), completion=assistant(completion))])


def test_what_is_no_api_or_no_reply() -> None:
    record = Record(prompt=user("a"), completion=assistant("no call"))
    (made,) = asyncio.run(Gorilla()([record], Scripted(in_turn()), Random(0)))
    assert isinstance(made, Discarded) and made.drop.reason == "gorilla:no_call"
    with pytest.raises(ParseError):
        make()
