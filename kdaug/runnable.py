"""A generator as a LangChain `Runnable`: for programs that are built of those."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import weakref
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from random import Random
from typing import Any

from kdaug.calls import Calls
from kdaug.errors import ConfigError, require
from kdaug.generator import Generator
from kdaug.record import Record
from kdaug.scope import Scope
from kdaug.shapes import BadRow, read_row, shape_of
from kdaug.teacher import Teacher

GRACE = 30.0  # seconds in which teachers close at the end of the program


def as_runnable(
    generator: Generator,
    *,
    teacher: Teacher | None = None,
    student: Teacher | None = None,
    judge: Teacher | None = None,
    seed: int = 0,
    **roles: Teacher,
) -> Any:  # a Runnable of langchain_core, whose types are not followed
    """A `Runnable` from a record to the list of those that the generator makes of it, all as plain dictionaries.

    A record comes in any of the shapes that `kd.read` knows (`{"prompt": "…"}`) and leaves as `Record.to_json` writes
    it. There is no run: no journal, no gates, no resume. What the generator itself turns down is left out; its errors
    are raised. `invoke`, `ainvoke`, `batch` and `abatch` share the teachers, which live in a thread of their own and
    are closed at the program's end.
    """
    require("langchain_core", "langchain", "a Runnable")
    from langchain_core.runnables import RunnableLambda

    named = {"teacher": teacher, "student": student, "judge": judge, **roles}
    players = {role: player for role, player in named.items() if player is not None}
    missing = [r for r in generator.roles if r not in players and not (r == "judge" and "teacher" in players)]
    if missing:
        raise ConfigError(f"{generator.name} asks the role {missing[0]!r}: give {missing[0]}=")
    made = _Making(generator, players, seed)

    def invoke(row: Mapping[str, Any]) -> list[dict[str, Any]]:
        return made.submit(row).result()

    async def ainvoke(row: Mapping[str, Any]) -> list[dict[str, Any]]:
        return await asyncio.wrap_future(made.submit(row))

    return RunnableLambda(invoke, afunc=ainvoke, name=generator.name)


class _Making:
    """Makes records in an event loop of its own, so that callers of any thread and loop share the teachers."""

    def __init__(self, generator: Generator, teachers: Mapping[str, Teacher], seed: int) -> None:
        self._generator, self._seed = generator, seed
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="kdaug-runnable", daemon=True).start()
        state = tempfile.TemporaryDirectory(prefix="kdaug-")
        self._calls = Calls(teachers, None, Path(state.name), asyncio.Event())
        weakref.finalize(self, _end, self._loop, self._calls, state)

    def submit(self, row: Mapping[str, Any]) -> Future[list[dict[str, Any]]]:
        """Raises ConfigError for what is no record."""
        try:
            record = read_row(row, shape_of(row))
        except BadRow as e:
            raise ConfigError(f"not a record: {e}") from e
        return asyncio.run_coroutine_threadsafe(self._make(record), self._loop)

    async def _make(self, record: Record) -> list[dict[str, Any]]:
        """A function of the record and the seed, as far as its teachers are."""
        generate = Scope(self._calls, 0, 0, {}, record.id)
        made = await self._generator((record,), generate, Random(f"{self._seed}/{record.id}"))
        return [child.to_json() for child in made if isinstance(child, Record)]


def _end(loop: asyncio.AbstractEventLoop, calls: Calls, state: tempfile.TemporaryDirectory[str]) -> None:
    try:
        asyncio.run_coroutine_threadsafe(calls.aclose(), loop).result(GRACE)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        state.cleanup()
