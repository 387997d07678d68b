"""Generators: coroutines that ask a teacher and return child records."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any, Protocol, TypeVar, Unpack

from kdaug.errors import ParseError, TeacherError
from kdaug.record import Discarded, Json, Message, Record
from kdaug.teacher import Completion, Continues, SamplingArgs, TokenLogprobs, Until

T = TypeVar("T")


class Closable(Protocol):
    async def aclose(self) -> None: ...


Shared = TypeVar("Shared", bound=Closable)


class Generate(Protocol):
    """The ability to ask a model, handed to every generator and gate.

    `schema` is a form for the reply: a pydantic model, a JSON schema, `{"regex": …}` or a list of choices. Every
    teacher takes one: the form is told in words, the backend constrains the reply where it can, and a reply that is
    still wrong is mended or corrected in a second turn. `reply.text` is then valid, `reply.parsed` its JSON value
    (`Person.model_validate(reply.parsed)`); a `ParseError` is raised where it stays wrong.

    `tools` are JSON-schema definitions of functions: `reply.tool_calls` is what the model wants called, and the
    conversation goes on with `reply.message` and a message of the role `tool` for each call.

    `weigh` are short words of which the reply is to be one, such as the marks of a scale: `reply.weights` are their
    probabilities, from teachers that can tell.

    `continues="user"` has the model write the next turn of the user, `continues="text"` what follows on a bare text;
    a teacher behind a chat API cannot, which is a ConfigError before any call. A part that asks so names the roles in
    an attribute `raw_roles`, and the run is refused before it begins.

    Raises a `TeacherError` when no answer can be had. Let it and a ParseError pass: the engine makes it a drop or ends
    the run.
    """

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
    ) -> Completion: ...

    async def logprobs(
        self, prompt: Sequence[Message], completion: Sequence[Message], *, role: str = "teacher", top_k: int = 0
    ) -> TokenLogprobs:
        """Score a given completion. Raises ConfigError where the role's teacher is not white-box."""
        ...

    async def once(self, what: Json, do: Callable[[], Awaitable[Json]]) -> Json:
        """What `do` comes to, from the journal where a run that ended had done it already: a tool's result, or what a
        search of elsewhere found. `what` says what is done; equal ones are told apart by their order."""
        ...

    @property
    def until(self) -> Until:
        """Who waits for his turn elsewhere, for a slot of the sandbox say, awaits it through this: at the end of the
        run it is called off, and the job stays open."""
        ...

    def shared(self, name: str, make: Callable[[], Shared]) -> Shared:
        """The one thing of this name that a run has, made when it is first asked for and closed at the run's end: a
        session with a server."""
        ...

    def branch(self, label: str | int) -> Generate:
        """A scope of its own, for one arm of a fan-out that makes several calls."""
        ...


class Generator(Protocol):
    """`name` is the folder of its templates and goes into `Record.by`; `roles` are those it cannot do without.

    What it made and turned down itself it returns as `Discarded`. A generator is a function of (parents, replies,
    rng): no clock, no global random, no state between calls. An attribute `renders` may name templates
    (`respond/brief`) that must be there before the run begins; `needs = ("sandbox",)`, of a gate too, says that it runs
    code, so that a machine without a sandbox is told before any call.
    """

    @property
    def name(self) -> str: ...
    @property
    def roles(self) -> tuple[str, ...]: ...
    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]: ...


async def settled(calls: Sequence[Awaitable[T]]) -> list[T | TeacherError | ParseError]:
    """What each of several concurrent calls came to, in order: its result, or a failure that is its own.

    Raises at once what is nobody's own failure (an outage, a cap that was reached), and the first error when every call
    met one of the teacher's: then there is no result to go on with.
    """
    results = await asyncio.gather(*map(_settle, calls))
    failures = [result for result in results if isinstance(result, TeacherError)]
    if failures and len(failures) == len(results):
        raise failures[0]
    return results


async def _settle(call: Awaitable[T]) -> T | TeacherError | ParseError:
    try:
        return await call
    except ParseError as e:
        return e
    except TeacherError as e:
        if e.fatal:
            raise
        return e
