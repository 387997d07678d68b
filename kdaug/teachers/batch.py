"""Provider batches: half the price, for an answer within 24 hours (the Files and Batches API of OpenAI and its likes).

A request is held back until every job of the run waits; then `flush` sends what is held. A batch goes through
    planned    which requests it holds is written down            nothing is paid; they are asked anew
    uploaded   its input file is at the provider                  nothing is paid; they are asked anew
    tried      we are about to have it created                    it is looked for by its tag, before all else
    created    its id is known                                    it is looked at until it has ended
    over       what came back is in the ledger                    a reply is there when its request is asked again
and each step is written down before the next one is taken: the right column says what the next process does where
this one was killed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import orjson

from kdaug.calls import Closing
from kdaug.declared import check_fields
from kdaug.errors import BadRequest, ConfigError, KdaugError, TeacherError, TeacherTimeout, TeacherUnavailable, require
from kdaug.record import Json
from kdaug.teacher import Completion, Request
from kdaug.teachers.batch_api import ENDPOINT, PATIENT, BatchAPI, passes, read_row, why_refused
from kdaug.teachers.batch_ledger import Access, Ledger, Sent
from kdaug.teachers.endpoint import OPENAI_KEY, OPENAI_URL, Endpoint

if TYPE_CHECKING:
    from openai.types import Batch as BatchObject

ENDED = {"completed", "failed", "expired", "cancelled"}
LONGEST_PAUSE = 60.0  # seconds between two looks at a batch
ROWS = 500  # replies that are written down at a time
LATEST_CREATION = 60.0  # seconds; by then, a creation that was on its way when we were killed has come to pass


@dataclass
class _Waiting:
    """A request whose caller waits. `tag`: its batch; `sent`: how many it was in; `failure`: what came of the last."""

    id: str
    request: Request
    line: bytes
    reply: asyncio.Future[Completion]
    tag: str = ""
    sent: int = 0
    failure: TeacherError | None = None


@dataclass(eq=False)
class Batch:
    """A model behind an OpenAI-compatible Batches API: half the price, in up to 24 hours.

    The fields that `Endpoint` has too mean what they mean there. `concurrency` is how many requests are held at most,
    so the size of a batch; one that is larger than the provider takes (`batch_requests`, `batch_mb`) is cut. `poll`:
    seconds before the first look at a batch; the pauses grow to a minute. A request that a batch leaves unanswered, or
    that fails for a passing reason, goes into another one, `tries` in all. `settle`: seconds after a kill in which a
    batch may still appear that was being created; nothing is sent anew before.

    Equal requests with equal nonces are one request, in this process and after it. Closing it lets go of the calls that
    wait (they end with `calls.Closing`); the batches go on at the provider, and the next process finds them.
    """

    holds_back: ClassVar[bool] = True
    price_factor: ClassVar[float] = 0.5  # OpenAI, Anthropic, Google, Mistral and Together alike
    model: str
    _: KW_ONLY
    base_url: str = OPENAI_URL
    api_key_env: str = OPENAI_KEY
    api_key_file: str | Path | None = None
    concurrency: int = 10_000
    extra_body: Mapping[str, Json] = field(default_factory=dict)
    batch_requests: int = 50_000  # OpenAI's limits
    batch_mb: float = 200.0
    poll: float = 5.0
    tries: int = 3
    settle: float = LATEST_CREATION

    def __post_init__(self) -> None:
        require("openai", "batch", "the batch teacher")
        check_fields(self)
        if min(self.batch_requests, self.batch_mb, self.poll, self.tries) <= 0 or self.settle < 0:
            raise ConfigError("batch_requests, batch_mb, poll and tries must be more than zero, settle not less")
        self._chat = Endpoint(
            self.model,
            base_url=self.base_url,
            api_key_env=self.api_key_env,
            api_key_file=self.api_key_file,
            concurrency=self.concurrency,
            extra_body=self.extra_body,
        )
        self._who = f"{self.name} at {self._chat.host}"
        self._api: BatchAPI | None = None
        self._ledger: Ledger | None = None
        self._opened = False

    @property
    def name(self) -> str:
        return f"batch:{self.model}"

    def api(self) -> BatchAPI:
        """The provider, reached with the key. Raises ConfigError for a missing key."""
        return BatchAPI(self._who, self.base_url, self._chat.read_key())

    async def open(self, state: Path) -> None:
        """Reads the key and takes up the batches of an earlier process. Raises ConfigError for a missing key."""
        await self.aclose()
        api, self._ledger = self.api(), Ledger(state)
        self._api, self._opened, self._state = api, True, state
        self._access = Access(self.model, self.base_url, self.api_key_env, str(self.api_key_file or ""))
        self._waiting: dict[str, _Waiting] = {}
        self._held: list[_Waiting] = []
        self._delivered: list[str] = []
        self._settled: list[str] = []
        self._live: set[str] = set()  # tags of the batches that are seen through
        self._broken: dict[str, Exception] = {}  # tags of those that cannot be
        self._workers: set[asyncio.Task[None]] = set()
        self._sought: set[asyncio.Task[None]] = set()  # those of batches whose creation is in doubt
        for half_written in state.glob("kdaug-*.jsonl"):  # noqa: ASYNC240 - before the first request
            half_written.unlink()
        for sent in self._ledger.batches():
            if not sent.over and sent.access.base_url == self.base_url:
                self._take_up(sent)

    async def generate(self, request: Request) -> Completion:
        """The reply, once a batch has brought it. Raises TeacherError, and Closing when the teacher is closed."""
        if self._ledger is None:
            if self._opened:
                raise Closing
            raise ConfigError(f"{self.name} is not open: await teacher.open(folder) first")
        if request.sampling.logprobs:
            raise BadRequest("logprobs are not read from batches: use openai: or vllm:")
        id = f"{request.digest(self.name)}-{request.nonce:08x}"
        if (same := self._waiting.get(id)) is not None:
            return await asyncio.shield(same.reply)
        reply: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        waiting = self._waiting[id] = _Waiting(id, request, self._line(id, replace(request, weigh=())), reply)
        try:
            known = self._ledger.find(id)
            if known is not None and known[0] in self._broken:
                self._fail(waiting, self._broken[known[0]])
            elif known is not None and known[0] in self._live:
                waiting.tag, waiting.sent = known[0], 1
            elif known is None or known[1] is None or not self._answer(waiting, known[1]):
                self._held.append(waiting)
            return await reply
        finally:
            del self._waiting[id]

    async def flush(self) -> None:
        """Sends what is held, once it is clear what an earlier process has sent of it."""
        if self._ledger is None:
            return
        # A reply that was delivered before the last flush is in the journal by this one.
        self._ledger.forget(self._settled)
        self._settled, self._delivered = self._delivered, []
        if self._sought:
            await asyncio.wait(self._sought)
        if self._api is None:
            return  # closed meanwhile
        held, self._held = self._held, []
        self._send([w for w in held if not w.reply.done()])

    async def aclose(self) -> None:
        """Lets go of the calls that wait; their batches go on at the provider."""
        api, ledger, self._api, self._ledger = self._api, self._ledger, None, None
        if api is None or ledger is None:
            return
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        for waiting in self._waiting.values():
            if not waiting.reply.done():
                waiting.reply.set_exception(Closing())
        await api.aclose()
        ledger.close()

    # -- the way of a batch ----------------------------------------------------------------------------------------

    def _send(self, waiting: Iterable[_Waiting]) -> None:
        for part in self._parts(waiting):
            assert self._ledger is not None
            sent = self._ledger.plan(self._access, [w.id for w in part])
            for w in part:
                w.tag = sent.tag
                w.sent += 1
            self._work(self._see_through(sent, part), sent)

    def _parts(self, waiting: Iterable[_Waiting]) -> Iterator[list[_Waiting]]:
        """As large as the provider takes them."""
        part: list[_Waiting] = []
        size = 0
        for w in waiting:
            if part and (len(part) == self.batch_requests or size + len(w.line) > self.batch_mb * 1e6):
                yield part
                part, size = [], 0
            part.append(w)
            size += len(w.line)
        if part:
            yield part

    def _take_up(self, sent: Sent) -> None:
        """A batch of an earlier process."""
        assert self._ledger is not None
        if sent.batch:
            self._work(self._see_through(sent), sent)
        elif sent.tried:
            self._sought.add(worker := self._work(self._find_again(sent), sent))
            worker.add_done_callback(self._sought.discard)
        else:
            self._ledger.end(sent)

    async def _find_again(self, sent: Sent) -> None:
        """A batch that an earlier process was about to have created: it is there, or its requests are held again."""
        assert self._ledger is not None
        found = await self._seek(sent)
        if found is not None:
            self._note(sent, found)
            self._work(self._see_through(sent), sent)
            return
        self._ledger.end(sent)
        self._live.discard(sent.tag)
        self._held += self._of(sent)

    async def _see_through(self, sent: Sent, part: Sequence[_Waiting] = ()) -> None:
        """A batch, from wherever it stands to its last reply."""
        assert self._api is not None and self._ledger is not None
        if part:
            await self._submit(sent, part)
        ended, was_over = await self._ended(sent)
        # A batch that was refused or cancelled stops a run, but not the next one too.
        stops = bool(part) or not was_over
        if ended.status == "failed" and stops:
            self._ledger.end(sent)
            raise why_refused(ended)
        for file in (ended.output_file_id, ended.error_file_id):
            if file:
                await self._api.insist(partial(self._fetch, sent, file))
        self._ledger.end(sent)
        self._live.discard(sent.tag)
        left = await self._deliver(sent)
        if left and ended.status == "cancelled" and stops:
            words = f"the batch {sent.batch} was cancelled, {len(left)} of its {sent.size} requests are unanswered"
            raise TeacherUnavailable(f"{words} (the same command sends them anew)")
        await self._send_again(left)

    async def _submit(self, sent: Sent, part: Sequence[_Waiting]) -> None:
        assert self._api is not None
        path = self._state / f"kdaug-{sent.tag}.jsonl"
        try:
            with path.open("wb") as file:
                file.writelines(w.line for w in part)
            sent.file = await self._api.insist(partial(self._api.upload, path))
        finally:
            path.unlink(missing_ok=True)
        began = time.monotonic()
        while not sent.batch:
            sent.tried = time.time()
            self._note(sent)
            try:
                made = await self._api.create(sent.file, sent.tag)
            except TeacherError as e:
                if not passes(e) or time.monotonic() - began > PATIENT:
                    raise
                found = await self._seek(sent)  # it may have come to pass all the same
                if found is None:
                    continue
                made = found
            self._note(sent, made)

    async def _seek(self, sent: Sent) -> BatchObject | None:
        """The batch whose creation was begun, as soon as it appears; None where it has not by its latest moment."""
        assert self._api is not None
        latest = time.monotonic() + min(self.settle, sent.tried + self.settle - time.time())
        while True:
            found = await self._api.insist(partial(self._api.find, sent.file, sent.tag))
            left = latest - time.monotonic()
            if found is not None or left <= 0:
                return found
            await asyncio.sleep(min(self.poll, left))

    async def _ended(self, sent: Sent) -> tuple[BatchObject, bool]:
        """A batch that has ended, and whether it had at our first look."""
        assert self._api is not None
        pause, first = self.poll, True
        while True:
            batch = await self._api.insist(partial(self._api.retrieve, sent.batch))
            self._note(sent, batch)
            if batch.status in ENDED:
                return batch, first
            await asyncio.sleep(pause)
            pause, first = min(pause * 1.5, max(self.poll, LONGEST_PAUSE)), False

    async def _fetch(self, sent: Sent, file: str) -> None:
        assert self._api is not None and self._ledger is not None
        rows: list[tuple[str, bytes]] = []
        async for line in self._api.rows(file):
            try:
                rows.append((orjson.loads(line)["custom_id"], line))
            except (orjson.JSONDecodeError, KeyError, TypeError):
                continue  # no row: its request counts as unanswered
            if len(rows) == ROWS:
                self._ledger.add_replies(sent, rows)
                rows = []
        self._ledger.add_replies(sent, rows)

    async def _deliver(self, sent: Sent) -> list[_Waiting]:
        """Every reply to its caller; those that are to go into another batch remain."""
        left = []
        for number, waiting in enumerate(self._of(sent)):
            assert self._ledger is not None
            known = self._ledger.find(waiting.id)
            if not self._answer(waiting, known[1] if known else None):
                left.append(waiting)
            if number % 100 == 99:
                await asyncio.sleep(0)
        return left

    async def _send_again(self, left: Sequence[_Waiting]) -> None:
        paying = {asyncio.create_task(self._pay_again(w)): w for w in left}
        self._workers |= paying.keys()
        while paying:
            # Who waits for money waits for others, perhaps for those here: they go ahead.
            done, _ = await asyncio.wait(paying, timeout=10)
            self._workers -= done
            self._send([w for task in done if not (w := paying.pop(task)).reply.done()])

    async def _pay_again(self, waiting: _Waiting) -> None:
        try:
            await waiting.request.again(waiting.request, waiting.failure)
        except (KdaugError, Closing) as e:
            self._fail(waiting, e)

    def _answer(self, waiting: _Waiting, row: bytes | None) -> bool:
        """Hands a reply to its caller; False where the request goes into another batch."""
        found = None if row is None else read_row(row)
        if found is None or (isinstance(found, TeacherError) and found.retryable):
            if waiting.sent < self.tries:
                waiting.failure = found or TeacherUnavailable("the batch ended before its turn came")
                return False
            found = found or TeacherTimeout(f"{waiting.sent} batches ended before its turn came")
        self._delivered.append(waiting.id)
        if isinstance(found, TeacherError):
            self._fail(waiting, found)
        elif not waiting.reply.done():
            waiting.reply.set_result(found)
        return True

    # -- small parts -----------------------------------------------------------------------------------------------

    def _line(self, id: str, request: Request) -> bytes:
        body = orjson.Fragment(self._chat.body(request, self._chat.form(request.sampling.schema)))
        return orjson.dumps({"custom_id": id, "method": "POST", "url": ENDPOINT, "body": body}) + b"\n"

    def _of(self, sent: Sent) -> list[_Waiting]:
        return [w for w in self._waiting.values() if w.tag == sent.tag and not w.reply.done()]

    def _work(self, steps: Coroutine[None, None, None], sent: Sent) -> asyncio.Task[None]:
        """A task of its own; what goes wrong in it is raised to every caller that waits for this batch."""

        async def work() -> None:
            try:
                await steps
            except Exception as e:  # noqa: BLE001 - not swallowed: it is raised to every caller of this batch
                self._broken[sent.tag] = e
                for waiting in self._of(sent):
                    self._fail(waiting, e)

        self._live.add(sent.tag)
        worker = asyncio.create_task(work())
        self._workers.add(worker)
        worker.add_done_callback(self._workers.discard)
        return worker

    def _fail(self, waiting: _Waiting, error: Exception) -> None:
        if waiting.reply.done():
            return
        if isinstance(error, TeacherError):
            words = str(error) if str(error).startswith(self.name) else f"{self._who}: {error}"
            error = type(error)(words, request=waiting.request, teacher=self.name, retry_after=error.retry_after)
        waiting.reply.set_exception(error)

    def _note(self, sent: Sent, batch: BatchObject | None = None) -> None:
        assert self._ledger is not None
        if batch is not None:
            sent.batch, sent.state = batch.id, batch.status
            if batch.request_counts is not None:
                sent.completed, sent.failed = batch.request_counts.completed, batch.request_counts.failed
        self._ledger.note(sent)
