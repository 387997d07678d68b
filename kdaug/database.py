"""One SQLite file with one writer and group commit: whoever writes awaits the transaction that holds his row, and one
transaction takes all rows that came while the one before it was on its way to the disk."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from kdaug.errors import ConfigError, JournalError

BEHIND = 16 * 2**20  # bytes that may wait for the disk

Row: TypeAlias = tuple[str, tuple[object, ...]]  # a statement, and its values


class Database:
    """Opens `path` for one process at a time, or, without `write`, to look at it meanwhile.

    `before` is called for each transaction, and returns what the writing thread does first: the files
    that the rows speak of. Raises ConfigError when another process holds the database, JournalError when it cannot be
    read or written.
    """

    def __init__(self, path: Path, schema: str, *, write: bool, before: Callable[[], Callable[[], None]]) -> None:
        from filelock import FileLock, Timeout

        self.path, self._before = path, before
        self._pending: list[tuple[Row, asyncio.Future[None] | None]] = []
        self._waiting = 0  # bytes of what is pending
        self._flusher: asyncio.Task[None] | None = None
        self._broken: JournalError | None = None
        self._lock = FileLock(path.with_name("run.lock"))
        if write:
            try:
                self._lock.acquire(timeout=0)
            except Timeout as e:
                raise ConfigError(
                    f"another run is writing to {path.parent}: wait for it, or choose another --out"
                ) from e
        elif not path.is_file():
            raise ConfigError(f"{path.parent} is not a run folder: it has no {path.name}")
        with guarded(path, "open"):
            address = f"{path.absolute().as_uri()}?mode={'rwc' if write else 'ro'}"
            self._reader, self._writer = (
                sqlite3.connect(address, uri=True, check_same_thread=False, isolation_level=None) for _ in range(2)
            )
            if write:
                prepare(self._writer, schema)

    def add(self, statement: str, *values: object) -> None:
        """Returns at once; the row is written in its turn."""
        self._add((statement, values), None)

    async def write(self, statement: str, *values: object) -> None:
        """Returns when the row is durable."""
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._add((statement, values), durable)
        await durable

    def write_now(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        """One transaction, while no other is under way."""
        with guarded(self.path, "write"), transaction(self._writer):
            self._writer.executemany(statement, rows)

    @property
    def behind(self) -> bool:
        """Whether the disk is slower than what is added: who goes on adding fills the memory."""
        return self._waiting > BEHIND

    async def drained(self) -> None:
        """Returns when all that was added so far is durable."""
        while self._flusher is not None:
            await asyncio.wait([self._flusher])
        if self._broken is not None:
            raise self._broken

    def select(self, query: str, *values: object) -> list[Any]:
        with guarded(self.path, "read"):
            return self._reader.execute(query, values).fetchall()

    def close(self) -> None:
        for connection in (self._reader, self._writer):
            connection.close()
        self._lock.release()

    def _add(self, row: Row, durable: asyncio.Future[None] | None) -> None:
        if self._broken is not None:
            raise self._broken
        self._pending.append((row, durable))
        self._waiting += sum(len(value) for value in row[1] if isinstance(value, bytes))
        if self._flusher is None:
            self._flusher = asyncio.get_running_loop().create_task(self._flush())

    async def _flush(self) -> None:
        """Writes what is pending, transaction by transaction, and ends when nothing is."""
        try:
            while self._pending:
                batch, self._pending, self._waiting = self._pending, [], 0
                first = self._before()
                self._begin([row for row, _ in batch])
                await asyncio.to_thread(self._commit, first)
                for _, durable in batch:
                    if durable is not None and not durable.done():
                        durable.set_result(None)
        except JournalError as e:
            self._broken = e
            for _, durable in [*batch, *self._pending]:
                if durable is not None and not durable.done():
                    durable.set_exception(e)
            self._pending.clear()
        finally:
            self._flusher = None

    def _begin(self, rows: list[Row]) -> None:
        """A few microseconds a row, in memory. In a thread each statement would wait its turn with the event loop's: up
        to 5 ms, where that is busy."""
        with guarded(self.path, "write"):
            self._writer.execute("BEGIN IMMEDIATE")
            for statement, values in rows:
                self._writer.execute(statement, values)

    def _commit(self, first: Callable[[], None]) -> None:
        """In a thread: this is what waits for the disk."""
        first()
        with guarded(self.path, "write"):
            self._writer.execute("COMMIT")


def prepare(base: sqlite3.Connection, schema: str) -> None:
    """For writing: a transaction is on the disk when it returns, even if the machine loses power next."""
    base.execute("PRAGMA journal_mode=WAL")
    base.execute("PRAGMA synchronous=FULL")
    base.executescript(schema)


@contextmanager
def transaction(base: sqlite3.Connection) -> Iterator[None]:
    """All that is executed within, or nothing."""
    base.execute("BEGIN IMMEDIATE")
    try:
        yield
        base.execute("COMMIT")
    except BaseException:
        if base.in_transaction:
            base.execute("ROLLBACK")
        raise


@contextmanager
def guarded(path: Path, doing: str) -> Iterator[None]:
    """Every SQLite error becomes ours, with the way out."""
    try:
        yield
    except sqlite3.DatabaseError as e:
        text = str(e)
        if "locked" in text:
            raise JournalError(f"{path} is locked by another program: end it and run again") from e
        if "malformed" in text or "not a database" in text:
            way_out = "restore it from a copy, or start anew with another --out"
            raise JournalError(f"{path} is damaged ({text}): {way_out}") from e
        way_out = "free the disk or make the folder writable, then run the same command: nothing is lost"
        raise JournalError(f"cannot {doing} {path} ({text}): {way_out}") from e
