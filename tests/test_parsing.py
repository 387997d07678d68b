"""Parsers against what models really write."""

from __future__ import annotations

import pytest

from kdaug.parsing import (
    Instance,
    instances_input_first,
    instances_output_first,
    labelled,
    numbered_list,
    one_line,
    says_yes,
)

TWO = ["Write a poem about rust.", "Name three rivers."]


@pytest.mark.parametrize(
    "reply",
    [
        "9. Write a poem about rust.\n10. Name three rivers.",
        "1. Write a poem about rust.\n2. Name three rivers.",  # its own numbering
        "Sure! Here are two new tasks:\n\n9. Write a poem about rust.\n10. Name three rivers.\n\nI hope they help!",
        "9. Write a poem about rust.\n\n10. Name three rivers.",
        "9) Write a poem about rust.\n10) Name three rivers.",
        "(9) Write a poem about rust.\n(10) Name three rivers.",
        "9: Write a poem about rust.\n10: Name three rivers.",
        "9.Write a poem about rust.\n10.Name three rivers.",
        r"9\. Write a poem about rust." + "\n" + r"10\. Name three rivers.",
        "**9.** Write a poem about rust.\n**10.** Name three rivers.",
        "**9. Write a poem about rust.**\n**10. Name three rivers.**",
        "9. **Write a poem** about rust.\n10. **Name three rivers.**",
        "- 9. Write a poem about rust.\n- 10. Name three rivers.",
        "Task 9: Write a poem about rust.\nTask 10: Name three rivers.",
        "**Task 9:** Write a poem about rust.\n**Task 10:** Name three rivers.",
        "### Task 9\n\nWrite a poem about rust.\n\n### Task 10\n\nName three rivers.",
        "9. Instruction: Write a poem about rust.\n10. Task: Name three rivers.",
        '9. "Write a poem about rust."\n10. “Name three rivers.”',
        "9. Write a poem\n   about  rust.\n10. Name three rivers.",
        "9. Write a poem about rust.\nInput: none\nOutput: Red.\n10. Name three rivers.\n**Answer:** Rhine.",
        "Write a poem about rust.\n10. Name three rivers.",  # it goes on from the "9." that ended the prompt
        "9. 9. Write a poem about rust.\n10. 10. Name three rivers.",  # SmolLM2-135M does this
        "- Write a poem about rust.\n- Name three rivers.",
        "Here you are:\n* Write a poem about rust.\n* Name three rivers.\n\nEnjoy!",
        "9. Write a poem about rust.\r\n10. Name three rivers.\r\n",
        "9. Write a poem about rust.\n10. Name three rivers.\n11.",
    ],
)
def test_lists_as_models_write_them(reply: str) -> None:
    assert numbered_list(reply, first=9) == TWO


def test_a_truncated_last_item_is_returned_as_it_is() -> None:
    """Whether it counts is the caller's rule, for only the caller knows that the reply was cut."""
    assert numbered_list("9. Write a poem about rust.\n10. Name thr", 9) == [TWO[0], "Name thr"]


@pytest.mark.parametrize(
    ("reply", "items"),
    [
        (
            "9. Convert 3.5 litres to\n3.5 is the number of litres.",
            ["Convert 3.5 litres to 3.5 is the number of litres."],
        ),
        ("9. What is 2**10 + 3**5?", ["What is 2**10 + 3**5?"]),
        ("9. Explain what __init__ does.", ["Explain what __init__ does."]),
        ('9. "Yes" or "no": is ice lighter than water?', ['"Yes" or "no": is ice lighter than water?']),
        ("9. Write a task 3 child can do.", ["Write a task 3 child can do."]),
        ("Here are tasks:\n10. Name three rivers.", ["Name three rivers."]),
        ("10. Name three rivers.", ["Name three rivers."]),
    ],
)
def test_what_only_looks_like_a_mark_stays(reply: str, items: list[str]) -> None:
    assert numbered_list(reply, 9) == items


@pytest.mark.parametrize("reply", ["", "  \n ", "I cannot help with that.", "Here are new tasks:"])
def test_no_list(reply: str) -> None:
    assert numbered_list(reply, 9) == []


def test_what_is_parsed_can_be_shown_and_parsed_again() -> None:
    items = numbered_list("9. a b\n\n**10.** c: d\n- 11. e (f)", 9)
    assert numbered_list("\n".join(f"{n}. {item}" for n, item in enumerate(items, 9)), 9) == items


def test_one_line() -> None:
    assert one_line(" a\n\tb  c ") == "a b c"


