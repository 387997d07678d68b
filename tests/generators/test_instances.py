"""Instances: the two ways, and the rules by which instances are turned down."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest
from scripted import Scripted, in_turn

from kdaug.errors import ConfigError, ParseError
from kdaug.generators.instances import Instances, verdicts
from kdaug.parsing import Instance
from kdaug.record import Discarded, Record, assistant, user
from kdaug.teacher import Completion

TASK = Record(prompt=user("Name the mood of the text."), meta={"instruction": "Name the mood of the text.", "tag": "x"})


def ask(*replies: str | Completion, rng: int = 0, **settings: Any) -> tuple[list[Any], Scripted]:
    generate = Scripted(in_turn(*replies))
    return list(asyncio.run(Instances(**settings)([TASK], generate, Random(rng)))), generate


def reasons(found: list[tuple[str, str]], *, cut: bool = False, limit: int = 5, rng: int = 0) -> list[str]:
    drops = verdicts([Instance(*pair) for pair in found], cut=cut, limit=limit, rng=Random(rng))
    return [drop.reason.removeprefix("instances:") if drop else "kept" for drop in drops]


def test_classification_goes_output_first() -> None:
    """Input first, a model writes inputs of one label mostly: the labels must lead."""
    made, generate = ask("Yes", "Class label: glad\nInput: Sun at last!\nClass label: sad\nInput: Rain again.")
    assert len(generate.prompts) == 2
    assert "Class label" in generate.prompts[1] and "Example 1" not in generate.prompts[1]
    for call in generate.calls:
        assert call.messages[-1].role == "user" and call.messages[-1].content.startswith(
            "Task: Name the mood of the text."
        )
    assert [(r.meta["input"], r.completion) for r in made] == [
        ("Sun at last!", assistant("glad")),
        ("Rain again.", assistant("sad")),
    ]
    assert made[0].by == "instances/output_first"


def test_any_other_task_goes_input_first() -> None:
    made, generate = ask("No", "Example 1\nInput: Sun at last!\nOutput: It is glad.\nExample 2\nOutput: None given.")
    assert "Example 1" in generate.prompts[1] and "Class label" not in generate.prompts[1]
    assert made[0].prompt == user("Name the mood of the text.\n\nSun at last!")
    assert made[1].prompt == user("Name the mood of the text.")
    assert made[0].by == "instances/input_first"


@pytest.mark.parametrize("doubt", ["Maybe yes", "yEs", "", "Not sure."])
def test_only_a_plain_yes_counts(doubt: str) -> None:
    made, _ = ask(doubt, "Input: a\nOutput: b")
    assert made[0].by == "instances/input_first"


def test_a_child_has_both_halves_of_its_prompt_and_its_lineage() -> None:
    (child,), _ = ask("No", "Input: a\nOutput: b")
    assert child.kind == "completion"
    assert child.meta == {"instruction": "Name the mood of the text.", "input": "a"}
    assert child.parents == (TASK.id,) and child.replies == ("job/0", "job/1")


def test_it_samples_as_in_the_paper() -> None:
    _, generate = ask("No", "Input: a\nOutput: b")
    test, instances = (call.sampling for call in generate.calls)
    assert test == {"temperature": 0.0, "max_tokens": 3, "stop": ("\n", "Task")}
    assert instances == {
        "temperature": 0.0,
        "presence_penalty": 1.5,
        "max_tokens": 350,
        "stop": ("Example 6", "Task:"),
    }


@pytest.mark.parametrize("answer", ["Yes", "No"])
def test_a_reply_without_instances_is_a_parse_error(answer: str) -> None:
    with pytest.raises(ParseError) as error:
        ask(answer, "The mood is good.")
    assert error.value.reason == "parse:instances"


def test_what_is_turned_down_comes_out_with_its_reason() -> None:
    (good, bad), _ = ask("No", "Example 1\nInput: a\nOutput: b\nExample 2\nInput: c\nOutput: c")
    assert isinstance(good, Record)
    assert isinstance(bad, Discarded) and bad.drop.reason == "instances:output_is_input"
    assert bad.record.meta["input"] == "c"


def test_a_cut_reply_loses_its_last_instance() -> None:
    reply = Completion("Example 1\nInput: a\nOutput: b\nExample 2\nInput: c\nOutput: d an", finish_reason="length")
    (good, bad), _ = ask("No", reply)
    assert isinstance(good, Record) and isinstance(bad, Discarded)
    assert bad.drop.reason == "instances:cut"


def test_contradiction() -> None:
    assert reasons([("x", "a"), ("x", "a"), ("y", "b")]) == ["kept", "duplicate", "kept"]
    assert reasons([("x", "a"), ("x", "b"), ("y", "c")]) == ["contradiction"] * 3
    assert reasons([("", "a"), ("", "b")]) == ["kept", "kept"]


def test_an_unsound_instance_contradicts_nothing() -> None:
    assert reasons([("x", "a"), ("x", "")]) == ["kept", "empty_output"]
    assert reasons([("x", "a"), ("x", "b")], cut=True) == ["kept", "cut"]


def test_a_contradiction_shows_its_evidence() -> None:
    drop = verdicts([Instance("x", "b"), Instance("x", "a")], cut=False, limit=5, rng=Random(0))[0]
    assert drop is not None and drop.detail == {"input": "x", "outputs": ["a", "b"]}


def test_unsound_instances() -> None:
    found = [("x", "x"), ("x", ""), ("The list:", "a"), ("x", "As follows:"), ("", ""), ("x", "a: b")]
    assert reasons(found) == [
        "output_is_input",
        "empty_output",
        "trailing_colon",
        "trailing_colon",
        "empty_output",
        "kept",
    ]


def test_at_most_five_drawn_at_random() -> None:
    found = [(str(n), f"out {n}") for n in range(8)]
    drawn = [tuple(reasons(found, rng=seed)) for seed in range(20)]
    assert all(one.count("kept") == 5 and one.count("surplus") == 3 for one in drawn)
    assert len(set(drawn)) > 5
    assert reasons(found, rng=3) == reasons(found, rng=3)


def test_the_limit_counts_sound_instances_only() -> None:
    assert reasons([("a", "a"), ("b", "1"), ("b", "1"), ("c", "2")], limit=2) == [
        "output_is_input",
        "kept",
        "duplicate",
        "kept",
    ]


def test_wrong_settings() -> None:
    with pytest.raises(ConfigError, match="max_instances is 0"):
        Instances(max_instances=0)
