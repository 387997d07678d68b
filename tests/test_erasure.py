"""Erasure: hidden context is found by runs of six words, wherever in a record it stands."""

from __future__ import annotations

import pytest

from kdaug.erasure import PromptEraser
from kdaug.errors import ConfigError
from kdaug.record import Record, assistant, system, user

STRATEGY = "First recall every fact that bears on the question, then write the answer in one sentence."
ERASER = PromptEraser({"recall": STRATEGY, "affix": "a rude answer"})
PLAIN = Record(prompt=user("What is dew?"), completion=assistant("Water from the air."))


def test_five_words_in_a_row_are_no_leak_and_six_are() -> None:
    assert ERASER.find("I recall every fact that bears fruit.") is None  # five
    found = ERASER.find("So: RECALL every fact, that bears — on it.")
    assert found is not None and found.source == "recall" and found.run == "recall every fact that bears on"


def test_a_short_hidden_text_leaks_as_a_whole() -> None:
    found = ERASER.find("Here is a rude answer for you.")
    assert found is not None and found.source == "affix"
    assert ERASER.find("a rude remark") is None
    assert PromptEraser({"tiny": "be kind"}).find("be kind") is None  # two words occur in any text


@pytest.mark.parametrize("part", ["prompt", "completion", "rejected"])
def test_every_message_of_a_record_is_looked_at(part: str) -> None:
    assert ERASER.leak(PLAIN) is None and ERASER.drop("orca2", PLAIN) is None
    made = {"prompt": user, "completion": assistant, "rejected": assistant}[part](f"Well. {STRATEGY}")
    leaking = PLAIN.child(by="x", **{part: made})
    drop = ERASER.drop("orca2", leaking)
    assert drop is not None and drop.reason == "orca2:leak" and drop.detail["source"] == "recall"


def test_what_the_user_said_too_is_no_leak() -> None:
    asked = user("Please recall every fact that bears on dew.")
    record = Record(prompt=asked, completion=assistant("ok"))
    assert ERASER.leak(record) is not None
    assert ERASER.leak(record, given=asked) is None


def test_erasing_puts_the_generic_message_in_its_place_and_twice_is_once() -> None:
    told = (*system(STRATEGY), *user("What is dew?"))
    once = ERASER.erased(told, "You are careful.")
    assert once == (*system("You are careful."), *user("What is dew?"))
    assert ERASER.erased(once, "You are careful.") == once
    assert ERASER.erased(told) == user("What is dew?")
    own = (*system("Answer in French."), *user("What is dew?"))
    assert ERASER.erased(own, "You are careful.") == own


def test_part_of_a_strategy_is_erased_as_the_whole() -> None:
    half = system("Be brief. Recall every fact that bears on the question.")
    assert ERASER.erased(half, "") == ()


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 6"):
        PromptEraser({}, n=5)
    with pytest.raises(ConfigError, match="words of recall"):
        ERASER.erased(system("x"), STRATEGY)
