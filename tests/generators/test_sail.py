"""SAIL: what is shown, what is said of it, and that both can be read back."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import product
from random import Random
from typing import Any

import pytest
from scripted import Scripted

from kdaug.errors import ParseError
from kdaug.generators.sail import Sail, filter_statement, parse_filter
from kdaug.record import Discarded, Record, assistant, text_of, user

RECORD = Record(
    prompt=user("Who looks after the lighthouse, and how do owls hunt?"), completion=assistant("Nobody does.")
)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_statement_can_be_read_back(count: int) -> None:
    for labels in product([True, False], repeat=count):
        assert parse_filter(f"{filter_statement(labels)}\n\nAnswer.", count) == list(labels)


def test_a_statement_that_is_none() -> None:
    for text in ("Search results (1) are informative, and (1) are distracting.", "Nobody does.", ""):
        with pytest.raises(ParseError):
            parse_filter(text, 2)


def make(seed: int, verdict: str = "entailed", record: Record = RECORD) -> Any:
    generate = Scripted(lambda role, prompt, sampling: verdict)
    (made,) = asyncio.run(SAIL([record], generate, Random(seed)))
    return made


SAIL = Sail()


def test_how_many_are_shown() -> None:
    shown = Counter(text_of(make(seed).prompt).count("Search result (") for seed in range(500))
    assert [abs(shown[n] / 500 - share) < 0.09 for n, share in enumerate((0.2, 0.1, 0.3, 0.4))] == [True] * 4


def test_no_results_no_statement() -> None:
    plain = next(made for seed in range(99) if (made := make(seed)).by == "sail/plain")
    assert plain.prompt == RECORD.prompt and plain.completion == RECORD.completion
    told = next(made for seed in range(99) if (made := make(seed, "neutral")).by == "sail")
    assert text_of(told.completion) == "All search results are distracting.\n\nNobody does."
    assert text_of(told.prompt).endswith(text_of(RECORD.prompt))


def test_what_cannot_be_labelled() -> None:
    with pytest.raises(ParseError):
        for seed in range(9):
            make(seed, "maybe")
    made = make(0, record=Record(prompt=user("Who?")))
    assert isinstance(made, Discarded) and made.drop.reason == "sail:no_answer"
