"""Annotation: votes by label and by field, and when the annotator abstains."""

from __future__ import annotations

import asyncio
import json
from random import Random
from typing import Any

import pytest
from scripted import Scripted, in_turn

from kdaug.errors import BadRequest, ConfigError, ParseError
from kdaug.generators.annotate import Annotate
from kdaug.record import Discarded, Record, text_of, user

TEXT = Record(prompt=user("The soup was cold, but the waiter was kind."))
SCHEMA = {
    "type": "object",
    "properties": {"mood": {"enum": ["good", "bad"]}, "topic": {"type": "string"}},
    "required": ["mood", "topic"],
}


def run(*replies: Any, **fields: Any) -> tuple[Any, Scripted]:
    generate = Scripted(in_turn(*replies))
    (made,) = asyncio.run(Annotate(samples=len(replies), **fields)([TEXT], generate, Random(0)))
    return made, generate


def says(label: Any) -> str:
    return json.dumps({"explanation": "because", "label": label})


def test_the_label_of_the_majority_with_its_agreement() -> None:
    made, generate = run(says("bad"), says("good"), says("bad"), says("unsure"), says("bad"), labels=("good", "bad"))
    assert text_of(made.completion) == "bad" and made.scores == {"agreement": 3 / 5}
    assert "The soup was cold" in text_of(made.prompt) and "good, bad" in text_of(made.prompt)
    assert "unsure" not in text_of(made.prompt) and "explain" not in text_of(made.prompt).lower()
    form = generate.calls[0].sampling["schema"]
    assert list(form["properties"]) == ["explanation", "label"]
    assert form["properties"]["label"]["enum"] == ["good", "bad", "unsure"] and len(made.replies) == 5


def test_who_does_not_agree_abstains() -> None:
    made, _ = run(says("bad"), says("good"), says("unsure"), says("bad"), labels=("good", "bad"))
    assert isinstance(made, Discarded) and made.drop.reason == "annotate:abstained"
    assert made.drop.detail == {"agreement": 0.5, "votes": {'"bad"': 2, '"good"': 1, "unsure": 1}}
    made, _ = run(says("unsure"), says("unsure"), labels=("good", "bad"), min_agreement=0.0)
    assert isinstance(made, Discarded) and text_of(made.record.completion) == "unsure"


@pytest.mark.parametrize("order", ["gbbg", "bggb", "gb", "bg"])
def test_in_a_tie_it_abstains_in_whatever_order(order: str) -> None:
    said = [says({"g": "good", "b": "bad"}[one]) for one in order]
    made, _ = run(*said, labels=("good", "bad"), min_agreement=0.5)
    assert isinstance(made, Discarded) and made.drop.reason == "annotate:abstained"
    assert made.drop.detail["votes"] == {'"good"': len(order) // 2, '"bad"': len(order) // 2}


def test_a_failed_sample_is_no_vote() -> None:
    failed = [BadRequest("no"), ParseError("schema", "{")]
    made, _ = run(says("bad"), *failed, says("bad"), says("bad"), labels=("good", "bad"))
    assert made.scores == {"agreement": 3 / 5}
    with pytest.raises(ParseError):
        run(ParseError("schema", "{"), labels=("good", "bad"))


def test_fields_are_voted_on_one_by_one() -> None:
    first, second, third = ({"mood": "bad", "topic": "food"}, {"mood": "good", "topic": "food"}, {"topic": "staff"})
    made, _ = run(says(first), says(second), says({**third, "mood": "bad"}), schema=SCHEMA)
    assert json.loads(text_of(made.completion)) == {"mood": "bad", "topic": "food"}
    assert made.scores["agreement"] == pytest.approx(2 / 3)
    made, _ = run(says(first), says({"mood": "bad", "topic": "x"}), says({**third, "mood": "bad"}), schema=SCHEMA)
    assert made.drop.detail["field"] == "topic" and made.drop.detail["agreement"] == pytest.approx(1 / 3)


def test_without_explanations_the_label_is_the_reply() -> None:
    made, generate = run("bad", "bad", labels=("good", "bad"), explain=False, unsure=False, guideline="Good or bad?")
    assert text_of(made.completion) == "bad" and generate.calls[0].sampling["schema"] == ["good", "bad"]
    assert text_of(made.prompt).startswith("Good or bad?")


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"labels": ("a", "b"), "schema": SCHEMA},
        {"labels": ("a",)},
        {"labels": ("a", "a")},
        {"labels": ("a", "unsure")},
        {"schema": {"type": "string"}},
        {"labels": ("a", "b"), "samples": 0},
        {"labels": ("a", "b"), "min_agreement": 2.0},
    ],
)
def test_what_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="annotate"):
        Annotate(**wrong)