@pytest.mark.parametrize("answer", ["Yes", " yes", "YES.", "**Yes**", "Yes, it", "\nyes"])
def test_yes(answer: str) -> None:
    assert says_yes(answer)


@pytest.mark.parametrize("answer", ["No", "", "yEs", "Yesterday", "No, yes", "It is: yes"])
def test_not_yes(answer: str) -> None:
    assert not says_yes(answer)


GOOD = Instance("Cold soup.", "negative")
FINE = Instance("Lovely staff!\nSee you.", "positive")


@pytest.mark.parametrize(
    "reply",
    [
        "Class label: negative\nInput: Cold soup.\nClass label: positive\nInput: Lovely staff!\nSee you.",
        "class label: negative\nCold soup.\n\nClass Label: positive\nLovely staff!\nSee you.\n",
        "Sure.\n\n**Class label:** negative\n**Input:** Cold soup.\n\n"
        "**Class label:** positive\n**Input:** Lovely staff!\nSee you.",
        "Class label 1: negative\nInput: Cold soup.\nClass label 2: **positive**\nInput:\nLovely staff!\nSee you.",
        "- Class label: negative\n  Input: Cold soup.\n- Class label: positive\n  Input: Lovely staff!\nSee you.",
    ],
)
def test_output_first(reply: str) -> None:
    assert instances_output_first(reply) == [GOOD, FINE]


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("Class label: yes", [Instance("", "yes")]),
        ("Class label: yes\nInput: (none)", [Instance("", "yes")]),
        ("Class label:\nInput: a", [Instance("a", "")]),
        ("negative: Cold soup.", []),
        ("", []),
    ],
)
def test_output_first_at_its_edges(reply: str, found: list[Instance]) -> None:
    assert instances_output_first(reply) == found


ADD, DOUBLE = Instance("2 and 3", "5"), Instance("4 and 4", "8\nTwice four.")


@pytest.mark.parametrize(
    "reply",
    [
        "Example 1\nInput: 2 and 3\nOutput: 5\nExample 2\nInput: 4 and 4\nOutput: 8\nTwice four.",
        "Input: 2 and 3\nOutput: 5\n\nExample 2\n\nInput: 4 and 4\nOutput: 8\nTwice four.\n",
        "Here are two examples:\n\n**Example 1:**\n**Input:** 2 and 3\n**Output:** 5\n\n"
        "**Example 2:**\n**Input:** 4 and 4\n**Output:** 8\nTwice four.",
        "### Example 1\nInput: 2 and 3\n\nOutput: 5\n\n### Example 2\nInput:\n4 and 4\nOutput:\n8\nTwice four.",
        "Example 1\nInput: 2 and 3\nOutput: 5\nInput: 9 and 9\nExample 2\nInput: 4 and 4\nOutput: 8\nTwice four.",
    ],
)
def test_input_first(reply: str) -> None:
    assert instances_input_first(reply) == [ADD, DOUBLE]


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("Input: 2 and 3\nOutput: 5", [ADD]),  # no example, but an output
        ("Output: The sea is calm.", [Instance("", "The sea is calm.")]),
        ("Example 1\nInput: None\nOutput: The sea is calm.", [Instance("", "The sea is calm.")]),
        ("Input: 2 and 3\nOutput: 5\nInput: 1 and 1\nOutput: 2", [ADD]),  # a second input truncates
        ("Example 1\nInput: 2 and 3\nExample 2\nInput: 2 and 3\nOutput: 5", [Instance("2 and 3", ""), ADD]),
        ("Example 1\nOutput:", [Instance("", "")]),
        ("Example 1\nInput: 2 and 3\nOutput: 5\nExample 2\nInput: 4 a", [ADD, Instance("4 a", "")]),  # truncated
        ("For example 1 of 3, see Input: x.", []),
        ("The sea is calm.", []),
        ("", []),
    ],
)
def test_input_first_at_its_edges(reply: str, found: list[Instance]) -> None:
    assert instances_input_first(reply) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Thoughts: rule 2\nAnswer: yes", ("rule 2", "yes")),
        ("Sure!\n**Thoughts:** a\nb\n\n## Answer: c\nd", ("a\nb", "c\nd")),
        ("Answer: yes", None),
        ("Answer: yes\nThoughts: late", None),
        ("Thoughts: a\nAnswer: b\nAnswer: c", None),
        ("", None),
    ],
)
def test_labelled_parts(text: str, found: tuple[str, ...] | None) -> None:
    assert labelled(text, "Thoughts", "Answer") == found
