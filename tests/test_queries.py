"""Queries on SQLite: read only, bounded, compared as results and not as text; the gate and its reasons."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest
from scripted import Scripted, in_turn

from kdaug import queries
from kdaug.gates.sql import Sql
from kdaug.queries import Rows, answer, is_ordered, run_query, same_rows
from kdaug.record import Json, Record, assistant, user
from kdaug.worker import Worker

SCHEMA = """
CREATE TABLE book (title TEXT, pages INTEGER, price REAL);
INSERT INTO book VALUES ('A', 100, 1.5), ('B', 300, 2.5), ('C', 300, NULL);
"""


def ask(query: str, schema: str = SCHEMA) -> Rows:
    return asyncio.run(run_query(schema, query))


def test_a_query_gives_its_rows() -> None:
    assert ask("SELECT title, pages AS p FROM book WHERE pages > 200 ORDER BY title;") == Rows(
        None, "", ("title", "p"), (("B", 300), ("C", 300))
    )
    assert ask("WITH big AS (SELECT * FROM book) SELECT avg(price), x'00ff', 9e999 FROM big").rows == (
        (2.0, "00ff", "inf"),
    )
    assert ask("SELECT title FROM book WHERE 0").rows == ()
    assert ask("/* explain */ SELECT 1 AS explain").rows == ((1,),)


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("SELECT nothing FROM book", "failed"),
        ("SELEC title FROM book", "failed"),
        ("SELECT 1; SELECT 2", "failed"),
        ("", "forbidden"),
        ("-- nothing", "forbidden"),
        ("SELECT '\x00", "failed"),
        ("EXPLAIN SELECT title FROM book", "forbidden"),
        ("-- see\n/* a */; explain query plan SELECT title FROM book", "forbidden"),
        ("DELETE FROM book", "forbidden"),
        ("INSERT INTO book VALUES ('D', 1, 1)", "forbidden"),
        ("DROP TABLE book", "forbidden"),
        ("PRAGMA writable_schema=1", "forbidden"),
        ("CREATE TEMP TABLE t (x)", "forbidden"),
        ("ATTACH 'x.db' AS x", "forbidden"),
        ("VACUUM INTO 'x.db'", "forbidden"),
        ("SELECT load_extension('x')", "forbidden"),
        ("SELECT readfile('/etc/passwd')", "failed"),
        ("WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n", "timeout"),
        ("WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 20000) SELECT x FROM n", "rows"),
        ("SELECT zeroblob(500000000)", "failed"),
        ("SELECT hex(zeroblob(900000)) FROM book", "failed"),
    ],
)
def test_all_else_has_a_name(query: str, wrong: str) -> None:
    assert answer([SCHEMA, query])[0] == wrong


@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABL x",
        "ATTACH 'x.db' AS x",
        "PRAGMA journal_mode=WAL",
        "CREATE TABLE t (x); WITH RECURSIVE n(x) AS (SELECT zeroblob(999999) UNION ALL SELECT x FROM n) "
        "INSERT INTO t SELECT x FROM n",
    ],
)
def test_scripts_that_make_no_database(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert answer([script, "SELECT 1"])[0] == "schema"
    assert list(tmp_path.iterdir()) == []


def test_a_query_that_eats_memory_ends_the_worker_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "_worker", Worker("kdaug.queries", cpu=2, memory=256))
    bomb = "WITH RECURSIVE n(x, y) AS (SELECT 1, zeroblob(900000) UNION ALL SELECT x + 1, zeroblob(900000) FROM n) "
    assert ask(f"{bomb} SELECT y FROM n ORDER BY x DESC").wrong in ("timeout", "failed")
    assert ask("SELECT 1").rows == ((1,),)


def test_results_are_compared_as_results() -> None:
    def rows(*found: tuple[object, ...]) -> Rows:
        return Rows(None, rows=found)

    assert same_rows(rows((1, "a"), (2, "b")), rows((2, "b"), (1, "a")), ordered=False)
    assert not same_rows(rows((1, "a"), (2, "b")), rows((2, "b"), (1, "a")), ordered=True)
    assert not same_rows(rows((1,), (1,)), rows((1,)), ordered=False)
    assert same_rows(rows((1,)), rows((1.0000000001,)), ordered=True)
    assert not same_rows(rows((1,)), rows(("1",)), ordered=True)
    assert same_rows(rows((None,)), rows((None,)), ordered=True)
    assert is_ordered("select a from b order  by c")
    assert not is_ordered("SELECT * FROM (SELECT a FROM b ORDER BY c) WHERE d = 'order by'")


@pytest.mark.parametrize(
    ("query", "meta", "reason"),
    [
        ("SELECT title FROM book WHERE pages = 300", {}, None),
        ("SELECT title FROM book WHERE pages = 300", {"reference": "SELECT title FROM book WHERE pages > 200"}, None),
        (
            "SELECT title FROM book WHERE pages = 100",
            {"reference": "SELECT title FROM book WHERE pages > 200"},
            "sql:wrong",
        ),
        (
            "SELECT title FROM book ORDER BY title",
            {"reference": "SELECT title FROM book ORDER BY title DESC"},
            "sql:wrong",
        ),
        ("SELECT title FROM book", {"reference": "SELECT x FROM book"}, "sql:reference"),
        ("SELECT title FROM book WHERE pages = 1", {}, "sql:empty"),
        ("SELECT x FROM book", {}, "sql:failed"),
        ("DROP TABLE book", {}, "sql:forbidden"),
        ("EXPLAIN SELECT title FROM book", {}, "sql:forbidden"),
        ("SELECT 1", {"schema": "CREATE TABLE"}, "sql:schema"),
        ("SELECT 1", {"schema": ""}, "sql:no_schema"),
        ("", {}, "sql:none"),
    ],
)
def test_the_gate_has_a_reason_for_each(query: str, meta: dict[str, Json], reason: str | None) -> None:
    text = f"Here:\n```sql\n{query}\n```" if query else "```python\n1\n```"
    record = Record(prompt=user("?"), completion=assistant(text), meta={"schema": SCHEMA, **meta})
    gate = Sql(need_rows=True)
    drop = gate.decide(asyncio.run(gate.prepare(record, Scripted(in_turn()))))
    assert (drop.reason if drop else None) == reason


def test_a_process_that_was_ended_from_without_is_no_answer_and_the_next_is_answered() -> None:
    async def ask() -> list[str | None]:
        first = await queries.run_query("", "SELECT 1")
        process = queries._worker._process
        assert first.wrong is None and process is not None
        process.kill()
        process.wait()
        return [(await queries.run_query("", "SELECT 1")).wrong for _ in range(2)]

    assert asyncio.run(ask()) == ["timeout", None]


def test_at_the_end_of_a_run_no_question_waits_for_its_turn() -> None:
    class Over(Exception):
        pass

    async def over(waiting: Awaitable[Any], failed: object = None) -> Any:
        waiting.close()  # type: ignore[attr-defined] # a coroutine
        raise Over

    async def ask() -> str | None:
        with pytest.raises(Over):
            await queries.run_query("", "SELECT 1", over)
        return (await queries.run_query("", "SELECT 1")).wrong

    assert asyncio.run(ask()) is None
