"""RLCD: affixes of one index on both sides, the opposite on earlier turns, and none in the record."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import Any

import pytest
from scripted import Scripted, in_turn

from kdaug.erasure import PromptEraser
from kdaug.errors import ConfigError
from kdaug.generators.rlcd import Rlcd, pairs_of
from kdaug.record import Discarded, Record, assistant, text_of, user
from kdaug.teacher import Completion

TURNS = (*user("Hello, I am sad."), *assistant("I am sorry."), *user("Nobody likes me."))
RECORD = Record(prompt=TURNS)
CUT = Completion("You should", finish_reason="length")


def run(*replies: Any, record: Record = RECORD, seed: int = 0, **fields: Any) -> tuple[Any, Scripted]:
    generate = Scripted(in_turn(*replies))
    (made,) = asyncio.run(Rlcd(**fields)([record], generate, Random(seed)))
    return made, generate


def test_the_stored_prompt_is_the_plain_one_and_the_positive_side_is_chosen() -> None:
    made, _ = run("I do.", "So it is.")
    assert made.prompt == TURNS and made.kind == "preference"
    assert (text_of(made.completion), text_of(made.rejected)) == ("I do.", "So it is.")
    hidden = {affix: affix for pair in pairs_of("harmless") for affix in pair}
    assert PromptEraser(hidden).leak(made) is None


def test_both_sides_have_one_index_and_earlier_turns_the_opposite() -> None:
    drawn = Counter()  # type: ignore[var-annotated] # of pairs
    for seed in range(100):
        _, generate = run("I do.", "So it is.", seed=seed)
        good, bad = generate.prompts
        (pair,) = [p for p in pairs_of("harmless") if good.endswith(f"Assistant ({p.positive}):")]
        assert bad.endswith(f"Assistant ({pair.negative}):")
        assert f"Assistant ({pair.negative}): I am sorry." in good
        assert f"Assistant ({pair.positive}): I am sorry." in bad
        drawn[pair] += 1
    assert len(drawn) == 16
    assert len(pairs_of("helpful")) == 1


def test_a_turn_ends_before_the_next_one_and_has_no_name() -> None:
    made, _ = run("Assistant (kind): I do.\n\nHuman: Thanks.\n\nAssistant: Bye.", "So it is.")
    assert text_of(made.completion) == "I do."
    cut = Completion("I do.\nHuman: Th", finish_reason="length")
    made, _ = run(cut, "So it is.")
    assert text_of(made.completion) == "I do."


def test_it_tries_again_and_gives_up() -> None:
    made, generate = run(CUT, " ", "I do.", CUT, "So it is.")
    assert isinstance(made, Record) and len(generate.calls) == 5 and len(made.replies) == 5
    made, generate = run(*[CUT] * 5)
    assert isinstance(made, Discarded) and made.drop.reason == "rlcd:no_turn" and len(generate.calls) == 5
    made, generate = run(*[CUT] * 2, tries=2)
    assert len(generate.calls) == 2


def test_what_makes_no_pair() -> None:
    made, _ = run("I do.", "I  do.")
    assert isinstance(made, Discarded) and made.drop.reason == "rlcd:identical"
    affix = pairs_of("helpful")[0].negative
    made, _ = run("I do.", f"Here is {affix}: no.", kind="helpful")
    assert isinstance(made, Discarded) and made.drop.reason == "rlcd:leak"


@pytest.mark.parametrize("wrong", [{"kind": "funny"}, {"tries": 0}])
def test_what_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="rlcd"):
        Rlcd(**wrong)
