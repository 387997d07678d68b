"""Baize and UltraChat: dialogues out of one reply, and of two speakers; their openings."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest
from scripted import Scripted, in_turn

from kdaug.dialogue import alternates, count_rounds
from kdaug.errors import ConfigError, ParseError
from kdaug.generators.baize import Baize
from kdaug.generators.ultrachat import UltraChat
from kdaug.generators.ultrachat_openings import UltraChatOpenings
from kdaug.record import Discarded, Record, text_of, user
from kdaug.teacher import Completion

SEED = Record(prompt=user("Why do leaves fall?"))


def run(generator: Any, replies: Any, seed: int = 0, record: Record = SEED) -> tuple[list[Any], Scripted]:
    generate = Scripted(replies if callable(replies) else in_turn(*replies))
    return list(asyncio.run(generator([record], generate, Random(seed)))), generate


def test_a_transcript_becomes_a_dialogue_without_its_last_exchange() -> None:
    reply = "Sure!\n[Human] a [AI] b\n[Human] c [AI] d\n[Human] e [AI] and th"
    (made,), _ = run(Baize(), [Completion(reply, finish_reason="length")])
    assert text_of(made.prompt) == "a" and [m.content for m in made.completion] == ["b", "c", "d"]
    assert made.by == "baize/transcript" and made.kind == "completion"


def test_what_is_no_transcript() -> None:
    with pytest.raises(ParseError, match="transcript"):
        run(Baize(), ["Leaves fall because of the cold."])
    (made,), _ = run(Baize(min_rounds=2), ["[Human] a [AI] b [Human] c [AI] x [AI] y [Human] z"])
    assert isinstance(made, Discarded) and made.drop.reason == "baize:short" and made.drop.detail["rounds"] == 1


def test_self_chat_in_turns_stops_at_the_tags() -> None:
    generator = Baize(mode="turns", rounds=2)
    (made,), generate = run(generator, ["It is cold.", "And in the tropics?", "There it is dry."])
    assert made.prompt == SEED.prompt and count_rounds((*made.prompt, *made.completion)) == 2
    assert generate.calls[1].sampling["stop"] == ("[AI]", "[Human]")
    assert "[AI] It is cold." in generate.calls[1].prompt
    assert generate.calls[2].messages[-1].content == "And in the tropics?"


def test_a_first_answer_that_is_missing_leaves_nothing() -> None:
    (made,), _ = run(Baize(mode="turns"), [""])
    assert isinstance(made, Discarded) and made.drop.reason == "baize:empty" and made.record is SEED


def talkers(*users: str) -> Any:
    said = iter(users)

    def reply(role: str, prompt: str, sampling: dict[str, Any]) -> str:
        return next(said) if role == "player" else f"Because of reason {len(prompt)}."

    return reply


def test_two_models_in_turn_and_the_tag_goes() -> None:
    generator = UltraChat(min_rounds=3, max_rounds=3, user_role="player")
    (made,), generate = run(generator, talkers("User: And why in autumn?", "Are there exceptions?"))
    dialogue = (*made.prompt, *made.completion)
    assert alternates(dialogue) and count_rounds(dialogue) == 3
    assert dialogue[2].content == "And why in autumn?"
    assert made.teachers == ("scripted-teacher", "scripted-player") and len(made.replies) == 5
    assert [call.role for call in generate.calls] == ["teacher", "player"] * 2 + ["teacher"]


def test_a_slip_of_role_ends_the_dialogue_and_a_short_one_goes() -> None:
    slip = "As an AI, I can add more."
    generator = UltraChat(min_rounds=3, max_rounds=3, user_role="player")
    (made,), _ = run(generator, talkers("And why in autumn?", slip))
    assert isinstance(made, Record) and count_rounds((*made.prompt, *(made.completion or ()))) == 2
    (made,), _ = run(generator, talkers(slip))
    assert isinstance(made, Discarded) and made.drop.reason == "ultrachat:role_slip"
    assert made.drop.detail == {"rounds": 1, "text": slip}
    (made,), _ = run(generator, talkers("Thanks, that was helpful!"))
    assert made.drop.reason == "ultrachat:farewell"


def test_the_number_of_rounds_is_drawn() -> None:
    lengths = set()
    for seed in range(60):
        (made,), _ = run(UltraChat(user_role="player"), talkers(*(f"Question {n}?" for n in range(9))), seed)
        lengths.add(count_rounds((*made.prompt, *made.completion)))
    assert lengths == {3, 4, 5, 6, 7}


def numbered(*items: str) -> str:
    return "Sure:\n" + "\n".join(f"{n}. {item}" for n, item in enumerate(items, 1))


def test_a_subject_becomes_a_tree_of_topics_and_questions() -> None:
    replies = [numbered("oaks", "ferns", "moss"), numbered("Why a?", "Why b?"), numbered("Why c?", "Why A?")]
    made, generate = run(UltraChatOpenings(topics=2, questions=2), replies)
    assert [text_of(m.prompt) for m in made if isinstance(m, Record)] == ["Why a?", "Why b?", "Why c?"]
    (again,) = [m for m in made if isinstance(m, Discarded)]
    assert again.drop.reason == "ultrachat_openings:duplicate"
    assert len(generate.calls) == 1 + 2 and "oaks" in generate.prompts[1]
    assert all(m.kind == "prompt" and len(m.replies) == 2 for m in made if isinstance(m, Record))


def test_requests_to_write_are_expanded_by_share() -> None:
    replies = [numbered("Write an ode.", "Write a toast."), "Write an ode to rain, for children, in ten lines.", " "]
    made, _ = run(UltraChatOpenings(sector="writing", questions=2, detailed=1.0), replies)
    assert [text_of(m.prompt) for m in made] == ["Write an ode to rain, for children, in ten lines.", "Write a toast."]
    cut = Completion("Write an ode to the", finish_reason="length")
    (made_of_a_cut,), _ = run(
        UltraChatOpenings(sector="writing", questions=1, detailed=1.0), [numbered("Write an ode."), cut]
    )
    assert made_of_a_cut.drop.reason == "ultrachat_openings:cut"
    made, _ = run(UltraChatOpenings(sector="writing", questions=1, detailed=0.0), [numbered("Write an ode.")])
    assert text_of(made[0].prompt) == "Write an ode."


def test_a_passage_goes_with_its_question_in_several_ways() -> None:
    passage = Record(prompt=user("Dew is water."))
    ways = set()
    for seed in range(30):
        generator = UltraChatOpenings(sector="material", questions=1)
        (made,), _ = run(generator, [numbered("Sum it up.")], seed, passage)
        text = text_of(made.prompt)
        assert "Dew is water." in text and "Sum it up." in text
        ways.add(text)
    assert len(ways) == 4


def test_the_last_item_of_a_cut_list_and_more_than_was_asked_for_are_drops() -> None:
    cut = Completion(numbered("Why a?", "How b?", "Wh"), finish_reason="length")
    made, _ = run(UltraChatOpenings(sector="writing", questions=1, detailed=0), [cut])
    assert isinstance(made[0], Record) and text_of(made[0].prompt) == "Why a?"
    reasons = [m.drop.reason for m in made if isinstance(m, Discarded)]
    assert reasons == ["ultrachat_openings:surplus", "ultrachat_openings:cut"]
    with pytest.raises(ParseError, match="list"):
        run(UltraChatOpenings(sector="writing"), ["I cannot."])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Baize(min_rounds=9),
        lambda: UltraChat(min_rounds=1),
        lambda: UltraChat(max_rounds=2),
        lambda: UltraChatOpenings(questions=0),
        lambda: UltraChatOpenings(sector="worlds"),  # type: ignore[arg-type] # that is the point
    ],
)
def test_what_cannot_work_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError):
        wrong()
