"""Text to SQL on scripted queries that run, fail, write, disagree and say nothing."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from scripted import Scripted, in_turn

from kdaug.errors import ConfigError, ParseError
from kdaug.generators.text_to_sql import TextToSql
from kdaug.record import Discarded, Record, text_of, user
from kdaug.teacher import Completion

SCHEMA = "CREATE TABLE book (title TEXT, pages INTEGER);\nINSERT INTO book VALUES ('A', 100), ('B', NULL);"
SEED = Record(prompt=user("books"), meta={"schema": SCHEMA})
QUESTIONS = "Sure!\n1. Which books are there?\n2. How long is the longest?\n2. Which books are there?"


def go(
    *answers: str | Completion, seed: Record = SEED, samples: int = 1, count: int = 5
) -> tuple[list[Record | Discarded], Scripted]:
    generate = Scripted(in_turn(*answers))
    return list(asyncio.run(TextToSql(samples=samples, count=count)([seed], generate, Random(0)))), generate


def test_questions_and_queries_that_ran_become_records() -> None:
    made, generate = go(QUESTIONS, "```sql\nSELECT title FROM book\n```", "SELECT max(pages) FROM book;")
    first, second = made
    assert isinstance(first, Record) and isinstance(second, Record)
    assert "CREATE TABLE book (title TEXT, pages INTEGER);" in text_of(first.prompt)
    assert "INSERT" not in text_of(first.prompt) and "Which books are there?" in text_of(first.prompt)
    assert text_of(second.completion) == "```sql\nSELECT max(pages) FROM book;\n```"
    assert first.meta == {"schema": SCHEMA} and first.scores == {"votes": 1.0} and len(first.replies) == 2
    assert [call.scope for call in generate.calls] == [(), ("0",), ("1",)]


@pytest.mark.parametrize(
    ("queries", "reason"),
    [
        (["SELECT x FROM book", "DROP TABLE book", " "], "text_to_sql:failed"),
        (["SELECT title FROM book", "SELECT pages FROM book", "SELECT 1"], "text_to_sql:split"),
        (["SELECT title FROM book", "SELECT x FROM book", "DELETE FROM book"], "text_to_sql:split"),
        (["SELECT title FROM book", "SELECT pages FROM book"] * 2, "text_to_sql:tie"),
        (["SELECT title FROM book WHERE 0"] * 3, "text_to_sql:empty"),
        (["SELECT pages FROM book WHERE title = 'B'"] * 3, "text_to_sql:empty"),
    ],
)
def test_what_is_turned_down_has_its_reason(queries: list[str], reason: str) -> None:
    made, _ = go("1. Which?", *queries, samples=len(queries))
    (only,) = made
    assert isinstance(only, Discarded) and only.drop.reason == reason
    assert "Which?" in text_of(only.record.prompt)


def test_most_rows_win_and_not_most_words() -> None:
    made, _ = go("1. Which?", "SELECT 1", "SELECT title FROM book", "SELECT title FROM book ORDER BY 1 DESC", samples=3)
    (only,) = made
    assert isinstance(only, Record) and text_of(only.completion) == "```sql\nSELECT title FROM book\n```"
    assert only.scores["votes"] == pytest.approx(2 / 3)


def test_a_seed_without_a_database_gets_one_and_a_script_that_fails_costs_no_more() -> None:
    seed = Record(prompt=user("books"))
    made, generate = go(f"```sql\n{SCHEMA}\n```", "1. Which?", "SELECT title FROM book", seed=seed)
    (only,) = made
    assert isinstance(only, Record) and only.meta["schema"] == SCHEMA + "\n" and len(only.replies) == 3
    assert "books" in generate.prompts[0]
    for script in ("I cannot.", "```sql\nCREATE TABL book;\n```", "```sql\nSELECT 1\n```", ""):
        (only,), _ = go(script, seed=seed)
        assert isinstance(only, Discarded) and only.drop.reason == "text_to_sql:schema"


def test_a_list_that_is_cut_loses_its_last_and_no_list_is_an_error() -> None:
    made, _ = go(Completion("1. Which?\n2. How lo", finish_reason="length"), "SELECT title FROM book")
    assert [r.drop.reason for r in made if isinstance(r, Discarded)] == ["text_to_sql:cut"] and len(made) == 2
    with pytest.raises(ParseError, match="no list"):
        go("I have no questions.")
    made, _ = go(QUESTIONS, "SELECT title FROM book", count=1)
    assert {r.drop.reason for r in made if isinstance(r, Discarded)} == {"text_to_sql:surplus"}
    assert sum(isinstance(r, Record) for r in made) == 1
    with pytest.raises(ConfigError, match="positive"):
        TextToSql(samples=0)
