"""Evol-Instruct's elimination test, its lineage, and its draw of operators."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import Any

import pytest
from scripted import Scripted

from kdaug.errors import ConfigError, RateLimited, TeacherUnavailable
from kdaug.generators.evol_instruct import (
    IN_BREADTH,
    IN_DEPTH,
    EvolInstruct,
    flaw_of_answer,
    flaw_of_instruction,
    unwrapped,
)
from kdaug.prompts import render
from kdaug.record import Discarded, Record, assistant, system, text_of, user
from kdaug.teacher import Completion

SEED = Record(prompt=user("Name three rivers."))
GOOD = "The Rhine, the Danube and the Elbe."


class Teacher:
    """Evolves by adding a number, answers well, and finds nothing equal; single replies can be set by kind and turn."""

    def __init__(self, **given: Any) -> None:
        self.given, self.turns = given, Counter[str]()

    def __call__(self, role: str, prompt: str, sampling: dict[str, Any]) -> Any:
        kind = "verdict" if "Verdict:" in prompt else "evolve" if "New instruction:" in prompt else "answer"
        turn, self.turns[kind] = self.turns[kind], self.turns[kind] + 1
        usual = {"verdict": "Verdict: not equal", "evolve": f"Name {turn + 4} rivers.", "answer": GOOD}
        return self.given.get(f"{kind}{turn}", self.given.get(kind, usual[kind]))


def evolve(teacher: Teacher, seed: Record = SEED, rounds: int = 1, rng: int = 0) -> tuple[list[Any], Scripted]:
    generate = Scripted(teacher)
    return list(asyncio.run(EvolInstruct(rounds=rounds)([seed], generate, Random(rng)))), generate


def verdict(**given: Any) -> str:
    (made,), _ = evolve(Teacher(**given))
    return made.drop.reason if isinstance(made, Discarded) else "kept"


def test_five_known_verdicts() -> None:
    short, long = "Sorry, I cannot. " * 7, "I am sorry to say that it is so. " * 14
    assert verdict(evolve="Name  three rivers.\n") == "evol_instruct:no_gain"  # echoes its parent
    assert verdict(answer=short) == "evol_instruct:refusal"
    assert verdict(answer=long) == "kept"
    assert verdict(evolve="#Rewritten Prompt#: Name four rivers.") == "evol_instruct:meta"
    assert verdict(answer="the, of and.") == "evol_instruct:stop_words"


def test_a_copy_of_the_operators_own_example_is_eliminated() -> None:
    example = "Write a note for the stairwell that says sorry for a loud evening of piano practice."
    asked = render("evol_instruct/breadth", instruction="Name three rivers.", form="JSON")
    drop = flaw_of_instruction(example, "Name three rivers.", asked, cut=False)
    assert drop is not None and drop.reason == "evol_instruct:meta"


def test_the_judge_compares_parent_and_child_after_two_examples_of_its_form() -> None:
    _, generate = evolve(Teacher())
    *examples, asked = generate.calls[1].messages
    assert [m.content for m in examples if m.role == "assistant"] == ["Verdict: equal", "Verdict: not equal"]
    assert "<first>\nName three rivers.\n</first>" in asked.content
    assert "<second>\nName 4 rivers.\n</second>" in asked.content


def test_the_judge_finds_it_equal() -> None:
    assert verdict(verdict="Verdict: equal") == "evol_instruct:no_gain"
    assert verdict(verdict="Hard to say.") == "parse:verdict"


def test_sorry_is_looked_for_in_the_answer_and_only_in_a_short_one() -> None:
    assert verdict(evolve="Write a note that says sorry to a friend.") == "kept"
    assert flaw_of_answer("sorry " + "word " * 78, cut=False)
    assert flaw_of_answer("sorry " + "word " * 79, cut=False) is None
    assert flaw_of_answer("No.", cut=False) is None
    assert flaw_of_answer("42", cut=False) is None
    assert flaw_of_answer("莱茵河", cut=False) is None


def test_what_was_cut_or_is_empty_is_eliminated() -> None:
    assert verdict(evolve=Completion("Name five", finish_reason="length")) == "evol_instruct:cut"
    assert verdict(answer=Completion("The Rhine, the", finish_reason="length")) == "evol_instruct:cut"
    assert verdict(evolve="  ") == "evol_instruct:empty"
    assert verdict(answer="") == "evol_instruct:stop_words"


def test_nothing_is_paid_for_after_a_finding() -> None:
    calls = {
        "meta": Teacher(evolve="The given prompt."),
        "echo": Teacher(evolve="Name three rivers."),
        "equal": Teacher(verdict="Verdict: equal"),
        "kept": Teacher(),
    }
    assert {name: len(evolve(teacher)[1].calls) for name, teacher in calls.items()} == {
        "meta": 1,
        "echo": 1,
        "equal": 2,
        "kept": 3,
    }


def test_survivors_form_a_line_of_at_most_m_and_carry_their_answers() -> None:
    made, generate = evolve(Teacher(), rounds=4)
    assert [text_of(r.prompt) for r in made] == [f"Name {n} rivers." for n in (4, 5, 6, 7)]
    assert all(r.kind == "completion" and text_of(r.completion) == GOOD for r in made)
    ids = [SEED.id, *(r.id for r in made)]
    assert [r.parents for r in made] == [(i,) for i in ids[:-1]]
    assert all(r.roots == (SEED.id,) and len(r.replies) == 2 for r in made)
    assert len({key for r in made for key in r.replies}) == 8
    assert len(generate.calls) == 12


def test_a_failed_parent_is_tried_again_unchanged() -> None:
    made, generate = evolve(Teacher(verdict1="Verdict: equal"), rounds=3)
    assert [isinstance(m, Discarded) for m in made] == [False, True, False]
    evolved, failed, last = made
    assert failed.record.parents == last.parents == (evolved.id,)
    asked = [p for p in generate.prompts if "New instruction:" in p]
    shown = [p.split("\nInstruction:\n")[1] for p in asked]
    assert shown[1] == shown[2] == "Name 4 rivers.\n\nNew instruction:"


def test_operators_are_drawn_evenly_and_by_the_seed() -> None:
    drawn = Counter[str]()
    for n in range(300):
        made, _ = evolve(Teacher(), rounds=4, rng=n)
        drawn.update(r.by.split("/")[1] for r in made)
    assert set(drawn) == {*IN_DEPTH, *IN_BREADTH}
    chi_squared = sum((count - 200) ** 2 / 200 for count in drawn.values())
    assert chi_squared < 20.5  # 5 degrees of freedom, p = 0.001; the rng is seeded, so this holds for good
    assert [r.by for r in evolve(Teacher(), rounds=4, rng=7)[0]] == [
        r.by for r in evolve(Teacher(), rounds=4, rng=7)[0]
    ]


@pytest.mark.parametrize("form", ["XML", "SQL", "Python", "HTML", "shell", "JSON"])
def test_every_operator_asks_with_the_instruction_and_its_own_method(form: str) -> None:
    asked = {
        o: render(f"evol_instruct/{o}", instruction="Name three rivers.", form=form) for o in IN_DEPTH + IN_BREADTH
    }
    assert len(set(asked.values())) == 6
    assert all("Name three rivers." in text for text in asked.values())
    assert all(("10 to 20 words" in asked[o]) == (o in IN_DEPTH) for o in asked)
    assert form in asked["complicate"]


def test_only_the_last_turn_is_evolved_and_old_halves_of_it_are_forgotten() -> None:
    seed = Record(
        prompt=(*system("Be brief."), *user("Translate.\n\nBonjour")),
        completion=assistant("Hello"),
        rejected=assistant("Bye"),
        scores={"judge": 3.0},
        meta={"instruction": "Translate.", "input": "Bonjour", "topic": "French"},
    )
    (child,), generate = evolve(Teacher(), seed)
    assert child.prompt == (*system("Be brief."), *user("Name 4 rivers."))
    assert child.kind == "completion" and child.meta == {"topic": "French"} and not child.scores
    assert "Translate.\n\nBonjour" in generate.prompts[0]
    assert generate.calls[-1].messages == child.prompt


def test_paper_decoding_and_a_greedy_judge() -> None:
    _, generate = evolve(Teacher())
    evolved, judged, answered = generate.calls
    assert evolved.sampling == answered.sampling == {"temperature": 1.0, "top_p": 0.9, "max_tokens": 2048}
    assert judged.role == "judge" and judged.sampling["temperature"] == 0.0


def test_a_failed_call_costs_only_its_round_and_those_after() -> None:
    made, generate = evolve(Teacher(answer1=RateLimited("slow down")), rounds=4)
    kept, failed = made
    assert isinstance(kept, Record) and failed.drop.reason == "teacher:rate_limited"
    assert failed.record.id == kept.id and len(generate.calls) == 6


def test_a_failure_in_the_first_round_or_an_outage_is_the_engines() -> None:
    with pytest.raises(RateLimited):
        evolve(Teacher(evolve=RateLimited("slow down")), rounds=4)
    with pytest.raises(TeacherUnavailable):
        evolve(Teacher(evolve2=TeacherUnavailable("nobody there")), rounds=4)


@pytest.mark.parametrize(
    ("reply", "instruction"),
    [
        ("New instruction: Name four rivers.", "Name four rivers."),
        ("**New instruction:**\n\nName four rivers.", "Name four rivers."),
        ('"Name four rivers."', "Name four rivers."),
        ('"Rhine" or "Elbe"?', '"Rhine" or "Elbe"?'),
        ('Say "Rhine"', 'Say "Rhine"'),
        ('"', '"'),
    ],
)
def test_the_cue_and_quotes_round_the_whole_are_taken_off(reply: str, instruction: str) -> None:
    assert unwrapped(reply) == instruction


def test_no_rounds_or_no_operators_is_the_users_mistake() -> None:
    for fields in ({"rounds": 0}, {"operators": ()}):
        with pytest.raises(ConfigError):
            EvolInstruct(**fields)
