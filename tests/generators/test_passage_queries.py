"""Queries of passages, and the round trip that keeps those that find their passage again."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import numpy as np
import pytest
from scripted import Scripted, in_turn

from kdaug.errors import ConfigError, ParseError
from kdaug.gates.round_trip import RoundTrip
from kdaug.generators.passage_queries import PassageQueries
from kdaug.record import Discarded, Record, assistant, text_of, user
from kdaug.teacher import Completion, TokenLogprobs

MOON = "The moon pulls at the sea twice a day and the water rises along all coasts of the world."
SEEDS = [Record(prompt=user(text)) for text in (MOON, "Bread needs flour and water.", "Owls hunt at night.")]


def make(reply: Any, **how: Any) -> list[Record | Discarded]:
    return list(asyncio.run(PassageQueries(**how)(SEEDS[:1], Scripted(in_turn(reply)), Random(0))))


def test_a_query_and_its_passage() -> None:
    made = make(
        "Here:\n1. **why does the sea rise**\n2. tides\n3. what does this passage say\n4. " + MOON[:-1], count=8
    )
    first = made[0]
    assert isinstance(first, Record) and first.prompt == user("why does the sea rise")
    assert text_of(first.completion) == MOON and first.parents == (SEEDS[0].id,)
    reasons = [m.drop.reason.partition(":")[2] for m in made if isinstance(m, Discarded)]
    assert reasons == ["short", "refers", "copied"]


def test_the_mean_log_probability() -> None:
    none = np.empty((2, 0))
    seen = TokenLogprobs(np.zeros(2, int), np.array([-0.5, -1.5]), none, none, np.ones(2))
    (made,) = make(Completion("1. why does the sea rise", logprobs=seen), logprobs=1)
    assert isinstance(made, Record) and made.scores == {"query_logprob": -1.0}
    with pytest.raises(ConfigError):
        PassageQueries(count=2, logprobs=1)


def test_no_query() -> None:
    for reply in ("I cannot.", Completion("1. why does the sea", finish_reason="length")):
        with pytest.raises(ParseError):
            make(reply)


def test_the_round_trip() -> None:
    gate = RoundTrip().start(SEEDS)

    def trip(query: str, gate: RoundTrip = gate) -> str | None:
        record = Record(prompt=user(query), completion=assistant(MOON))
        drop = gate.decide(asyncio.run(gate.prepare(record, Scripted(in_turn()))))
        return drop and drop.reason

    assert trip("who pulls at the sea") is None
    assert trip("flour and water") == "round_trip:lost" and trip("xyz") == "round_trip:lost"
    assert trip("flour water", RoundTrip(k=2).start(SEEDS)) is None
