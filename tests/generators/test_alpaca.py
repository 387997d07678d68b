"""Alpaca's list of tasks, as models garble it."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest
from scripted import Scripted, in_turn

from kdaug.errors import ConfigError, ParseError
from kdaug.generators.alpaca import Alpaca
from kdaug.parsing import Task, task_triples
from kdaug.record import Discarded, Record, assistant, text_of, user
from kdaug.teacher import Completion

SEEDS = [
    Record(prompt=user(f"Do {n}."), completion=assistant(f"Done {n}."), meta={"instruction": f"Do {n}.", "input": ""})
    for n in range(3)
]
GOOD = "{n}. Instruction: Name a bird.\n{n}. Input: <noinput>\n{n}. Output: A wren."


def ask(reply: Any, **fields: Any) -> tuple[list[Record | Discarded], Scripted]:
    generate = Scripted(in_turn(reply))
    return list(asyncio.run(Alpaca(**fields)(SEEDS, generate, Random(0)))), generate


def reasons(made: list[Record | Discarded]) -> list[str]:
    return [m.drop.reason if isinstance(m, Discarded) else "kept" for m in made]


def test_each_task_is_an_answered_record_with_its_halves() -> None:
    reply = GOOD.format(n=4) + "\n###\n5. Instruction: Sort them.\n5. Input: b, a\n5. Output: a, b"
    (one, two), generate = ask(reply)
    assert isinstance(one, Record) and isinstance(two, Record)
    assert (text_of(one.prompt), text_of(one.completion)) == ("Name a bird.", "A wren.")
    assert text_of(two.prompt) == "Sort them.\n\nb, a" and two.meta == {"instruction": "Sort them.", "input": "b, a"}
    assert one.parents == tuple(seed.id for seed in SEEDS) and two.replies == one.replies
    call = generate.calls[0]
    assert call.sampling["temperature"] == 1.0 and call.sampling["max_tokens"] == 3072
    listed = next(m.content for m in call.messages if m.role == "assistant")
    assert listed.startswith("1. Instruction: Do 0.\n1. Input: <noinput>\n1. Output: Done 0.\n###\n2. Instruction")
    assert '"4. Instruction:"' in call.messages[-1].content


@pytest.mark.parametrize(
    ("block", "found"),
    [
        (GOOD.format(n=4), Task("Name a bird.", "", "A wren.")),
        (" Name a bird.\n4. Input: <NoInput>\n4. Output: A wren.", Task("Name a bird.", "", "A wren.")),  # goes on
        ("Instruction: Name a bird.\nInput: < no input >\nOutput: A wren.", Task("Name a bird.", "", "A wren.")),
        ("**4. Instruction:** Add.\n**4. Input:** 1, 2\n**4. Output:** 3", Task("Add.", "1, 2", "3")),
        ("9. Instruction: Add.\n4. Input: 1\n7. Output: 3", Task("Add.", "1", "3")),  # it miscounts
    ],
)
def test_a_block_with_three_fields_in_order_is_a_task(block: str, found: Task) -> None:
    assert task_triples(block) == [found]


@pytest.mark.parametrize(
    "block",
    [
        "4. Instruction: Name a bird.\n4. Output: A wren.",
        "4. Instruction: Name.\n4. Output: A wren.\n4. Input: none",
        "4. Instruction: A.\n4. Input: b\n4. Output: c\n4. Output: d",
        "Here you are:\n4. Instruction: A.\n4. Input: b\n4. Output: c",
        "I would rather not.",
    ],
)
def test_any_other_block_is_malformed(block: str) -> None:
    assert task_triples(block) == [block]
    assert reasons(ask(f"{GOOD.format(n=4)}\n###\n{block}")[0]) == ["kept", "alpaca:malformed"]


def test_a_cut_reply_loses_its_last_task_only() -> None:
    reply = Completion(GOOD.format(n=4) + "\n###\n" + GOOD.format(n=5), finish_reason="length")
    assert reasons(ask(reply)[0]) == ["kept", "alpaca:cut"]


def test_a_task_without_output_and_a_reply_without_tasks() -> None:
    empty = "5. Instruction: Name a bird.\n5. Input: <noinput>\n5. Output:"
    assert reasons(ask(f"{GOOD.format(n=4)}\n###\n{empty}")[0]) == ["kept", "alpaca:empty_output"]
    with pytest.raises(ParseError):
        ask("Sorry, no.")
    with pytest.raises(ConfigError, match="set it higher"):
        ask("", total=3)
    with pytest.raises(ConfigError, match="has no answer"):
        asyncio.run(Alpaca()([Record(prompt=user("Do it."))], Scripted(in_turn()), Random(0)))
