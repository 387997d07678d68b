"""Topic trees, curricula and personas: what they draw, and what they make of garbled lists."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import Any

import pytest
from scripted import Scripted, in_turn

from kdaug.errors import BadRequest, ConfigError, ParseError
from kdaug.gates.minhash import MinHash
from kdaug.generators.glan import Glan, GlanSubjects, choices_of, count_choices, draw_choices
from kdaug.generators.persona_hub import KINDS, Personas, PersonaTask, after_prefix
from kdaug.generators.topic_tree import TopicTree
from kdaug.record import Discarded, Record, text_of, user
from kdaug.teacher import Completion

ROOT = Record(prompt=user("Gardening"))


def run(generator: Any, replies: Any, parent: Record = ROOT, rng: int = 0) -> tuple[list[Any], Scripted]:
    generate = Scripted(replies)
    return list(asyncio.run(generator([parent], generate, Random(rng)))), generate


def reason(made: Any) -> str:
    return made.drop.reason if isinstance(made, Discarded) else "kept"


def gardener(role: str, prompt: str, sampling: dict[str, Any]) -> Any:
    """Two topics below each, named after their path, and two tasks of each."""
    path = prompt.partition("\n")[0].removeprefix("Topic: ").split(" > ")
    if "Divide" in prompt:
        return f"Here you are:\n1. {path[-1]} one\n2) **{path[-1]} two**\n3. {path[-1]} three"
    return f"1. Task a of {path[-1]}?\n2. Task b of {path[-1]}?\n3. Task c of {path[-1]}?"


def test_a_tree_has_its_width_at_every_level_and_tasks_for_each_leaf() -> None:
    everything, generate = run(TopicTree(depth=2, width=2, tasks=2), gardener)
    made = [m for m in everything if isinstance(m, Record)]
    assert {reason(m) for m in everything if m not in made} <= {"topic_tree:surplus"}
    assert len(made) == 2 * 2 * 2 and sum("Divide" in p for p in generate.prompts) == 1 + 2
    topics = Counter(m.meta["attributes"]["topic"] for m in made)
    assert topics["Gardening two > Gardening two one"] == 2 and set(topics.values()) == {2} and len(topics) == 4
    assert len(made[0].replies) == 3 and "Gardening two" not in text_of(made[0].prompt).replace(">", "")[:5]
    assert "Topic: Gardening > Gardening one\n" in generate.prompts[1] + "\n"


def test_a_topic_stands_in_the_tree_once_and_a_node_without_a_list_is_a_leaf() -> None:
    def same(role: str, prompt: str, sampling: dict[str, Any]) -> Any:
        if "Divide" in prompt:
            return "1. Roses\n2. roses!\n3. Gardening" if "\n" in prompt and " > " not in prompt else "No idea."
        return "1. When do I prune roses?"

    made, _ = run(TopicTree(depth=2, width=3, tasks=1), same)
    assert [m.meta["attributes"]["topic"] for m in made] == ["Roses"]


def test_a_leaf_that_fails_is_a_drop_and_a_cut_list_loses_its_last() -> None:
    def moody(role: str, prompt: str, sampling: dict[str, Any]) -> Any:
        if "Divide" in prompt:
            return gardener(role, prompt, sampling)
        if "Gardening one" in prompt:
            return BadRequest("no")
        if "Gardening two" in prompt:
            return "I cannot."
        return Completion("1. What is it?\n2. Which on", finish_reason="length")

    made, _ = run(TopicTree(depth=1, width=3, tasks=2), moody)
    assert [reason(m) for m in made] == ["teacher:bad_request", "parse:list", "kept", "topic_tree:cut"]


@pytest.mark.parametrize(("sizes", "count"), [([5], 31), ([6], 62), ([3, 3], 7 + 7 + 48), ([1], 1), ([1, 1], 3)])
def test_choices_are_as_many_as_the_formulas_say(sizes: list[int], count: int) -> None:
    choices = list(choices_of(sizes))
    assert len(choices) == len(set(choices)) == count == count_choices(sizes)
    assert all(1 <= len(choice) <= 5 and list(choice) == sorted(choice) for choice in choices)


def test_two_sessions_mean_concepts_of_both_and_nothing_is_drawn_twice() -> None:
    drawn = draw_choices([5] * 10, 300, Random(0))
    assert len({frozenset(choice) for choice in drawn}) == 300
    spans = Counter(len({session for session, _ in choice}) for choice in drawn)
    assert set(spans) == {1, 2} and min(spans.values()) > 60
    assert len(draw_choices([2], 10, Random(0))) == 3
    assert draw_choices([4, 4], 5, Random(1)) == draw_choices([4, 4], 5, Random(1))


SYLLABUS = (
    '{"sessions": [{"title": "Soil", "concepts": ["clay", "humus", "clay"]}, {"title": "Water", "concepts": ["rain"]}]}'
)


def test_a_question_names_what_was_drawn() -> None:
    made, generate = run(Glan(questions=4), lambda r, p, s: SYLLABUS if "schema" in s else "Why is clay wet?")
    assert [reason(m) for m in made] == ["kept"] * 4 and all(len(m.replies) == 2 for m in made)
    asked = generate.prompts[1:]
    assert len(set(asked)) == 4
    assert all(("these sessions: Soil; Water" in p) == ("rain" in p and ("clay" in p or "humus" in p)) for p in asked)


def test_a_question_that_was_cut_or_failed_is_a_drop() -> None:
    answers = in_turn(SYLLABUS, Completion("Why", finish_reason="length"), "", BadRequest("no"), "Why is clay wet?")
    made, _ = run(Glan(questions=4), answers)
    assert sorted(map(reason, made)) == ["glan:cut", "glan:empty", "kept", "teacher:bad_request"]


def test_subjects_of_several_lists_are_merged() -> None:
    lists = [
        "1. Botany\n2. Soil science",
        "- soil  Science\n- Ecology",
        Completion("1. Law\n2. Half", finish_reason="length"),
    ]
    made, generate = run(GlanSubjects(queries=3), in_turn(*lists))
    assert [reason(m) for m in made] == ["kept", "kept", "glan_subjects:duplicate", "kept", "kept"]
    made = [m for m in made if isinstance(m, Record)]
    assert [text_of(m.prompt) for m in made] == ["Botany", "Soil science", "Ecology", "Law"]
    assert made[2].meta == {"attributes": {"discipline": "Gardening", "subject": "Ecology"}}
    assert generate.calls[0].sampling["top_p"] == 0.95
    with pytest.raises(ParseError):
        run(GlanSubjects(queries=1), in_turn("None."))


NURSE = "A night nurse on a children's ward who keeps the records"


def test_personas_lead_to_personas() -> None:
    made, generate = run(
        Personas(hops=2), in_turn(f'"{NURSE}"', "The father of a boy with asthma", "A teacher of that boy")
    )
    assert [m.by for m in made] == ["personas/0", "personas/1", "personas/2"]
    assert made[0].parents == (ROOT.id,) and made[2].parents == (made[1].id,) and made[2].roots == (ROOT.id,)
    assert text_of(made[0].prompt) == NURSE and NURSE in generate.prompts[1] and "Gardening" in generate.prompts[0]
    with pytest.raises(ConfigError, match="from 0 to 6"):
        Personas(hops=7)


def test_a_persona_too_short_ends_its_chain() -> None:
    made, _ = run(Personas(hops=3), in_turn(NURSE, "A father."))
    assert [reason(m) for m in made] == ["kept", "personas:short"]


PERSONA = Record(prompt=user(NURSE))


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_begins_with_its_declared_field(kind: str) -> None:
    prefix, request = KINDS[kind]
    (made,), generate = run(PersonaTask(kind=kind), in_turn(f"**{prefix}** How many?"), PERSONA)
    assert f'Begin your reply with "{prefix}"' in generate.prompts[0] and NURSE in generate.prompts[0]
    if request:
        assert text_of(made.prompt) == request and text_of(made.completion) == f"{prefix} How many?"
    else:
        assert text_of(made.prompt) == "How many?" and made.completion is None
    with pytest.raises(ParseError, match="no task"):
        run(PersonaTask(kind=kind), in_turn("Sure! How many?"), PERSONA)


def test_one_persona_is_one_prompt_and_is_not_repeated_in_the_task() -> None:
    asked = {run(PersonaTask(), in_turn("User prompt: Help."), PERSONA, n)[1].prompts[0] for n in range(5)}
    assert len(asked) == 1
    (made,), _ = run(PersonaTask(), in_turn("User prompt: As a night nurse on a children's ward, I ask."), PERSONA)
    assert reason(made) == "persona_task:persona"
    shown = PersonaTask(examples=[{"persona": "A cook", "text": "How hot?"}])
    assert "Person: A cook\nUser prompt: How hot?" in run(shown, in_turn("User prompt: Help."), PERSONA)[1].prompts[0]
    with pytest.raises(ConfigError, match="no kind 'poem'"):
        PersonaTask(kind="poem")


def test_personas_are_told_apart_by_their_words_alone() -> None:
    """MinHash on single words at 0.9 takes a permutation for the same persona, as the paper's does."""
    gate, told = MinHash(threshold=0.9, shingle=1).start(()), []
    for persona in (NURSE, "Keeps the records on a children's ward: a night nurse who", "A night nurse with two cats"):
        prepared = asyncio.run(gate.prepare(Record(prompt=user(persona)), Scripted(in_turn())))
        drop = gate.decide(prepared)
        told.append(drop.reason if drop else "kept")
        if not drop:
            gate.remember(prepared)
    assert told == ["kept", "minhash:near_duplicate", "kept"]


def test_the_field_alone_is_no_task() -> None:
    assert after_prefix("Title:  ", "Title:") is None and after_prefix(" title: A", "Title:") == "A"
