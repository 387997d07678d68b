"""Evol-Instruct's relatives: their operators, their schedule, and what Auto Evol-Instruct calls a failure."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import Any

import pytest
from scripted import Scripted

from kdaug.errors import BadRequest, ConfigError
from kdaug.gates.product import Product
from kdaug.generators.auto_evol import AutoEvol, failure_of
from kdaug.generators.evol_code import HEURISTICS, EvolCode
from kdaug.generators.evol_math import DOWNWARD, UPWARD, EvolMath
from kdaug.prompts import render
from kdaug.record import Discarded, Record, assistant, text_of, user
from kdaug.teacher import Completion

SEED = Record(prompt=user("Add 1 and 2."))


class Model:
    """Evolves by a running number, and finds nothing equal."""

    def __init__(self, **given: Any) -> None:
        self.given, self.turns = given, Counter[str]()

    def __call__(self, role: str, prompt: str, sampling: dict[str, Any]) -> Any:
        kind = "verdict" if "Verdict:" in prompt else "evolve" if "New instruction:" in prompt else "answer"
        turn, self.turns[kind] = self.turns[kind], self.turns[kind] + 1
        usual = {"verdict": "Verdict: not equal", "evolve": f"Add 1 and {turn + 3}.", "answer": "The sum is three."}
        return self.given.get(f"{kind}{turn}", usual[kind])


def run(generator: Any, model: Any, *seeds: Record) -> tuple[list[Any], Scripted]:
    generate = Scripted(model)
    return list(asyncio.run(generator(seeds or [SEED], generate, Random(1)))), generate


def test_code_is_evolved_by_five_heuristics_and_no_others() -> None:
    used = {m.by for n in range(20) for m in asyncio.run(EvolCode()([SEED], Scripted(Model()), Random(n)))}
    assert used == {f"evol_code/{heuristic}" for heuristic in HEURISTICS}
    asked = {render(f"evol_code/{h}", instruction="Sort.", form="") for h in HEURISTICS}
    assert len(asked) == 5 and all("Sort." in text and "10 words" in text for text in asked)
    with pytest.raises(ConfigError, match="no operator 'deepen'"):
        EvolCode(operators=("deepen",))


def test_maths_goes_down_twice_then_up_from_the_seed() -> None:
    made, _ = run(EvolMath(children=6), Model())
    assert len(made) == 30
    ways = [{m.by.split("/")[1] for m in made[6 * turn : 6 * turn + 6]} for turn in range(5)]
    assert all(way <= set(DOWNWARD) for way in ways[:2]) and all(way <= set(UPWARD) for way in ways[2:])
    parents = [{m.parents for m in made[6 * turn : 6 * turn + 6]} for turn in range(5)]
    assert all(len(found) == 1 for found in parents)  # one parent a round
    assert parents[0] == parents[2] == {(SEED.id,)} and parents[1] != parents[0] != parents[3]
    with pytest.raises(ConfigError, match="schedule"):
        EvolMath(schedule=("sideways",) * 5)


def test_a_call_that_fails_costs_one_child_of_a_round() -> None:
    made, _ = run(EvolMath(children=3), Model(evolve0=BadRequest("no")))
    reasons = [m.drop.reason for m in made if isinstance(m, Discarded)]
    assert len(made) == 15 and reasons == ["teacher:bad_request"]


def test_a_reward_is_the_product() -> None:
    record = Record(prompt=user("1 + 1?"), completion=assistant("2"), scores={"a": 4.0, "b": 2.5})
    gate = Product(of=("a", "b"), min=0.5)
    prepared = asyncio.run(gate.prepare(record, Scripted(Model())))
    assert prepared.record.scores["reward"] == pytest.approx(0.4)
    assert (drop := gate.decide(prepared)) and drop.reason == "product:low"
    missing = Product(of=("a", "c")).decide(asyncio.run(Product(of=("a", "c")).prepare(record, Scripted(Model()))))
    assert missing and missing.reason == "product:no_score"


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        ("Understood. What would you like to know?", "stagnant"),
        ("Thank you for the details! Shall I begin?", "stagnant"),
        ("Sure! Which topic is it about?", "insufficient"),
        ("Of course. What do you mean by it", "insufficient"),
        ("Please provide the text.", "loss"),
        ("I need more information to answer.", "loss"),
        ("Could you clarify that", "loss"),
        ("Okay. The answer is 4.", None),
        ("Sure, it is Paris.", None),
        ("Paris.", None),
    ],
)
def test_failures_are_seen_in_the_answer(answer: str, failure: str | None) -> None:
    assert failure_of(answer) == failure


def optimizing(rates: dict[str, bool]) -> Any:
    """A model whose methods are named: one fails where `rates` says so."""
    methods = iter("ABCDEFGHI")

    def reply(role: str, prompt: str, sampling: dict[str, Any]) -> str:
        if "Write a better method" in prompt:
            return f"Here it is.\n## Method\nmethod {next(methods)}"
        if "What went wrong" in prompt:
            assert "Instruction 1 (" in prompt
            return "It goes wrong."
        if "by the method below" in prompt:
            method = next((m for m in "ABCDEFGHI" if f"method {m}" in prompt), "first")
            return f"Steps.\n## Final instruction\nDo it {method} {len(prompt)}"
        return "Please provide the text." if rates[next(m for m in rates if m in prompt)] else "Done."

    return reply


def test_the_method_that_fails_least_is_used_the_first_of_equals() -> None:
    auto = AutoEvol(dev=1, rounds=1, candidates=3, steps=2)
    made, generate = run(
        auto, optimizing({"first": True, "A": True, "B": False, "C": False, "D": False, "E": False, "F": False})
    )
    assert [text_of(m.prompt).split()[2] for m in made] == ["B"]  # then D, E and F bring no gain
    assert sum("What went wrong" in prompt for prompt in generate.prompts) == 2
    assert {c.role for c in generate.calls if "better method" in c.prompt} == {"optimizer"}


def test_without_a_gain_the_first_method_stays_and_failures_keep_their_parent() -> None:
    auto = AutoEvol(dev=1, rounds=2, candidates=2, steps=3)
    made, generate = run(auto, optimizing({"first": True, "A": True, "B": True}))
    assert [m.drop.reason for m in made] == ["auto_evol:loss"] * 2
    assert {m.record.parents for m in made} == {(SEED.id,)}
    assert sum("What went wrong" in prompt for prompt in generate.prompts) == 1


def test_a_reply_without_its_last_heading_or_cut_is_a_failure() -> None:
    for reply, reason in [
        ("1. I would …", "auto_evol:no_final_instruction"),
        ("## Final instruction", "auto_evol:no_final_instruction"),
        (Completion("## Final instruction\nDo", finish_reason="length"), "auto_evol:cut"),
        ("## FINAL INSTRUCTION\nAdd 1 and 2.", "auto_evol:copy"),
    ]:
        (made,), _ = run(AutoEvol(dev=1, rounds=1, steps=0), lambda *_, reply=reply: reply)
        assert made.drop.reason == reason
