"""`generate` as a generator or gate sees it: what one job, or one of its gates, asks, each call by its place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any, Unpack

import orjson

from kdaug.calls import Calls, Replies
from kdaug.errors import ParseError, TeacherError
from kdaug.generator import Generate, Shared
from kdaug.journal import SECOND_TURN, Done
from kdaug.record import Json, Message
from kdaug.structured import Form, form_of
from kdaug.teacher import (
    Completion,
    Continues,
    Request,
    Sampling,
    SamplingArgs,
    TokenLogprobs,
    Until,
    Usage,
    as_messages,
    as_schema,
    needs_raw_prompts,
    takes_raw_prompts,
)


class Scope:
    """`generate` as a generator or gate sees it. `known`: the replies that its job has from an earlier process."""

    __slots__ = ("_calls", "_job", "_known", "_name", "_seen", "_stage")

    def __init__(self, calls: Calls, stage: int, job: int, known: Replies, name: str = "") -> None:
        self._calls, self._stage, self._job, self._known, self._name = calls, stage, job, known, name
        self._seen: Counter[str] = Counter()

    async def __call__(
        self,
        prompt: str | Sequence[Message],
        *,
        role: str = "teacher",
        schema: Any = None,  # Any: see as_schema
        tools: Sequence[Json] = (),
        logprobs: int = 0,
        weigh: Sequence[str] = (),
        continues: Continues = "assistant",
        **sampling: Unpack[SamplingArgs],
    ) -> Completion:
        if "stop" in sampling:
            sampling["stop"] = tuple(sampling["stop"])
        how = Sampling(schema=as_schema(schema), logprobs=logprobs, **sampling)  # type: ignore[arg-type] # stop is a tuple now
        request = Request(as_messages(prompt), how, tuple(tools), weigh=tuple(weigh), continues=continues)
        if continues != "assistant" and not takes_raw_prompts(self._calls.teacher(role)):
            raise needs_raw_prompts(self._calls.teacher(role), role)
        form = None if how.schema is None else form_of(how.schema)
        if form is not None:
            request = form.asked(request)
        digest = request.digest(self._calls.teacher(role).name)
        occurrence = self._occurrence(digest)
        reply = await self._reply(role, request, digest, occurrence, form)
        return reply if form is None else await self._fitting(role, request, occurrence, form, reply)

    async def once(self, what: Json, do: Callable[[], Awaitable[Json]]) -> Json:
        digest = f"once-{blake2b(orjson.dumps(what, option=orjson.OPT_SORT_KEYS), digest_size=8).hexdigest()}"
        key = self._key(digest, self._occurrence(digest))
        known = self._known.pop(key, None)
        if isinstance(known, Done):
            return known.result
        return await self._calls.once(self._stage, self._job, key, do)

    def _occurrence(self, digest: str) -> str:
        """To be taken before the first await."""
        self._seen[digest] += 1
        return str(self._seen[digest] - 1)

    def _key(self, digest: str, occurrence: str) -> str:
        return f"{self._stage}/{self._job}/{self._name}/{digest}/{occurrence}"

    async def _reply(self, role: str, request: Request, digest: str, occurrence: str, form: Form | None) -> Completion:
        """The reply to one call, from the journal or for real."""
        key = self._key(digest, occurrence)
        reply = self._known.pop(key, None)
        if reply is None or isinstance(reply, Done):
            request = replace(request, nonce=nonce_of(key, self._calls.round), until=self._calls.until)
            reply = await self._calls.ask(self._stage, self._job, role, key, request, form)
        if isinstance(reply, TeacherError):
            raise reply
        return reply

    async def _fitting(self, role: str, request: Request, occurrence: str, form: Form, reply: Completion) -> Completion:
        """The reply in its form; if need be of a second turn, which says what is wrong (a reply that was cut off would
        be cut off again). Raises ParseError where that does not help either."""
        used = reply.usage
        if reply.fit == "wrong" and not reply.cut:
            second = await form.corrected(request, reply)
            digest = second.digest(self._calls.teacher(role).name)
            reply = await self._reply(role, second, digest, occurrence + SECOND_TURN, form)
            used = Usage(
                used.prompt_tokens + reply.usage.prompt_tokens, used.completion_tokens + reply.usage.completion_tokens
            )
        if reply.fit == "repaired":
            reading = await form.read(reply)
            reply = replace(reply, fit=reading.fit, text=reading.text or reply.text)
        if reply.fit == "wrong":
            raise ParseError("schema", reply.text)
        return replace(reply, usage=used)

    async def logprobs(
        self, prompt: Sequence[Message], completion: Sequence[Message], *, role: str = "teacher", top_k: int = 0
    ) -> TokenLogprobs:
        return await self._calls.score(role, prompt, completion, top_k)

    @property
    def until(self) -> Until:
        return self._calls.until

    def shared(self, name: str, make: Callable[[], Shared]) -> Shared:
        found: Any = self._calls.shared.get(name) or self._calls.shared.setdefault(name, make())
        made: Shared = found
        return made

    def branch(self, label: str | int) -> Generate:
        return Scope(self._calls, self._stage, self._job, self._known, f"{self._name}:{label}")


def nonce_of(key: str, round: int = 0) -> int:
    """32 bits that stand for a call's key, in each round of a loop others."""
    return int.from_bytes(blake2b(f"{key}/{round}".encode() if round else key.encode(), digest_size=4).digest())
