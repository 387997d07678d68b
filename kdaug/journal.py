"""The journal: every reply and every decision of a run, in one SQLite file, so that nothing is asked or decided twice.

One writer, group commit: whoever writes awaits the transaction that holds his row, and one transaction takes all rows
that came while the one before it was on its way to the disk. Job numbers of a stage are committed in order, without
holes, so a kill can only take the newest ones; what they were decided from (the replies) was durable before.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import orjson

import kdaug.errors
from kdaug.errors import ConfigError, JournalError, TeacherError, snake_case
from kdaug.logprobs import Place, Shards
from kdaug.record import Drop, Json, Record, ToolCall
from kdaug.teacher import Completion, Request, TokenLogprobs, Usage

FORMAT = 2
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS replies (
    stage INTEGER NOT NULL, job INTEGER NOT NULL, key TEXT NOT NULL, role TEXT NOT NULL, teacher TEXT NOT NULL,
    request BLOB NOT NULL, reply BLOB NOT NULL, failed INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS replies_by_job ON replies (stage, job);
CREATE TABLE IF NOT EXISTS seeds (id TEXT PRIMARY KEY, record BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS reservations (
    id INTEGER PRIMARY KEY, stage INTEGER NOT NULL, job INTEGER NOT NULL, teacher TEXT NOT NULL,
    calls INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS commits (id INTEGER PRIMARY KEY, kept BLOB NOT NULL, dropped BLOB NOT NULL);
"""
# A commit's id is its place: stage in the high bits, job number in the low ones. Reading a stage is one range scan.
STAGE_BITS = 40
PAGE = 512  # commits read at a time
SECOND_TURN = ".1"  # ends the key of a call that corrects the reply of another one


@dataclass(frozen=True, slots=True)
class Kept:
    """`child` is the record's place among those that its job made: gates are scoped by it."""

    child: int
    record: Record


@dataclass(frozen=True, slots=True)
class Dropped:
    """`record` is None where a whole job of several parents fell."""

    child: int
    record: Record | None
    drop: Drop


@dataclass(frozen=True, slots=True)
class Failed:
    """The place of a drop: job and child."""

    job: int
    child: int


