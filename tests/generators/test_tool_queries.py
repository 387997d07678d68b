"""A query keeps the tools that it needs, which must be among those drawn."""

from __future__ import annotations

import asyncio
import json
from random import Random
from typing import Any

import pytest
from scripted import Scripted, in_turn

from kdaug.errors import ParseError
from kdaug.generators.tool_queries import ToolQueries
from kdaug.record import Discarded, Record, user

SEED = Record(prompt=user("What day is it?"))


def ask(*queries: Any) -> list[Record | Discarded]:
    generate = Scripted(in_turn(json.dumps({"queries": list(queries)})))
    return list(asyncio.run(ToolQueries(drawn=6)([SEED], generate, Random(1))))


def test_the_subset_rule() -> None:
    drawn = Random(1).randint(1, 6)
    made = ask(*({"query": f"About {name}?", "tools": [name, name]} for name in ALL), {"query": "x", "tools": ["ad"]})
    kept = [record for record in made if isinstance(record, Record)]
    assert len(kept) == drawn and all(len(record.tools) == 1 for record in kept)
    assert {m.drop.reason for m in made if isinstance(m, Discarded)} == {"tool_queries:not_offered"}


ALL = ("add", "convert_temperature", "count_words", "days_of_month", "loan_payment", "reverse_text")


def test_what_is_no_query() -> None:
    reasons = [m.drop.reason for m in ask({"query": "x", "tools": []}, {"tools": ["add"]}) if isinstance(m, Discarded)]
    assert reasons == ["tool_queries:no_tools", "tool_queries:empty"]
    with pytest.raises(ParseError):
        ask()
