"""The database: what waits for the disk is bounded."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from kdaug.database import BEHIND, Database, Row
from kdaug.journal import Commit, Journal, Kept
from kdaug.record import Record, user

MEGABYTE = 2**20


def test_who_adds_faster_than_the_disk_writes_is_held_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    real = Database._begin

    def slow(self: Database, rows: list[Row]) -> None:
        time.sleep(0.02)
        written.append(sum(len(value) for _, values in rows for value in values if isinstance(value, bytes)))
        real(self, rows)

    monkeypatch.setattr(Database, "_begin", slow)

    async def add() -> None:
        journal = Journal(tmp_path)
        for job in range(64):
            journal.add_commit(0, job, Commit((Kept(0, Record(prompt=user("x" * MEGABYTE))),), ()))
            await journal.keep_up()
        await journal.drained()
        assert journal.committed(0) == 64
        journal.close()

    asyncio.run(add())
    assert sum(written) > 64 * MEGABYTE
    assert max(written) <= BEHIND + 2 * MEGABYTE
