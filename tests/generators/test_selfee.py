"""SelFee: the grammar of its chains, their cap, and the forced revision."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest
from scripted import Scripted, in_turn

from kdaug.errors import ConfigError, ParseError
from kdaug.generators.selfee import Chain, SelFee, forced, read_chain, written
from kdaug.record import Discarded, Record, assistant, text_of, user
from kdaug.teacher import Completion

ASKED = Record(prompt=user("Name three rivers."))
BAD, GOOD = "The Alps are no river.\n\n**Verdict:** revise", "All of them are rivers.\nVerdict: accept"


def run(*replies: Any, record: Record = ASKED, **fields: Any) -> tuple[Any, Scripted]:
    generate = Scripted(in_turn(*replies))
    (made,) = asyncio.run(SelFee(**fields)([record], generate, Random(0)))
    return made, generate


def test_a_chain_ends_with_its_only_no() -> None:
    made, generate = run("Rhine, Alps", BAD, "Rhine, Elbe, Oder", GOOD)
    text = text_of(made.completion)
    assert read_chain(text) == Chain(
        ("Rhine, Alps", "Rhine, Elbe, Oder"), ("The Alps are no river.", "All of them are rivers.")
    )
    assert text.count("### Revision needed: no") == 1 and text.endswith("### Revision needed: no")
    assert "Verdict" not in text and made.prompt == ASKED.prompt and len(made.replies) == 4
    assert [call.sampling["temperature"] for call in generate.calls] == [0.7, 0.0, 0.7, 0.0]


def test_the_cap_ends_a_chain_without_a_verdict() -> None:
    made, generate = run("a", BAD, "b", BAD, "c", max_revisions=2)
    chain = read_chain(text_of(made.completion))
    assert chain.answers == ("a", "b", "c") and len(chain.feedback) == 2 and len(generate.calls) == 5


def test_an_answer_that_the_record_has_is_kept() -> None:
    record = Record(prompt=ASKED.prompt, completion=assistant("Rhine, Alps"))
    made, _ = run(GOOD, record=record)
    assert read_chain(text_of(made.completion)).answers == ("Rhine, Alps",)
    made, _ = run("Rhine", GOOD, record=record, keep_answer=False)
    assert read_chain(text_of(made.completion)).answers == ("Rhine",)


@pytest.mark.parametrize(
    ("replies", "reason"),
    [
        ([" "], "selfee:empty"),
        (["a", BAD, Completion("b", finish_reason="length")], "selfee:cut"),
        (["a\n### Feedback: mine"], "selfee:heading"),
    ],
)
def test_what_is_no_part_of_a_chain(replies: list[Any], reason: str) -> None:
    made, _ = run(*replies)
    assert isinstance(made, Discarded) and made.drop.reason == reason


def test_feedback_without_a_verdict() -> None:
    with pytest.raises(ParseError, match="verdict"):
        run("a", "Fine, I think.")


def test_reading_is_writing_backwards() -> None:
    for chain in (Chain(("a",), ("f",)), Chain(("a", "b\n\nc"), ("f",)), Chain(("a", "b"), ("f", "g"))):
        assert read_chain(written(chain)) == chain


WHOLE = written(Chain(("a", "b"), ("f", "g")))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no chain",
        WHOLE.replace("### Answer:\na\n\n", ""),
        WHOLE.replace("needed: no", "needed: yes"),
        WHOLE.replace("needed: yes", "needed: no"),
        WHOLE.replace("Revision 1", "Revision 2"),
        WHOLE + "\n\n### Feedback:\nmore",
        WHOLE.replace("### Feedback:\nf\n\n", ""),
        WHOLE.replace("\nf\n", "\n\n"),
    ],
)
def test_a_broken_grammar(text: str) -> None:
    with pytest.raises(ParseError, match="chain"):
        read_chain(text)


def test_forcing_a_revision_changes_the_verdict_alone() -> None:
    assert forced(WHOLE) == WHOLE.removesuffix("no") + "yes"
    assert forced(forced(WHOLE)) == forced(WHOLE)
    capped = written(Chain(("a", "b"), ("f",)))
    assert forced(capped) == capped


def test_no_revision_at_all_is_refused() -> None:
    with pytest.raises(ConfigError):
        SelFee(max_revisions=0)
