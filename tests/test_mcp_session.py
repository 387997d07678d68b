"""One session with an MCP server for all calls of a run, entered and left in one task; a server that does not answer is
told of."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from scripted import Scripted, in_turn

import kdaug as kd
from kdaug import mcp_session
from kdaug.errors import ConfigError, ServerGone, TeacherUnavailable
from kdaug.generator import Generate
from kdaug.record import Record, assistant, text_of, user
from kdaug.toolbox import Call, Toolbox

SEEDS = [Record(prompt=user(f"task {n}")) for n in range(12)]


class Client:
    """A server with a counter, as `mcp.Client` would have it. `made`: all that were connected."""

    made: ClassVar[list[Client]] = []
    most: ClassVar[int] = 0
    silent: ClassVar[bool] = False
    broken: ClassVar[tuple[int, ...]] = ()  # calls in the middle of which a server ends

    async def __aenter__(self) -> Client:
        if self.silent:
            await asyncio.sleep(60)
        self.owner, self.left, self.calls, self.now = asyncio.current_task(), False, 0, 0
        self.made.append(self)
        return self

    async def __aexit__(self, *_: Any) -> None:
        assert asyncio.current_task() is self.owner  # anyio raises elsewhere
        self.left = True

    async def list_tools(self) -> Any:
        return SimpleNamespace(tools=[SimpleNamespace(name="count", description="Counts.", input_schema={})])

    async def call_tool(self, name: str, arguments: Any) -> Any:
        self.calls, self.now = self.calls + 1, self.now + 1
        number = self.calls
        Client.most = max(Client.most, self.now)
        await asyncio.sleep(0.001)
        self.now -= 1
        if number in self.broken:
            raise ConnectionError("gone")
        return SimpleNamespace(is_error=False, content=[SimpleNamespace(type="text", text=str(number))])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> type[Client]:
    monkeypatch.setattr(mcp_session, "client_of", lambda source, *_: Client())
    monkeypatch.setattr("kdaug.tool_definitions.client_of", lambda source: Client())
    monkeypatch.setattr(mcp_session, "_gone", lambda e: isinstance(e, ConnectionError))
    monkeypatch.setattr(mcp_session, "_failures", lambda: (OSError, ExceptionGroup))
    monkeypatch.setattr(Client, "made", [])
    monkeypatch.setattr(Client, "most", 0)
    return Client


class Counting:
    """Asks the teacher, then the tool."""

    name: ClassVar[str] = "counting"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    def __init__(self, toolbox: Toolbox) -> None:
        self._toolbox = toolbox

    async def __call__(self, parents: Sequence[Record], generate: Generate, rng: Random) -> Sequence[Record]:
        reply = await generate(parents[0].prompt)
        told = await self._toolbox.call(Call("count", {}), generate)
        return [parents[0].child(by="counting", replies=[reply], completion=assistant(told.text))]


def test_a_run_has_one_session_and_ends_it(server: type[Client], tmp_path: Path) -> None:
    toolbox = Toolbox("mcp:counter")
    assert [d.name for d in toolbox.definitions] == ["count"] and server.made[0].left
    stages = [kd.Stage(Counting(toolbox)), kd.Stage(Counting(Toolbox("mcp:counter")))]
    server.made.clear()
    data = kd.run(kd.Recipe(kd.Each(SEEDS), stages), tmp_path / "run", teacher=kd.Fake(concurrency=16), quiet=True)
    (session,) = server.made
    assert session.left and session.calls == 24 and 1 < server.most <= mcp_session.FEW
    assert len({text_of(record.completion) for record in data}) == 12
    server.made.clear()
    again = kd.run(kd.Recipe(kd.Each(SEEDS), stages), tmp_path / "run", teacher=kd.Fake(concurrency=16), quiet=True)
    assert len(again) == 12 and not server.made  # the journal has what the tool gave


def test_a_server_that_broke_is_started_once_more_and_the_call_drops_its_job(
    server: type[Client], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    toolbox, generate = Toolbox("mcp:counter"), Scripted(in_turn())
    server.made.clear()
    monkeypatch.setattr(Client, "broken", (2,))

    async def once() -> str:
        try:
            return (await toolbox.call(Call("count", {}), generate)).text
        except ServerGone as e:
            return e.reason

    async def go() -> list[str]:
        told = [await once() for _ in range(5)]
        for thing in generate.things.values():
            await thing.aclose()
        return told

    assert asyncio.run(go()) == ["1", "tools:server_gone", "1", "tools:server_gone", "1"]
    assert [session.left for session in server.made] == [True, True, True]
    (line,) = caplog.messages
    assert line.startswith("tools 'mcp:counter': the MCP server ended in the middle of a call of count.")


def test_a_server_that_ends_at_each_call_is_an_outage(
    server: type[Client], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipe = kd.Recipe(kd.Each(SEEDS), [kd.Stage(Counting(Toolbox("mcp:counter")))])
    with monkeypatch.context() as broken:
        broken.setattr(Client, "broken", (1, 2, 3, 4))
        with pytest.raises(TeacherUnavailable, match=r"ended in the middle of a call of count; .*once more .mend it"):
            kd.run(recipe, tmp_path / "run", teacher=kd.Fake(concurrency=2), quiet=True)
    data = kd.run(recipe, tmp_path / "run", teacher=kd.Fake(concurrency=2), quiet=True)
    assert len(SEEDS) - mcp_session.FEW <= len(data) < len(SEEDS)  # those in the middle of the first session's calls


def test_a_server_that_does_not_answer_is_told_of(server: type[Client], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, "silent", True)
    monkeypatch.setattr(mcp_session, "START", 0.05)
    with pytest.raises(ConfigError, match=r"not answered in 0.05 seconds: is 'sleep 100' the command of a server\?"):
        Toolbox("mcp:sleep 100")


@pytest.mark.slow  # starts processes
def test_a_process_that_is_no_server_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_session, "START", 2.0)
    with pytest.raises(ConfigError, match="not answered"):
        Toolbox(f"mcp:{sys.executable} -c 'import sys; sys.stdin.read()'")
    for source in ("mcp:true", "mcp:no_such_command_xyz"):
        with pytest.raises(ConfigError, match="cannot be asked"):
            Toolbox(source)


@pytest.mark.slow  # starts a server
def test_what_a_server_said_last_is_told(tmp_path: Path) -> None:
    (file := tmp_path / "server.py").write_text(
        "import os, sys\nfrom mcp.server.mcpserver import MCPServer\nserver = MCPServer('toy')\n\n"
        "@server.tool()\ndef die() -> str:\n    '''Dies.'''\n    print('no licence', file=sys.stderr, flush=True)\n"
        "    os._exit(3)\n\nserver.run()\n"
    )
    toolbox, generate = Toolbox(f"mcp:{sys.executable} {file}"), Scripted(in_turn())

    async def go() -> None:
        with pytest.raises(ServerGone, match=r"a call of die \(its last line on stderr: no licence\)"):
            await toolbox.call(Call("die", {}), generate)
        with pytest.raises(TeacherUnavailable, match="no licence"):
            await toolbox.call(Call("die", {}), generate)
        for thing in generate.things.values():
            await thing.aclose()

    asyncio.run(go())
