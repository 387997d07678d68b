"""What a batch teacher keeps in the run's folder: which requests went where, and the replies that came back.

SQLite and not a JSON file a batch: ten thousand requests change their state one by one, each change has to be on the
disk before the next step is taken, and another process (`kdaug batches`) looks at it meanwhile.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdaug.database import guarded, prepare, transaction

FILE = "batches.sqlite"
SCHEMA = """
CREATE TABLE IF NOT EXISTS batches (
    tag TEXT PRIMARY KEY, model TEXT NOT NULL, base_url TEXT NOT NULL, key_env TEXT NOT NULL, key_file TEXT NOT NULL,
    size INTEGER NOT NULL, planned REAL NOT NULL, file TEXT NOT NULL DEFAULT '', tried REAL NOT NULL DEFAULT 0,
    batch TEXT NOT NULL DEFAULT '', state TEXT NOT NULL DEFAULT 'planned', completed INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0, over INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS requests (id TEXT PRIMARY KEY, tag TEXT NOT NULL, reply BLOB);
CREATE INDEX IF NOT EXISTS requests_by_tag ON requests (tag);
"""
COLUMNS = "tag, model, base_url, key_env, key_file, size, planned, file, tried, batch, state, completed, failed, over"


@dataclass(frozen=True, slots=True)
class Access:
    """Where a batch was sent, and what holds the key to it."""

    model: str
    base_url: str
    key_env: str
    key_file: str


@dataclass(slots=True)
class Sent:
    """One batch, from the intent to its last reply.

    `tag` names the intent, in the batch's metadata too. `file`, `tried` (the time at which its creation was begun) and
    `batch` are set one after the other, each before the next step is taken; `over`: its replies are all here.
    """

    tag: str
    access: Access
    size: int
    planned: float
    file: str = ""
    tried: float = 0.0
    batch: str = ""
    state: str = "planned"
    completed: int = 0
    failed: int = 0
    over: int = 0  # SQLite's truth


class Ledger:
    """Every write is durable when it returns. Raises JournalError where the file cannot be read or written."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        with guarded(self.path, "open"):
            # Writes of a few milliseconds, a few in an hour: a thread for them, as the journal has it, would not pay.
            self._base = sqlite3.connect(self.path, isolation_level=None, timeout=30)
            prepare(self._base, SCHEMA)

    def plan(self, access: Access, ids: Sequence[str]) -> Sent:
        """The intent to send these requests as one batch."""
        sent = Sent(secrets.token_hex(16), access, len(ids), time.time())
        head = (sent.tag, access.model, access.base_url, access.key_env, access.key_file, sent.size, sent.planned)
        with guarded(self.path, "write"), transaction(self._base):
            self._base.execute(
                "INSERT INTO batches (tag, model, base_url, key_env, key_file, size, planned)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                head,
            )
            rows = ((id, sent.tag) for id in ids)
            self._base.executemany("INSERT OR REPLACE INTO requests VALUES (?, ?, NULL)", rows)
        return sent

    def note(self, sent: Sent) -> None:
        """How far a batch has come."""
        values = (sent.file, sent.tried, sent.batch, sent.state, sent.completed, sent.failed, sent.over, sent.tag)
        with guarded(self.path, "write"), transaction(self._base):
            self._base.execute(
                "UPDATE batches SET file = ?, tried = ?, batch = ?, state = ?, completed = ?, failed = ?, over = ?"
                " WHERE tag = ?",
                values,
            )

    def end(self, sent: Sent) -> None:
        """No more replies will come: the requests without one are free to be sent anew."""
        sent.over = 1
        with guarded(self.path, "write"):
            self._base.execute("DELETE FROM requests WHERE tag = ? AND reply IS NULL", (sent.tag,))
        self.note(sent)

    def batches(self) -> list[Sent]:
        """All of them, the oldest first."""
        with guarded(self.path, "read"):
            rows = self._base.execute(f"SELECT {COLUMNS} FROM batches ORDER BY planned, tag").fetchall()
        return [Sent(row[0], Access(*row[1:5]), *row[5:]) for row in rows]

    def add_replies(self, sent: Sent, replies: Iterable[tuple[str, bytes]]) -> None:
        rows = ((reply, id, sent.tag) for id, reply in replies)
        with guarded(self.path, "write"), transaction(self._base):
            self._base.executemany("UPDATE requests SET reply = ? WHERE id = ? AND tag = ?", rows)

    def ids(self, sent: Sent) -> list[str]:
        with guarded(self.path, "read"):
            return [id for (id,) in self._base.execute("SELECT id FROM requests WHERE tag = ?", (sent.tag,))]

    def find(self, id: str) -> tuple[str, bytes | None] | None:
        """The tag of the batch that a request is in, and its reply where that has come."""
        with guarded(self.path, "read"):
            row: tuple[str, bytes | None] | None = self._base.execute(
                "SELECT tag, reply FROM requests WHERE id = ?", (id,)
            ).fetchone()
        return row

    def forget(self, ids: Iterable[str]) -> None:
        with guarded(self.path, "write"), transaction(self._base):
            self._base.executemany("DELETE FROM requests WHERE id = ?", ((id,) for id in ids))

    def close(self) -> None:
        self._base.close()
