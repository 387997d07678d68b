"""The journal: every reply and every decision of a run, in one SQLite file, so that nothing is asked or decided twice.

Job numbers of a stage are committed in order, without holes, so a kill can only take the newest ones; what they were
decided from (the replies) was durable before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import orjson

import kdaug.errors
from kdaug.database import Database
from kdaug.errors import JournalError, TeacherError
from kdaug.logprobs import Place, Shards
from kdaug.record import Drop, Json, Record, ToolCall
from kdaug.teacher import Completion, Request, Usage

FORMAT = 2
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS replies (
    stage INTEGER NOT NULL, job INTEGER NOT NULL, key TEXT NOT NULL, role TEXT NOT NULL, teacher TEXT NOT NULL,
    request BLOB NOT NULL, reply BLOB NOT NULL, failed INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS replies_by_job ON replies (stage, job);
CREATE TABLE IF NOT EXISTS results (
    stage INTEGER NOT NULL, job INTEGER NOT NULL, key TEXT NOT NULL, result TEXT NOT NULL,
    PRIMARY KEY (stage, job, key)) WITHOUT ROWID;
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
class Done:
    """What a job did elsewhere than at a teacher came to `result`."""

    result: Json


@dataclass(frozen=True, slots=True)
class Call:
    """One reply as the journal has it, with the request that it answers."""

    key: str
    role: str
    teacher: str
    request: Mapping[str, Any]
    reply: Completion | TeacherError


ADD_REPLY = "INSERT INTO replies VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
ADD_RESULT = "INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?)"
ADD_COMMIT = "INSERT OR REPLACE INTO commits VALUES (?, ?, ?)"
RESERVE = "INSERT INTO reservations VALUES (?, ?, ?, ?, 1, ?, ?)"
NOTE_ATTEMPT = (
    "INSERT INTO reservations (stage, job, teacher, calls, prompt_tokens, completion_tokens) VALUES (?, ?, ?, ?, ?, ?)"
)
ADD_META = "INSERT OR REPLACE INTO meta VALUES (?, ?)"


class Journal:
    """`Journal(folder)` opens `folder/journal.sqlite` for one run at a time; `Journal.read_only` looks at it meanwhile.

    Raises ConfigError when another run holds it, JournalError when it cannot be read or written.
    """

    def __init__(self, folder: Path, *, _write: bool = True) -> None:
        self.logprobs = Shards(folder / "logprobs")
        self._database = Database(folder / "journal.sqlite", SCHEMA, write=_write, before=self._shards)
        self.path, self.select = self._database.path, self._database.select
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
        await self._database.write(ADD_REPLY, *row)

    async def add_result(self, stage: int, job: int, key: str, result: Json) -> None:
        """What a job did elsewhere than at a teacher; returns when it is durable."""
        await self._database.write(ADD_RESULT, stage, job, key, orjson.dumps(result).decode())

    def add_commit(self, stage: int, job: int, commit: Commit) -> None:
        """Returns at once: a commit that a kill takes is decided again, alike, from the replies."""
        kept = [[k.child, k.record.to_json()] for k in commit.kept]
        dropped = [
            [d.child, None if d.record is None else d.record.to_json(), d.drop.reason, d.drop.detail]
            for d in commit.dropped
        ]
        self._database.add(ADD_COMMIT, stage << STAGE_BITS | job, orjson.dumps(kept), orjson.dumps(dropped))

    async def reserve(
        self, id: int, stage: int, job: int, teacher: str, prompt_tokens: int, completion_tokens: int
    ) -> None:
        """Returns when it is durable that an attempt at a call may cost so much."""
        await self._database.write(RESERVE, id, stage, job, teacher, prompt_tokens, completion_tokens)

    def settle(self, id: int, *, calls: bool, billed: bool) -> None:
        """What stays of a reservation: the attempt where no reply counts it, its tokens where it may have been billed.

        Added before the reply that settles it, and so written in the same transaction or an earlier one.
        """
        if not billed and not calls:
            self._database.add("DELETE FROM reservations WHERE id = ?", id)
        elif not billed:
            self._database.add("UPDATE reservations SET prompt_tokens = 0, completion_tokens = 0 WHERE id = ?", id)
        elif not calls:
            self._database.add("UPDATE reservations SET calls = 0 WHERE id = ?", id)

    def note_attempt(
        self, stage: int, job: int, teacher: str, calls: bool, prompt_tokens: int, completion_tokens: int
    ) -> None:
        """What stays of an attempt that brought no reply, where nothing was reserved for it; see `settle`."""
        self._database.add(NOTE_ATTEMPT, stage, job, teacher, calls, prompt_tokens, completion_tokens)

    def set_meta(self, name: str, value: Json) -> None:
        self._database.write_now(ADD_META, [(name, orjson.dumps(value).decode())])

    async def set_redone(self, stage: int, redone: Mapping[int, Failed]) -> None:
        """Returns when it is durable which jobs of the stage try again what failed where."""
        rows = [[number, failed.job, failed.child] for number, failed in redone.items()]
        await self._database.write(ADD_META, f"redone.{stage}", orjson.dumps(rows).decode())

    def set_seeds(self, seeds: Iterable[tuple[str, bytes]]) -> None:
        """Keeps the seeds (id, JSON) with the run, so that a record's story goes back to them."""
        self._database.write_now("INSERT OR IGNORE INTO seeds VALUES (?, ?)", seeds)

    async def drained(self) -> None:
        """Returns when all that was added so far is durable."""
        await self._database.drained()

    async def keep_up(self) -> None:
        """Returns at once, but where the disk is slower than the run: then when all that was added is durable."""
        if self._database.behind:
            await self._database.drained()

    def close(self) -> None:
        self._database.close()

    def _shards(self) -> Callable[[], None]:
        """Writes the logprobs that are there by now: before the rows that speak of them."""
        views = self.logprobs.take()
        return lambda: self.logprobs.write(views) if views else None

    # -- reading ---------------------------------------------------------------------------------------------------

    def meta(self, name: str) -> Any:
        rows = self.select("SELECT value FROM meta WHERE name = ?", name)
        return orjson.loads(rows[0][0]) if rows else None

    def redone(self, stage: int) -> dict[int, Failed]:
        return {number: Failed(job, child) for number, job, child in self.meta(f"redone.{stage}") or ()}

    def committed(self, stage: int) -> int:
        """How many jobs of the stage are decided: 0 … n-1."""
        first, last = stage << STAGE_BITS, (stage + 1) << STAGE_BITS
        [(newest,)] = self.select("SELECT max(id) FROM commits WHERE id >= ? AND id < ?", first, last)
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

    def dropped(self, stage: int) -> Iterator[tuple[int, Dropped]]:
        """(job, drop) of what the stage dropped, in order; the kept are not even parsed."""
        for job, (_, dropped) in enumerate(self._commit_rows(stage)):
            for drop in _dropped(dropped):
                yield job, drop

    def asked(self, stage: int) -> int:
        """One more than the highest job number of the stage that has a reply, or a result."""
        [(asked,)] = self.select("SELECT max(job) FROM replies WHERE stage = ?", stage)
        [(done,)] = self.select("SELECT max(job) FROM results WHERE stage = ?", stage)
        return 1 + max(-1 if asked is None else asked, -1 if done is None else done)

    def replies(self, stage: int, job: int) -> dict[str, Completion | TeacherError | Done]:
        """What a job has so far, by key: the replies of its teachers, and what it did elsewhere."""
        rows = self.select("SELECT key, teacher, reply FROM replies WHERE stage = ? AND job = ?", stage, job)
        done = self.select("SELECT key, result FROM results WHERE stage = ? AND job = ?", stage, job)
        return {key: self._reply_from_json(reply, teacher, key) for key, teacher, reply in rows} | {
            key: Done(orjson.loads(result)) for key, result in done
        }

    def calls(self, stage: int, job: int) -> list[Call]:
        """The same with their requests, in the order in which they came in."""
        rows = self.select(
            "SELECT key, role, teacher, request, reply FROM replies WHERE stage = ? AND job = ? ORDER BY rowid",
            stage,
            job,
        )
        return [
            Call(key, role, teacher, orjson.loads(request), self._reply_from_json(reply, teacher, key))
            for key, role, teacher, request, reply in rows
        ]

    def view(self, key: str) -> tuple[Request, str, Place] | None:
        """What was asked under a key, the reply's text, and where its log-probabilities are; None where it has none."""
        stage, job, _ = key.split("/", 2)
        found = self.select(
            "SELECT request, reply FROM replies WHERE stage = ? AND job = ? AND key = ?", int(stage), int(job), key
        )
        plain = orjson.loads(found[0][1]) if found else {}
        if "logprobs" not in plain:
            return None
        return Request.from_json(orjson.loads(found[0][0])), plain["text"], Place(*plain["logprobs"])

    def requests(self) -> Iterator[tuple[int, str, Request]]:
        """(row, key, request) of every call, in the order in which the replies came in."""
        row = 0
        while page := self.select(
            "SELECT rowid, key, request FROM replies WHERE rowid > ? ORDER BY rowid LIMIT ?", row, PAGE
        ):
            for row, key, request in page:
                yield row, key, Request.from_json(orjson.loads(request))

    def reply(self, row: int) -> Completion | TeacherError:
        """The reply in a row of `requests`."""
        [(key, teacher, reply)] = self.select("SELECT key, teacher, reply FROM replies WHERE rowid = ?", row)
        return self._reply_from_json(reply, teacher, key)

    def commit(self, stage: int, job: int) -> Commit:
        [(kept, dropped)] = self.select("SELECT kept, dropped FROM commits WHERE id = ?", stage << STAGE_BITS | job)
        return Commit(_kept(kept), _dropped(dropped))

    def seed(self, id: str) -> Record | None:
        rows = self.select("SELECT record FROM seeds WHERE id = ?", id)
        return Record.from_json(orjson.loads(rows[0][0])) if rows else None

    def seeds(self) -> Iterator[Record]:
        """All of them, in their order."""
        for (record,) in self.select("SELECT record FROM seeds ORDER BY rowid"):
            yield Record.from_json(orjson.loads(record))

    def superseded(self, stage: int) -> set[Failed]:
        """The drops that count no more, as a later job has tried the same again."""
        decided = self.committed(stage)
        return {failed for number, failed in self.redone(stage).items() if number < decided}

    def spending(self) -> list[tuple[str, int, int, int]]:
        """(teacher, requests sent, prompt tokens, completion tokens), what is reserved or unclear in full."""
        return self.select(
            "SELECT teacher, sum(calls), sum(prompt_tokens), sum(completion_tokens) FROM ("
            " SELECT teacher, 1 AS calls, prompt_tokens, completion_tokens FROM replies UNION ALL"
            " SELECT teacher, calls, prompt_tokens, completion_tokens FROM reservations) GROUP BY teacher"
        )

    def reservations(self) -> list[tuple[int, int, int, str, int, int]]:
        """(id, stage, job, teacher, prompt tokens, completion tokens) of what no reply has settled, oldest first."""
        return self.select(
            "SELECT id, stage, job, teacher, prompt_tokens, completion_tokens FROM reservations"
            " WHERE calls = 1 AND completion_tokens > 0 ORDER BY id"
        )

    def next_reservation(self) -> int:
        [(newest,)] = self.select("SELECT max(id) FROM reservations")
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
        if reply.weights:
            plain["weights"] = reply.weights
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
            weights=plain.get("weights", {}),
            teacher=teacher,
            key=key,
        )

    def _commit_rows(self, stage: int) -> Iterator[tuple[bytes, bytes]]:
        at, end = stage << STAGE_BITS, (stage + 1) << STAGE_BITS
        query = "SELECT id, kept, dropped FROM commits WHERE id >= ? AND id < ? ORDER BY id LIMIT ?"
        while page := self.select(query, at, end, PAGE):
            for _, kept, dropped in page:
                yield kept, dropped
            at = page[-1][0] + 1


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
