"""The Files and Batches API, by the `openai` client: its failures are TeacherErrors, and so are the failed rows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import orjson

from kdaug.errors import (
    AccessDenied,
    BadReply,
    ServerError,
    TeacherError,
    TeacherTimeout,
    TeacherUnavailable,
    shorten,
)
from kdaug.teacher import Completion
from kdaug.teachers.chat_api import failure_of_reply, read_completion

if TYPE_CHECKING:
    from openai.types import Batch as BatchObject

Result = TypeVar("Result")

ENDPOINT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
TAG = "kdaug"  # the field of a batch's metadata that holds our tag
TIMEOUT = 600.0  # seconds; an upload may have 200 MB
SHORT_OF_PATIENCE, PATIENT = 10.0, 3600.0  # seconds that an outage is waited out: before a first answer, and after it
LONGEST_PAUSE = 60.0  # seconds between two tries
PAGE = 100  # batches listed at a time, the most that the API gives
# What the provider says of rows that it did not execute.
UNEXECUTED = {"batch_expired", "batch_cancelled"}


class BatchAPI:
    """One endpoint. Every call raises a TeacherError: one that `passes`, or a fatal one, as no record is to blame."""

    def __init__(self, who: str, base_url: str, key: str) -> None:
        from openai import AsyncOpenAI

        self._who, self._key, self._heard = who, key, False
        # A server that asks for no key is sent one all the same: the client insists. And it may not try again by
        # itself: a creation that was sent twice might be paid for twice.
        self._client = AsyncOpenAI(api_key=key or "none", base_url=base_url, max_retries=0, timeout=TIMEOUT)

    async def insist(self, call: Callable[[], Coroutine[None, None, Result]]) -> Result:
        """What a call brings. A passing failure is tried again, with growing pauses, for as long as patience lasts."""
        began, pause = time.monotonic(), 1.0
        while True:
            try:
                result = await call()
            except TeacherError as e:
                if not passes(e):
                    raise
                if time.monotonic() - began > (PATIENT if self._heard else SHORT_OF_PATIENCE):
                    raise TeacherUnavailable(f"{e} (and so for {time.monotonic() - began:.0f} s)") from None
                await asyncio.sleep(max(pause, e.retry_after or 0.0))
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                self._heard = True
                return result

    async def upload(self, path: Path) -> str:
        """The id of the file."""
        with self._ours(), path.open("rb") as file:
            made = await self._client.files.create(file=(path.name, file), purpose="batch")
            return self._id(made)

    async def create(self, file: str, tag: str) -> BatchObject:
        with self._ours():
            made = await self._client.batches.create(
                completion_window="24h", endpoint=ENDPOINT, input_file_id=file, metadata={TAG: tag}
            )
            self._id(made)
            return made

    async def find(self, file: str, tag: str) -> BatchObject | None:
        """The batch that was created with this tag (or of this file: some providers keep no metadata)."""
        with self._ours():
            async for batch in self._client.batches.list(limit=PAGE):
                if (batch.metadata or {}).get(TAG) == tag or batch.input_file_id == file:
                    return batch
        return None

    async def retrieve(self, batch: str) -> BatchObject:
        with self._ours():
            found = await self._client.batches.retrieve(batch)
            self._id(found)
            return found

    async def cancel(self, batch: str) -> BatchObject:
        with self._ours():
            return await self._client.batches.cancel(batch)

    async def rows(self, file: str) -> AsyncIterator[bytes]:
        """The lines of a file, as they arrive."""
        with self._ours():
            async with self._client.files.with_streaming_response.content(file) as reply:
                # Cut by hand: the client's lines end at any character that Unicode calls a line break, and replies may
                # hold those.
                rest = b""
                http = import_module(type(reply.http_response).__module__.partition(".")[0])  # httpx, or httpx2
                try:
                    async for chunk in reply.iter_bytes():
                        *lines, rest = (rest + chunk).split(b"\n")
                        for line in lines:
                            yield line
                except http.HTTPError as e:
                    raise ServerError(f"the download broke off: {type(e).__name__} {e}") from e
                if rest:
                    yield rest

    async def aclose(self) -> None:
        await self._client.close()

    def _id(self, made: Any) -> str:  # Any: what the client made of the reply, a mere string where that was no JSON
        id = getattr(made, "id", None)
        if not isinstance(id, str) or not id:
            raise BadReply(f"the reply is of another API: {shorten(str(made))}")
        return id

    @contextmanager
    def _ours(self) -> Iterator[None]:
        """Whatever goes wrong becomes ours; the key is never in it."""
        import openai

        try:
            yield
            return
        except TeacherError as e:
            found = e
        except openai.APIStatusError as e:
            found = failure_of_reply(e.status_code, e.response.headers, e.response.content, first=True)
        except openai.APITimeoutError:
            found = TeacherTimeout("no complete reply in time")
        except openai.APIConnectionError as e:
            found = TeacherUnavailable(f"no connection: {e.__cause__ or e}")
        except openai.OpenAIError as e:
            found = BadReply(f"{type(e).__name__}: {e}")
        kind = type(found) if found.retryable or found.fatal else AccessDenied
        words = shorten(str(found), 300)
        words = f"{self._who}: {words.replace(self._key, '***') if self._key else words}"
        raise kind(words, retry_after=found.retry_after) from None


def passes(error: TeacherError) -> bool:
    """Whether the same call may succeed later."""
    return error.retryable or isinstance(error, TeacherUnavailable)


def read_row(line: bytes) -> Completion | TeacherError | None:
    """What came of one request; None where it was not executed."""
    row = orjson.loads(line)
    error, response = row.get("error"), row.get("response")
    if response:
        status, data = response.get("status_code") or 0, orjson.dumps(response.get("body"))
        try:
            return read_completion(data, {}) if status == 200 else failure_of_reply(status, {}, data, first=False)
        except TeacherError as e:
            return e
    code = error.get("code") if isinstance(error, dict) else None
    if code in UNEXECUTED:
        return None
    return ServerError(shorten(f"{code}: {error.get('message')}" if isinstance(error, dict) else str(error), 200))


def why_refused(batch: BatchObject) -> TeacherError:
    """A batch that was refused as a whole, in the provider's words."""
    errors = (batch.errors.data if batch.errors else None) or []
    words = "; ".join(
        f"{f'line {e.line}: ' if e.line is not None else ''}{f'{e.code}: ' if e.code else ''}{e.message}"
        for e in errors[:3]
    )
    more = f" (and {len(errors) - 3} more)" if len(errors) > 3 else ""
    said = f"the batch {batch.id} was refused as a whole: {shorten(words, 300) or 'no reason given'}{more}"
    if any(e.code == "token_limit_exceeded" for e in errors):  # OpenAI: too much waits at once, of all batches together
        return TeacherUnavailable(f"{said}. Wait for other batches, or send less at a time: concurrency=…")
    return AccessDenied(said)
