"""Attributes are drawn evenly, and what was kept of each is counted."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random

import pytest
from scripted import Scripted, in_turn

from kdaug.attributes import Attributes, attributes_of
from kdaug.errors import ConfigError, ParseError
from kdaug.gates.coverage import Coverage
from kdaug.generators.attributed import Attributed
from kdaug.record import Discarded, Record, text_of, user
from kdaug.teacher import Completion

SEEDS = [Record(prompt=user("Name a bird.")), Record(prompt=user("Name a fish."))]
AXES = {"who": ["child", "judge", "cook"], "level": ["easy", "hard"]}


def drawn(rng: int = 0, **fields: object) -> list[Record]:
    live, random = Attributes(SEEDS, AXES, **fields).start(), Random(rng)  # type: ignore[arg-type]
    return [parents[0] for parents in iter(lambda: live.draw(random), None)]


def test_every_value_is_drawn_as_often_as_the_others_give_or_take_one() -> None:
    for count in (6, 7, 31):
        values = [attributes_of(record) for record in drawn(draws=count)]
        for axis in AXES:
            counts = Counter(value[axis] for value in values)
            assert max(counts.values()) - min(counts.values()) <= 1 and set(counts) == set(AXES[axis])
    assert len(drawn()) == 6  # two seeds, three values
    assert [r.meta for r in drawn(3)] == [r.meta for r in drawn(3)] != [r.meta for r in drawn(4)]


def test_combinations_to_avoid_never_come_and_values_keep_their_share() -> None:
    values = [attributes_of(r) for r in drawn(draws=60, avoid=[{"who": "child", "level": "hard"}])]
    assert not any(v["who"] == "child" and v["level"] == "hard" for v in values)
    assert Counter(v["who"] for v in values) == {"child": 20, "judge": 20, "cook": 20}
    with pytest.raises(ConfigError, match="leaves no value"):
        drawn(avoid=[{"level": level, "who": "child"} for level in AXES["level"]])


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"axes": {}}, "give axes"),
        ({"axes": {"a": []}}, "axes.a must be a list"),
        ({"axes": {"a": ["b", "b"]}}, "axes.a must be a list"),
        ({"axes": AXES, "avoid": [{"who": "nurse"}]}, "which no axis has"),
        ({"axes": AXES, "draws": 0}, "at least 1"),
    ],
)
def test_mistakes_are_named(fields: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Attributes(SEEDS, **fields)  # type: ignore[arg-type]


def test_attributes_are_shown_to_the_teacher_and_are_not_in_the_prompt() -> None:
    parent, generate = drawn()[0], Scripted(in_turn(" Explain rain to me. "))
    (made,) = asyncio.run(Attributed()([parent], generate, Random(0)))
    assert isinstance(made, Record) and text_of(made.prompt) == "Explain rain to me."
    assert made.meta == {"attributes": parent.meta["attributes"]} and made.roots == (SEEDS[0].id,)
    assert all(f"- {axis}: {value}" in generate.prompts[0] for axis, value in attributes_of(parent).items())
    with pytest.raises(ConfigError, match="no attributes were drawn"):
        asyncio.run(Attributed()([SEEDS[0]], generate, Random(0)))
    with pytest.raises(ParseError):
        asyncio.run(Attributed()([parent], Scripted(in_turn("")), Random(0)))
    (cut,) = asyncio.run(Attributed()([parent], Scripted(in_turn(Completion("a", "length"))), Random(0)))
    assert isinstance(cut, Discarded) and cut.drop.reason == "attributed:cut"


def test_what_is_kept_is_counted_and_a_full_combination_is_closed() -> None:
    gate, reasons = Coverage(most=1).start(()), []
    for record in drawn(draws=13):
        prepared = asyncio.run(gate.prepare(record, Scripted(in_turn())))
        drop = gate.decide(prepared)
        reasons.append(drop.reason if drop else "kept")
        if drop is None:
            gate.remember(prepared)
    assert set(reasons) == {"kept", "coverage:full"} and reasons.count("kept") <= 6
    report = gate.report()
    assert report["combinations"] == reasons.count("kept")
    assert sum(report["who"].values()) == reasons.count("kept")  # type: ignore[union-attr]
