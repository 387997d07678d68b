"""Dialogues: turns, rounds, what ends a talk, and transcripts with stray tags."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random

import pytest

from kdaug.dialogue import (
    Talk,
    alternates,
    count_rounds,
    dialogue_record,
    is_farewell,
    parse_transcript,
    role_slip,
    talk,
)
from kdaug.record import Message, Messages, Record, assistant, system, user
from kdaug.teacher import Completion

CUT = Completion("and then", finish_reason="length")


def speak(users: Sequence[str | Completion], assistants: Sequence[str | Completion], rounds: int = 3) -> Talk:
    """A talk of two stub models, which fails at one call too many."""
    left, right = iter(users), iter(assistants)

    async def ask(said: Messages) -> Completion:
        assert said[-1].role == "assistant"
        reply = next(left)
        return reply if isinstance(reply, Completion) else Completion(reply)

    async def answer(said: Messages) -> Completion:
        assert said[-1].role == "user"
        reply = next(right)
        return reply if isinstance(reply, Completion) else Completion(reply)

    return asyncio.run(talk(user("q0"), ask, answer, rounds=rounds))


def texts(messages: Sequence[Message]) -> list[str]:
    return [message.content for message in messages]


def test_two_models_speak_in_turn_for_so_many_rounds() -> None:
    made = speak(["q1", " q2\n"], ["a0", "a1", "a2"])
    assert texts(made.messages) == ["q0", "a0", "q1", "a1", "q2", "a2"]
    assert made.ended == "rounds" and alternates(made.messages) and count_rounds(made.messages) == 3
    assert [reply.text for reply in made.replies] == ["a0", "q1", "a1", " q2\n", "a2"]


@pytest.mark.parametrize(
    ("users", "assistants", "ended", "kept"),
    [
        (["As an AI, I think so."], ["a0"], "role_slip", ["q0", "a0"]),
        (["q1", "Thank you, goodbye!"], ["a0", "a1"], "farewell", ["q0", "a0", "q1", "a1"]),
        (["Q0"], ["a0"], "repeat", ["q0", "a0"]),
        ([" "], ["a0"], "empty", ["q0", "a0"]),
        ([CUT], ["a0"], "cut", ["q0", "a0"]),
        (["q1"], ["a0", CUT], "cut", ["q0", "a0"]),
        (["q1"], ["a0", ""], "empty", ["q0", "a0"]),
        ([], [CUT], "cut", []),
    ],
)
def test_what_ends_a_talk_is_not_in_it(
    users: Sequence[str | Completion], assistants: Sequence[str | Completion], ended: str, kept: list[str]
) -> None:
    made = speak(users, assistants)
    assert (made.ended, texts(made.messages)) == (ended, kept)
    assert len(made.replies) == max(0, len(kept) - 1)  # the first turn was given


@pytest.mark.parametrize(
    "text",
    [
        "As an AI language model, I cannot have opinions.",
        "I’m an AI.",
        "How can I help you today?",
        "Sure! Here is a list of rivers.",
        "Certainly, I'll explain.",
        "You're welcome!",
        "I hope this helps. Feel free to ask more.",
        "Let me know if you have other questions.",
        "That's a great question!",
        "Why is it so?\nAssistant: Because of the moon.",
    ],
)
def test_an_assistants_words_are_a_slip_of_role(text: str) -> None:
    assert role_slip(text)


@pytest.mark.parametrize(
    "text",
    [
        "How can I help my daughter with fractions?",
        "I'm a nurse. What should I know of AI?",
        "Sure, but how deep is it?",
        "Could an AI system answer that?",
        "Why is my assistant late?",
    ],
)
def test_a_users_words_are_none(text: str) -> None:
    assert role_slip(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "Thank you!",
        "Thanks, that was very helpful.",
        "Goodbye.",
        "Thank you so much. That's all I need. Have a great day!",
        "Great, thanks. No more questions.",
        "OK, got it.",
        "That's all.",
    ],
)
def test_a_farewell(text: str) -> None:
    assert is_farewell(text)


@pytest.mark.parametrize(
    "text",
    [
        "Thanks! And how deep is it?",
        "Thanks, now explain the tides.",
        "Great. Could you give an example",
        "Write a farewell letter to a colleague who says goodbye after ten years.",
        "I want to thank my teacher, who taught me to read when nobody else believed that I ever would.",
        "Tell me more.",
        "",
    ],
)
def test_no_farewell(text: str) -> None:
    assert not is_farewell(text)


def test_rounds_are_pairs_of_turns() -> None:
    assert count_rounds((*system("s"), *user("a"), *assistant("b"), *user("c"), *assistant("d"))) == 2
    assert count_rounds((*user("a"), *assistant("b"), *user("c"))) == 1
    assert count_rounds(user("a")) == 0


@pytest.mark.parametrize(
    "messages",
    [
        (),
        user("a"),
        (*assistant("b"), *user("a")),
        (*user("a"), *user("b"), *assistant("c")),
        (*user("a"), *assistant(" ")),
    ],
)
def test_turns_that_do_not_alternate(messages: Messages) -> None:
    assert not alternates(messages)


TRANSCRIPTS = [
    ("[Human] a [AI] b [Human] c [AI] d [Human] e", ["a", "b", "c", "d"]),  # spec: the last chunk is dropped
    ("Sure!\n[Human] a\n[AI] b\n[Human] c\n[AI] d and th", ["a", "b"]),  # trailing truncation
    ("[Human] a [AI] b [Human] c [AI] x [AI] d [Human] e [AI] f [Human] g", ["a", "b"]),  # two tags of the AI
    ("[Human] a [AI] b [Human] c [Human] d [AI] e [Human] f", ["a", "b"]),  # no turn of the AI
    ("[Human] [AI] b [Human] c [AI] d [Human] e", []),  # an empty turn of the user
    ("[Human] a [AI] [Human] c [AI] d [Human]", []),
    ("[human] a [ai] b [HUMAN] c", ["a", "b"]),
    ("no tags at all", []),
    ("", []),
]


@pytest.mark.parametrize(("text", "turns"), TRANSCRIPTS)
def test_transcripts(text: str, turns: list[str]) -> None:
    assert texts(parse_transcript(text)) == turns


def test_what_a_transcript_gives_always_alternates() -> None:
    rng = Random(7)
    pieces = ["[Human]", "[AI]", " hello ", "\n", "[Hum", "an]", " x [", "** [AI] **", ""]
    found = 0
    for _ in range(3000):
        made = parse_transcript("".join(rng.choices(pieces, k=rng.randint(0, 16))))
        assert made == () or alternates(made)
        found += bool(made)
    assert found > 100


def test_every_answer_of_a_dialogue_is_in_the_completion() -> None:
    said = (*system("s"), *user("a"), *assistant("b"), *user("c"), *assistant("d"))
    made = dialogue_record(Record(prompt=user("seed")), said, by="x", replies=[])
    assert texts(made.prompt) == ["s", "a"] and made.completion is not None
    assert texts(made.completion) == ["b", "c", "d"] and made.kind == "completion"
