"""Generators: coroutines that ask a teacher and return child records."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, Protocol, Unpack

from kdaug.record import Discarded, Json, Message, Record
from kdaug.teacher import Completion, SamplingArgs, TokenLogprobs


class Generate(Protocol):
    """The ability to ask a model, handed to every generator and gate. `schema`: what `teacher.as_schema` takes.

    Raises a `TeacherError` when no answer can be had; let it pass: the engine makes it a drop or ends the run.
    """

    async def __call__(
        self,
        prompt: str | Sequence[Message],
        *,
        role: str = "teacher",
        schema: Any = None,  # Any: see as_schema
        tools: Sequence[Json] = (),
        logprobs: int = 0,
        **sampling: Unpack[SamplingArgs],
    ) -> Completion: ...

    async def logprobs(
        self, prompt: Sequence[Message], completion: Sequence[Message], *, role: str = "teacher", top_k: int = 0
    ) -> TokenLogprobs:
        """Score a given completion. Raises ConfigError where the role's teacher is not white-box."""
        ...

    def branch(self, label: str | int) -> Generate:
        """A scope of its own, for one arm of a fan-out that makes several calls."""
        ...


class Generator(Protocol):
    """`name` is the folder of its templates and goes into `Record.by`; `roles` are those it cannot do without.

    What it made and turned down itself it returns as `Discarded`. A generator is a function of (parents, replies,
    rng): no clock, no global random, no state between calls.
    """

    @property
    def name(self) -> str: ...
    @property
    def roles(self) -> tuple[str, ...]: ...
    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]: ...
