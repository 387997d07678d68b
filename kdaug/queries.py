"""SQL on SQLite: a query on a database that a script makes, in memory, read only; and when two results are the same."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal

from kdaug.teacher import Until, patiently
from kdaug.worker import Worker, serve

Wrong = Literal["schema", "failed", "forbidden", "timeout", "rows"]

STEPS = 20_000_000  # of SQLite's machine: the same on every one of ours
EVERY = 10_000  # steps from one look to the next
ROWS = 10_000
SIZE = 1_000_000  # bytes of a text or a statement
PAGES = 16_384  # of a database: 64 MB
READING = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE})
# SQLite would answer with its plan, whose rows are not the query's.
EXPLAINS = re.compile(r"(?>[\s;\ufeff]|--[^\n]*|/\*.*?\*/)*explain\b", re.IGNORECASE | re.DOTALL)
NEVER = frozenset({sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH, sqlite3.SQLITE_PRAGMA})

Row = tuple[Any, ...]  # Any: what a database holds


@dataclass(frozen=True)
class Rows:
    """What a query gave; or what is `wrong`: the script that makes the database, the query (`failed`), that it would do
    more than read (`forbidden`), or that it takes too long, or gives too much."""

    wrong: Wrong | None
    error: str = ""
    columns: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()


async def run_query(schema: str, query: str, until: Until = patiently) -> Rows:
    """Runs a query on a new database that the script `schema` makes (CREATE TABLE and INSERT).

    In a process of its own, so that nothing which a query does is ours: no file, no other database, no pragma.
    """
    said = await _worker.ask([schema, query], until)
    if said is None:
        return Rows("timeout", "ended at its limit of time or memory")
    wrong, error, columns, rows = said
    return Rows(wrong, error, tuple(columns), tuple(tuple(row) for row in rows))


def same_rows(given: Rows, wanted: Rows, *, ordered: bool) -> bool:
    """Whether two results are the same: the same rows as often, in the same order where `ordered`; the names of the
    columns do not matter, their order does. Numbers are compared to six digits."""
    mine, theirs = [_key(row) for row in given.rows], [_key(row) for row in wanted.rows]
    return mine == theirs if ordered else Counter(mine) == Counter(theirs)


def is_ordered(query: str) -> bool:
    """Whether a query says in which order: outside of any brackets."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"|--[^\n]*|/\*.*?\*/", " ", query, flags=re.DOTALL)
    while (inner := re.sub(r"\([^()]*\)", " ", text)) != text:
        text = inner
    return re.search(r"\border\s+by\b", text, re.IGNORECASE) is not None


def _key(row: Sequence[Any]) -> tuple[tuple[str, str], ...]:
    return tuple(
        ("number", f"{float(cell):.6g}") if isinstance(cell, int | float) else (type(cell).__name__, str(cell))
        for cell in row
    )


_worker = Worker("kdaug.queries", cpu=10, memory=512)


def answer(question: Sequence[str]) -> tuple[Wrong | None, str, Sequence[str], Sequence[Row]]:
    """The worker's side of `run_query`."""
    schema, query = question
    denied: list[int] = []
    left = STEPS

    def stop() -> bool:
        nonlocal left
        left -= EVERY
        return left < 0

    def building(action: int, first: str | None, second: str | None, database: str | None, by: str | None) -> int:
        return sqlite3.SQLITE_DENY if action in NEVER or second == "load_extension" else sqlite3.SQLITE_OK

    def reading(action: int, first: str | None, second: str | None, database: str | None, by: str | None) -> int:
        if action in READING and second != "load_extension":
            return sqlite3.SQLITE_OK
        denied.append(action)
        return sqlite3.SQLITE_DENY

    with closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
        database.execute(f"PRAGMA max_page_count={PAGES}")
        database.execute("PRAGMA temp_store=MEMORY")
        for limit in (sqlite3.SQLITE_LIMIT_LENGTH, sqlite3.SQLITE_LIMIT_SQL_LENGTH):
            database.setlimit(limit, SIZE)
        database.set_progress_handler(stop, EVERY)
        stage: Wrong = "schema"
        try:
            database.set_authorizer(building)
            database.executescript(schema)
            stage = "failed"
            if EXPLAINS.match(query):
                return "forbidden", "EXPLAIN gives SQLite's plan, not an answer", (), ()
            database.set_authorizer(reading)
            cursor = database.execute(query)
            rows = [tuple(map(_plain, row)) for row in cursor.fetchmany(ROWS + 1)]
            columns = [name for name, *_ in cursor.description or ()]
        except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as e:
            return ("timeout" if left < 0 else "forbidden" if denied else stage), str(e), (), ()
    if not columns:
        return "forbidden", "it is no query", (), ()
    if len(rows) > ROWS or sum(len(str(cell)) for row in rows for cell in row) > SIZE:
        return "rows", f"more than {ROWS:,} rows, or {SIZE:,} characters", (), ()
    return None, "", columns, rows


def _plain(cell: Any) -> Any:
    if isinstance(cell, bytes):
        return cell.hex()
    return str(cell) if isinstance(cell, float) and cell - cell != 0 else cell  # infinity is no JSON


if __name__ == "__main__":
    serve(answer)
