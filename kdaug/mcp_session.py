"""An MCP server: the tools that it has, and one session with it for all the calls of a run."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

from kdaug.errors import ConfigError, ServerGone, TeacherError, TeacherUnavailable, require, shorten
from kdaug.teacher import Until

LOG = logging.getLogger("kdaug")

START = 30.0  # seconds in which a server has to answer for the first time
CALL = 300.0  # seconds for one call of a tool
FEW = 4  # calls at a time
AGAIN = " (mend it and run the same command: it goes on from here)"
TAIL = 2_000  # bytes of what a server that ended said last


def client_of(source: str, errors: IO[str] | None = None) -> Any:  # Any: mcp.Client
    """A client of the server that `mcp:…` names, whose stderr goes to `errors`, a file, or to ours.

    Raises ConfigError without the `mcp` package.
    """
    require("mcp", "mcp", source)
    address = source.removeprefix("mcp:")
    command, *arguments = shlex.split(address) or [""]
    if not command:
        raise ConfigError(f"tools {source!r}: which server? write mcp:COMMAND ARGUMENT … or mcp:https://…")
    from mcp import Client, StdioServerParameters, stdio_client

    if address.startswith(("http://", "https://")):
        return Client(address, read_timeout_seconds=CALL)
    started = StdioServerParameters(command=command, args=arguments)
    return Client(stdio_client(started, errors or sys.stderr), read_timeout_seconds=CALL)


async def tools_of(source: str) -> Any:  # Any: a list of mcp.types.Tool
    """The tools of a server. Raises ConfigError where it cannot be asked, or does not answer in time."""
    async with connected(source) as client:
        with _said(source):
            async with asyncio.timeout(START):
                return (await client.list_tools()).tools


@asynccontextmanager
async def connected(source: str, errors: IO[str] | None = None) -> AsyncIterator[Any]:
    """A client that is connected. Raises ConfigError as `tools_of` does."""
    client = client_of(source, errors)
    with _said(source):
        async with asyncio.timeout(START):
            await client.__aenter__()
    try:
        yield client
    finally:
        await client.__aexit__(None, None, None)


@contextmanager
def _said(source: str) -> Iterator[None]:
    """What keeps a server from being asked, as a ConfigError."""
    try:
        yield
    except TimeoutError as e:
        why = f"it has not answered in {START:g} seconds: is {source.removeprefix('mcp:')!r} the command of a server?"
        raise ConfigError(f"tools {source!r}: {why}") from e
    except _failures() as e:
        raise ConfigError(f"tools {source!r}: the MCP server cannot be asked ({_first(e)})") from e


def _failures() -> tuple[type[Exception], ...]:
    from mcp import MCPError

    return (MCPError, OSError, ExceptionGroup)


def _gone(e: Exception) -> bool:
    """Whether the session has ended; what a server refuses has other words."""
    from mcp import MCPError
    from mcp.types import CONNECTION_CLOSED

    return not isinstance(e, MCPError) or (e.code, e.message) == (CONNECTION_CLOSED, "Connection closed")


def _first(e: BaseException) -> BaseException:
    return _first(e.exceptions[0]) if isinstance(e, BaseExceptionGroup) else e


@dataclass(eq=False)
class McpSession:
    """A session with a server: opened at its first call, once more after it broke, and ended by `aclose`.

    Two sessions in a row that broke without an answer are an outage.

    It is entered and left in a task of its own, since the client's cancel scopes belong to the task that entered them.
    """

    source: str
    _turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(FEW), init=False)
    _over: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _opened: asyncio.Future[Any] | None = field(default=None, init=False)
    _owners: list[asyncio.Task[None]] = field(default_factory=list, init=False)
    _errors: IO[str] = field(default_factory=lambda: tempfile.TemporaryFile("w+"), init=False)  # noqa: SIM115 # aclose closes it
    _broken: int = field(default=0, init=False)  # sessions since the last answer
    _told: bool = field(default=False, init=False)

    async def call(self, name: str, arguments: Mapping[str, Any], until: Until) -> tuple[bool, str]:
        """Whether it failed, and what it gave. `until`: of the run, which may end before it is this call's turn.

        Raises ConfigError where the server cannot be started, ServerGone where it ended in the middle of the call, and
        TeacherUnavailable where that is so of two sessions in a row. No call is made twice: it may have done its work.
        """
        await until(self._turns.acquire())
        try:
            opened = self._session()
            client = await self._client(opened)
            try:
                found = await client.call_tool(name, dict(arguments))
            except _failures() as e:
                if _gone(e):
                    raise self._broke(opened, name) from e
                found = None
                failed = f"{type(e).__name__}: {e}"
        finally:
            self._turns.release()
        self._broken = 0
        if found is None:
            return True, failed
        return found.is_error, "\n".join(part.text for part in found.content if getattr(part, "type", "") == "text")

    def _session(self) -> asyncio.Future[Any]:
        if self._opened is None:
            self._over, self._opened = asyncio.Event(), asyncio.get_running_loop().create_future()
            self._owners.append(asyncio.create_task(self._own(self._opened, self._over)))
        return self._opened

    async def _own(self, opened: asyncio.Future[Any], over: asyncio.Event) -> None:
        try:
            async with connected(self.source, self._errors) as client:
                opened.set_result(client)
                await over.wait()
        except ConfigError as e:
            opened.set_exception(e)
        except _failures():
            pass  # it broke, as the calls on their way have said

    async def _client(self, opened: asyncio.Future[Any]) -> Any:
        try:
            return await asyncio.shield(opened)
        except ConfigError as e:
            if self._broken:
                raise TeacherUnavailable(f"{e}, after it had ended{self._last_words()}{AGAIN}") from e
            raise

    def _broke(self, opened: asyncio.Future[Any], name: str) -> TeacherError:
        """The next call opens another session where this one is gone."""
        if self._opened is opened:
            self._over.set()
            self._opened = None
            self._broken += 1
        gone = f"tools {self.source!r}: the MCP server ended in the middle of a call of {name}{self._last_words()}"
        if self._broken > 1:
            return TeacherUnavailable(f"{gone}; so it did when it was started once more{AGAIN}")
        if not self._told:
            self._told = True
            LOG.warning("%s. Jobs in the middle of a call are dropped as tools:server_gone; it is started again", gone)
        return ServerGone(gone)

    def _last_words(self) -> str:
        file = self._errors.fileno()
        said = os.pread(file, TAIL, max(0, os.fstat(file).st_size - TAIL)).decode(errors="replace").split("\n")
        last = next((line for line in reversed(said) if line.strip()), "")
        return f" (its last line on stderr: {shorten(last, 300)})" if last else ""

    async def aclose(self) -> None:
        self._over.set()
        if self._owners:
            await asyncio.wait(self._owners)
        self._errors.close()
