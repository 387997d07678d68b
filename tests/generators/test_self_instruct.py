"""Self-Instruct: what it shows, what it asks, and what it makes of replies."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from scripted import Scripted, in_turn

from kdaug.errors import ConfigError, ParseError
from kdaug.generators.self_instruct import SelfInstruct
from kdaug.record import Discarded, Drop, Record, assistant, user
from kdaug.source import GrowingPool
from kdaug.teacher import Completion

SEEDS = [
    Record(
        prompt=user(f"Do task number {n}.\n\nthe input"),
        completion=assistant("done"),
        scores={"judge": 5.0},
        tools=({"name": "clock"},),
        meta={"instruction": f"Do task\n number {n}:", "input": "the input", "source": "mine"},
    )
    for n in "abcdefgh"
]


def ask(
    generator: SelfInstruct, reply: str | Completion, parents: Sequence[Record] = SEEDS, rng: int = 0
) -> tuple[list[Any], Scripted]:
    generate = Scripted(in_turn(reply))
    return list(asyncio.run(generator(parents, generate, Random(rng)))), generate


def shown(generate: Scripted) -> list[str]:
    """The list in the assistant's own mouth."""
    (message,) = (m for m in generate.calls[0].messages if m.role == "assistant")
    return message.content.splitlines()


def test_the_parents_instructions_are_shown_on_a_line_each_without_input_and_colon() -> None:
    _, generate = ask(SelfInstruct(), "9. Sing a song of four lines.")
    lines = shown(generate)
    assert sorted(line.split(". ", 1)[1] for line in lines) == [f"Do task number {n}" for n in "abcdefgh"]
    assert [line.split(". ")[0] for line in lines] == [str(n) for n in range(1, 9)]
    assert "the input" not in generate.prompts[0]


def test_the_order_is_the_rngs() -> None:
    first, again, other = (shown(ask(SelfInstruct(), "9. Sing.", rng=n)[1]) for n in (0, 0, 1))
    assert first == again != other


def test_it_asks_for_as_many_as_it_says_and_samples_as_in_the_paper() -> None:
    _, generate = ask(SelfInstruct(per_prompt=5), "9. Sing a song.")
    (call,) = generate.calls
    assert [m.role for m in call.messages] == ["user", "assistant", "user"]
    assert "5 more tasks, numbered 9 to 13" in call.messages[-1].content
    assert call.role == "teacher"
    assert call.sampling == {
        "temperature": 0.7,
        "top_p": 0.5,
        "presence_penalty": 2.0,
        "max_tokens": 1024,
        "stop": ("\n\n", "\n14."),
    }


def test_a_child_is_a_bare_prompt_with_its_lineage() -> None:
    """No answer, score, tool or meta of a demonstration may pass for the new task's own."""
    (song, poem), _ = ask(SelfInstruct(), "9. Sing a song.\n10. Recite the poem.")
    assert song.prompt == user("Sing a song.") and poem.instruction == "Recite the poem."
    assert song.kind == "prompt" and song.by == "self_instruct"
    assert (song.scores, song.tools, song.meta) == ({}, (), {"instruction": "Sing a song."})
    assert song.parents == song.roots == tuple(seed.id for seed in SEEDS)
    assert song.teachers == ("scripted-teacher",) and song.replies == ("job/0",)


def test_a_labelled_or_paired_parent_leaves_no_trace_either() -> None:
    pair = Record(prompt=user("a"), completion=assistant("b"), rejected=assistant("c"))
    vote = Record(prompt=user("a"), completion=assistant("b"), label=True)
    for parent in (pair, vote):
        (child,), _ = ask(SelfInstruct(), "2. Sing a song.", [parent])
        assert child.kind == "prompt"


def test_a_cut_reply_is_void_as_in_the_paper() -> None:
    with pytest.raises(ParseError) as error:
        ask(SelfInstruct(), Completion("9. Sing a song.\n10. Recite the po", finish_reason="length"))
    assert error.value.reason == "parse:complete_list" and "Recite" in error.value.text


def test_a_cut_reply_can_lose_its_last_item_alone() -> None:
    reply = Completion("9. Sing a song.\n10. Recite the po", finish_reason="length")
    (song, poem), _ = ask(SelfInstruct(on_cut="drop_last"), reply)
    assert song.instruction == "Sing a song."
    assert isinstance(poem, Discarded) and poem.drop == Drop("self_instruct:cut")
    assert poem.record.instruction == "Recite the po"


def test_a_reply_without_a_list_is_a_parse_error() -> None:
    with pytest.raises(ParseError) as error:
        ask(SelfInstruct(), "I would rather not.")
    assert error.value.reason == "parse:list"


def test_items_begin_with_a_capital_and_keep_those_they_have() -> None:
    reply = "9. write SQL for it.\n10. Explain the GPL."
    made, _ = ask(SelfInstruct(), reply)
    assert [r.instruction for r in made] == ["Write SQL for it.", "Explain the GPL."]
    as_the_code_did, _ = ask(SelfInstruct(sentence_case=True), reply)
    assert [r.instruction for r in as_the_code_did] == ["Write sql for it.", "Explain the gpl."]


def test_seeds_alone_at_first_then_six_and_two() -> None:
    pool = GrowingPool(SEEDS).start()
    seen = []
    for _ in range(6):
        parents = pool.draw(Random(0))
        assert parents is not None
        seen.append(sum(parent.by == "seed" for parent in parents))
        made, _ = ask(SelfInstruct(), f"9. Do thing {len(seen)}.", parents)
        pool.accept(made[0])
    assert seen == [8, 7, 6, 6, 6, 6]


@pytest.mark.parametrize("wrong", [{"per_prompt": 0}, {"on_cut": "keep"}])
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"self_instruct: {next(iter(wrong))}"):
        SelfInstruct(**wrong)