@dataclass(frozen=True, slots=True)
class Commit:
    kept: tuple[Kept, ...]
    dropped: tuple[Dropped, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """One reply as the journal has it, with the request that it answers."""

    key: str
    role: str
    teacher: str
    request: Mapping[str, Any]
    reply: Completion | TeacherError


@dataclass(frozen=True, slots=True)
class Used:
    """What one stage asked of one teacher. `unclear_…`: tokens at most of attempts that may have been billed too."""

    stage: int
    teacher: str
    calls: int
    failed: int
    prompt_tokens: int
    completion_tokens: int
    unclear_prompt_tokens: int
    unclear_completion_tokens: int


@dataclass(frozen=True, slots=True)
class Asked:
    calls: int
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class JobUse:
    """What one decided job kept, and what it asked, by teacher."""

    kept: int
    used: Mapping[str, Asked]


Row = tuple[str, tuple[object, ...]]
ADD_REPLY = "INSERT INTO replies VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
ADD_COMMIT = "INSERT OR REPLACE INTO commits VALUES (?, ?, ?)"
RESERVE = "INSERT INTO reservations VALUES (?, ?, ?, ?, 1, ?, ?)"
ADD_META = "INSERT OR REPLACE INTO meta VALUES (?, ?)"


class Journal:
    """`Journal(folder)` opens `folder/journal.sqlite` for one run at a time; `Journal.read_only` looks at it meanwhile.

    Raises ConfigError when another run holds it, JournalError when it cannot be read or written.
    """

    def __init__(self, folder: Path, *, _write: bool = True) -> None:
        from filelock import FileLock, Timeout

        self.path = folder / "journal.sqlite"
        self.logprobs = Shards(folder / "logprobs")
        self._pending: list[tuple[Row, asyncio.Future[None] | None]] = []
        self._flusher: asyncio.Task[None] | None = None
        self._broken: JournalError | None = None
        self._lock = FileLock(folder / "run.lock")
        if _write:
            try:
                self._lock.acquire(timeout=0)
            except Timeout as e:
                raise ConfigError(f"another run is writing to {folder}: wait for it, or choose another --out") from e
        elif not self.path.is_file():
            raise ConfigError(f"{folder} is not a run folder: it has no journal.sqlite")
        with self._guarded("open"):
            address = str(self.path) if _write else f"{self.path.absolute().as_uri()}?mode=ro"
            self._reader = sqlite3.connect(address, uri=not _write, check_same_thread=False)
            self._writer = sqlite3.connect(address, uri=not _write, check_same_thread=False, isolation_level=None)
            if _write:
                self._writer.execute("PRAGMA journal_mode=WAL")
                # FULL: a transaction is on the disk when it returns, even if the machine loses power next.
                self._writer.execute("PRAGMA synchronous=FULL")
                self._writer.executescript(SCHEMA)
            found = self.meta("format")
            if found is None and _write:
                self.set_meta("format", FORMAT)
            elif found != FORMAT:
                raise JournalError(f"{self.path} has format {found}, this kdaug reads {FORMAT}: use another --out")

    @classmethod
    def read_only(cls, folder: Path) -> Journal:
        return cls(folder, _write=False)

    # -- writing ---------------------------------------------------------------------------------------------------

    async def add_reply(
        self,
        stage: int,
        job: int,
        key: str,
        role: str,
        teacher: str,
        request: Request,
        reply: Completion | TeacherError,
    ) -> None:
        """Returns when the reply is durable."""
        usage = reply.usage if isinstance(reply, Completion) else Usage()
        row = (
            stage,
            job,
            key,
            role,
            teacher,
            orjson.dumps(request.to_json()),
            orjson.dumps(self._reply_to_json(reply)),
            isinstance(reply, TeacherError),
            usage.prompt_tokens,
            usage.completion_tokens,
        )
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._add((ADD_REPLY, row), durable)
        await durable

    def add_commit(self, stage: int, job: int, commit: Commit) -> None:
        """Returns at once: a commit that a kill takes is decided again, alike, from the replies."""
        kept = [[k.child, k.record.to_json()] for k in commit.kept]
        dropped = [
            [d.child, None if d.record is None else d.record.to_json(), d.drop.reason, d.drop.detail]
            for d in commit.dropped
        ]
        self._add((ADD_COMMIT, (stage << STAGE_BITS | job, orjson.dumps(kept), orjson.dumps(dropped))), None)

    async def reserve(
        self, id: int, stage: int, job: int, teacher: str, prompt_tokens: int, completion_tokens: int
    ) -> None:
        """Returns when it is durable that an attempt at a call may cost so much."""
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._add((RESERVE, (id, stage, job, teacher, prompt_tokens, completion_tokens)), durable)
        await durable

    def settle(self, id: int, *, calls: bool, billed: bool) -> None:
        """What stays of a reservation: the attempt where no reply counts it, its tokens where it may have been billed.

        Added before the reply that settles it, and so written in the same transaction or an earlier one.
        """
        if not billed and not calls:
            self._add(("DELETE FROM reservations WHERE id = ?", (id,)), None)
        elif not billed:
            self._add(("UPDATE reservations SET prompt_tokens = 0, completion_tokens = 0 WHERE id = ?", (id,)), None)
        elif not calls:
            self._add(("UPDATE reservations SET calls = 0 WHERE id = ?", (id,)), None)

    async def drained(self) -> None:
        """Returns when all that was added so far is durable."""
        while self._flusher is not None:
            await asyncio.wait([self._flusher])
        if self._broken is not None:
            raise self._broken

    def set_meta(self, name: str, value: Json) -> None:
        with self._guarded("write"):
            self._writer.execute(ADD_META, (name, orjson.dumps(value).decode()))

    async def set_redone(self, stage: int, redone: Mapping[int, Failed]) -> None:
        """Returns when it is durable which jobs of the stage try again what failed where."""
        rows = [[number, failed.job, failed.child] for number, failed in redone.items()]
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._add((ADD_META, (f"redone.{stage}", orjson.dumps(rows).decode())), durable)
        await durable

    def set_seeds(self, seeds: Iterable[tuple[str, bytes]]) -> None:
        """Keeps the seeds (id, JSON) with the run, so that a record's story goes back to them."""
        with self._guarded("write"):
            self._writer.execute("BEGIN")
            self._writer.executemany("INSERT OR IGNORE INTO seeds VALUES (?, ?)", seeds)
            self._writer.execute("COMMIT")

    def close(self) -> None:
        for connection in (self._reader, self._writer):
            connection.close()
        self._lock.release()

    def _add(self, row: Row, durable: asyncio.Future[None] | None) -> None:
        if self._broken is not None:
            raise self._broken
        self._pending.append((row, durable))
        if self._flusher is None:
            self._flusher = asyncio.get_running_loop().create_task(self._flush())

    async def _flush(self) -> None:
        """Writes what is pending, transaction by transaction, and ends when nothing is."""
        try:
            while self._pending:
                batch, self._pending = self._pending, []
                await asyncio.to_thread(self._write, [row for row, _ in batch], self.logprobs.take())
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

    def _write(self, rows: list[Row], views: list[tuple[Place, TokenLogprobs]]) -> None:
        if views:
            self.logprobs.write(views)  # before the rows that speak of them
        with self._guarded("write"):
            self._writer.execute("BEGIN IMMEDIATE")
            for statement, values in rows:
                self._writer.execute(statement, values)
            self._writer.execute("COMMIT")

    # -- reading ---------------------------------------------------------------------------------------------------

    def meta(self, name: str) -> Any:
        with self._guarded("read"):
            row = self._reader.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else orjson.loads(row[0])

    def redone(self, stage: int) -> dict[int, Failed]:
        return {number: Failed(job, child) for number, job, child in self.meta(f"redone.{stage}") or ()}

    def committed(self, stage: int) -> int:
        """How many jobs of the stage are decided: 0 … n-1."""
        first, last = stage << STAGE_BITS, (stage + 1) << STAGE_BITS
        [(newest,)] = self._select("SELECT max(id) FROM commits WHERE id >= ? AND id < ?", first, last)
        return 0 if newest is None else newest - first + 1

    def commits(self, stage: int) -> Iterator[Commit]:
        """The stage's commits in job order, a page at a time."""
        for kept, dropped in self._commit_rows(stage):
            yield Commit(_kept(kept), _dropped(dropped))

    def kept(self, stage: int) -> Iterator[Record]:
        """What the stage kept, in order; the dropped are not even parsed."""
        for kept, _ in self._commit_rows(stage):
            for _, record in orjson.loads(kept):
                yield Record.from_json(record)

    def asked(self, stage: int) -> int:
        """One more than the highest job number of the stage that has a reply."""
        [(newest,)] = self._select("SELECT max(job) FROM replies WHERE stage = ?", stage)
        return 0 if newest is None else newest + 1

    def replies(self, stage: int, job: int) -> dict[str, Completion | TeacherError]:
        """The replies that a job has so far, by key."""
        rows = self._select("SELECT key, teacher, reply FROM replies WHERE stage = ? AND job = ?", stage, job)
        return {key: self._reply_from_json(reply, teacher, key) for key, teacher, reply in rows}

    def calls(self, stage: int, job: int) -> list[Call]:
        """The same with their requests, in the order in which they came in."""
        rows = self._select(
            "SELECT key, role, teacher, request, reply FROM replies WHERE stage = ? AND job = ? ORDER BY rowid",
            stage,
            job,
        )
        return [
            Call(key, role, teacher, orjson.loads(request), self._reply_from_json(reply, teacher, key))
            for key, role, teacher, request, reply in rows
        ]

    def requests(self) -> Iterator[tuple[int, str, Request]]:
        """(row, key, request) of every call, in the order in which the replies came in."""
        row = 0
        while page := self._select(
            "SELECT rowid, key, request FROM replies WHERE rowid > ? ORDER BY rowid LIMIT ?", row, PAGE
        ):
            for row, key, request in page:
                yield row, key, Request.from_json(orjson.loads(request))

    def reply(self, row: int) -> Completion | TeacherError:
        """The reply in a row of `requests`."""
        [(key, teacher, reply)] = self._select("SELECT key, teacher, reply FROM replies WHERE rowid = ?", row)
        return self._reply_from_json(reply, teacher, key)

    def commit(self, stage: int, job: int) -> Commit:
        [(kept, dropped)] = self._select("SELECT kept, dropped FROM commits WHERE id = ?", stage << STAGE_BITS | job)
        return Commit(_kept(kept), _dropped(dropped))

    def seed(self, id: str) -> Record | None:
        rows = self._select("SELECT record FROM seeds WHERE id = ?", id)
        return Record.from_json(orjson.loads(rows[0][0])) if rows else None

    def superseded(self, stage: int) -> set[Failed]:
        """The drops that count no more, as a later job has tried the same again."""
        decided = self.committed(stage)
        return {failed for number, failed in self.redone(stage).items() if number < decided}

    def tally(self, stage: int) -> tuple[int, int, dict[str, int]]:
        """How many jobs the stage has decided, how many records it kept, and how many it dropped for which reason."""
        span = (stage << STAGE_BITS, (stage + 1) << STAGE_BITS)
        [(jobs, kept)] = self._select(
            "SELECT count(*), sum(json_array_length(CAST(kept AS TEXT))) FROM commits WHERE id >= ? AND id < ?", *span
        )
        reasons = self._select(
            "SELECT json_extract(value, '$[2]') AS reason, count(*) FROM commits, json_each(CAST(dropped AS TEXT)) "
            "WHERE commits.id >= ? AND commits.id < ? GROUP BY reason ORDER BY reason",
            *span,
        )
        dropped = Counter(dict(reasons))
        for failed in self.superseded(stage):
            dropped.subtract(d.drop.reason for d in self.commit(stage, failed.job).dropped if d.child == failed.child)
        return jobs, kept or 0, dict(+dropped)

    def usage(self) -> list[Used]:
        """What was asked and answered, by stage and teacher."""
        rows = self._select(
            "SELECT stage, teacher, sum(calls), sum(failed), sum(p), sum(c), sum(unclear_p), sum(unclear_c) FROM ("
            " SELECT stage, teacher, 1 AS calls, failed, prompt_tokens AS p, completion_tokens AS c,"
            " 0 AS unclear_p, 0 AS unclear_c FROM replies UNION ALL"
            " SELECT stage, teacher, 0, 0, 0, 0, prompt_tokens, completion_tokens FROM reservations)"
            " GROUP BY stage, teacher ORDER BY stage, teacher"
        )
        return [Used(*row) for row in rows]

    def job_uses(self, stage: int) -> list[JobUse]:
        """Of every job that the stage has decided, in order."""
        asked: dict[int, dict[str, Asked]] = {}
        for job, teacher, *counts in self._select(
            "SELECT job, teacher, count(*), sum(prompt_tokens), sum(completion_tokens) FROM replies WHERE stage = ? "
            "GROUP BY job, teacher",
            stage,
        ):
            asked.setdefault(job, {})[teacher] = Asked(*counts)
        return [JobUse(len(commit.kept), asked.get(job, {})) for job, commit in enumerate(self.commits(stage))]

    def failures(self) -> dict[str, int]:
        """The calls that were given up, by their cause."""
        rows = self._select(
            "SELECT json_extract(CAST(reply AS TEXT), '$.error') AS cause, count(*) FROM replies WHERE failed "
            "GROUP BY cause ORDER BY count(*) DESC, cause"
        )
        return {snake_case(cause): count for cause, count in rows}

    def spending(self) -> list[tuple[str, int, int, int]]:
        """(teacher, requests sent, prompt tokens, completion tokens), what is reserved or unclear in full."""
        return self._select(
            "SELECT teacher, sum(calls), sum(prompt_tokens), sum(completion_tokens) FROM ("
            " SELECT teacher, 1 AS calls, prompt_tokens, completion_tokens FROM replies UNION ALL"
            " SELECT teacher, calls, prompt_tokens, completion_tokens FROM reservations) GROUP BY teacher"
        )

    def reservations(self) -> list[tuple[int, int, int, str, int, int]]:
        """(id, stage, job, teacher, prompt tokens, completion tokens) of what no reply has settled, oldest first."""
        return self._select(
            "SELECT id, stage, job, teacher, prompt_tokens, completion_tokens FROM reservations"
            " WHERE calls = 1 AND completion_tokens > 0 ORDER BY id"
        )

    def next_reservation(self) -> int:
        [(newest,)] = self._select("SELECT max(id) FROM reservations")
        return (newest or 0) + 1

    def _reply_to_json(self, reply: Completion | TeacherError) -> dict[str, Any]:
        if isinstance(reply, TeacherError):
            return {"error": type(reply).__name__, "message": str(reply)}
        plain: dict[str, Any] = {"text": reply.text, "finish_reason": reply.finish_reason, "usage": reply.usage}
        if reply.reasoning:
            plain["reasoning"] = reply.reasoning
        if reply.tool_calls:
            plain["tool_calls"] = reply.tool_calls
        if reply.fit:
            plain["fit"] = reply.fit
        if reply.logprobs is not None:
            plain["logprobs"] = astuple(self.logprobs.add(reply.logprobs))
        return plain

    def _reply_from_json(self, text: bytes, teacher: str, key: str) -> Completion | TeacherError:
        plain = orjson.loads(text)
        if "error" in plain:
            kind: type[TeacherError] = getattr(kdaug.errors, plain["error"], TeacherError)
            return kind(plain["message"], teacher=teacher)
        place = plain.get("logprobs")
        return Completion(
            text=plain["text"],
            finish_reason=plain["finish_reason"],
            reasoning=plain.get("reasoning", ""),
            tool_calls=tuple(ToolCall(**call) for call in plain.get("tool_calls", ())),
            usage=Usage(**plain["usage"]),
            fit=plain.get("fit", ""),
            logprobs=None if place is None else self.logprobs.read(Place(*place)),
            teacher=teacher,
            key=key,
        )

    def fits(self) -> dict[str, dict[str, int]]:
        """By teacher, what became of the replies that had to have a form: `valid` at once, `repaired`, `corrected` in a
        second turn, or `failed`."""
        rows = self._select(
            "SELECT teacher, fit, second, cut, count(*) FROM ("
            " SELECT teacher, key LIKE ? AS second, json_extract(plain, '$.fit') AS fit,"
            " json_extract(plain, '$.finish_reason') = 'length' AS cut"
            " FROM (SELECT teacher, key, CAST(reply AS TEXT) AS plain FROM replies"
            "  WHERE instr(reply, CAST('\"fit\":' AS BLOB))))"  # far quicker than to parse them all
            " GROUP BY teacher, fit, second, cut",
            f"%{SECOND_TURN}",
        )
        found: dict[str, dict[str, int]] = {}
        for teacher, fit, second, cut, count in rows:
            outcome = "corrected" if second else fit
            if fit == "wrong":  # what was corrected is counted by its second turn
                outcome = "failed" if second or cut else ""
            if outcome:
                of_teacher = found.setdefault(teacher, dict.fromkeys(("valid", "repaired", "corrected", "failed"), 0))
                of_teacher[outcome] += count
        return found

    def _commit_rows(self, stage: int) -> Iterator[tuple[bytes, bytes]]:
        at, end = stage << STAGE_BITS, (stage + 1) << STAGE_BITS
        query = "SELECT id, kept, dropped FROM commits WHERE id >= ? AND id < ? ORDER BY id LIMIT ?"
        while page := self._select(query, at, end, PAGE):
            for _, kept, dropped in page:
                yield kept, dropped
            at = page[-1][0] + 1

    def _select(self, query: str, *values: object) -> list[Any]:
        with self._guarded("read"):
            return self._reader.execute(query, values).fetchall()

    @contextmanager
    def _guarded(self, doing: str) -> Iterator[None]:
        """Every SQLite error becomes ours, with the way out."""
        try:
            yield
        except sqlite3.DatabaseError as e:
            text = str(e)
            if "locked" in text:
                raise JournalError(f"{self.path} is locked by another program: end it and run again") from e
            if "malformed" in text or "not a database" in text:
                way_out = "restore it from a copy, or start anew with another --out"
                raise JournalError(f"{self.path} is damaged ({text}): {way_out}") from e
            way_out = "free the disk or make the folder writable, then run the same command: nothing is lost"
            raise JournalError(f"cannot {doing} {self.path} ({text}): {way_out}") from e


def _kept(blob: bytes) -> tuple[Kept, ...]:
    return tuple(Kept(child, Record.from_json(record)) for child, record in orjson.loads(blob))


def _dropped(blob: bytes) -> tuple[Dropped, ...]:
    if blob == b"[]":
        return ()
    rows: Iterable[Any] = orjson.loads(blob)
    return tuple(
        Dropped(child, None if record is None else Record.from_json(record), Drop(reason, detail))
        for child, record, reason, detail in rows
    )
