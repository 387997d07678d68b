"""A toolbox: tools that are defined, and what comes of calling them.

Functions of a `.py` file run in the sandbox, since a model chose their arguments; those of an importable module of the
user's run here, tools of langchain-core and of an MCP server where they live (one session with a server in a run). A
file of definitions alone can be called by nobody: who needs observations then has a model make them up.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

import orjson

from kdaug.errors import ConfigError
from kdaug.generator import Generate
from kdaug.mcp_session import McpSession
from kdaug.record import Json, ToolCall
from kdaug.sandbox import Limits, Sandbox
from kdaug.tool_definitions import Definition, check_imports, definitions, kind_of, text_of_file, tools_at

Status = Literal["ok", "unknown", "invalid", "error"]
CUT = 1024  # characters of an observation: ToolLLM, arXiv 2307.16789, authors' code

_CALL = """
import json, sys
name, arguments = json.load(sys.stdin)
import functions
try:
    result = getattr(functions, name)(**arguments)
except SystemExit as e:  # it has given nothing, whatever the code
    sys.exit(f"SystemExit: {e.code}")
print("\\n" + json.dumps(result, ensure_ascii=False))
"""


class Call(NamedTuple):
    name: str
    arguments: Any  # a JSON value; of a right call an object

    def to_json(self) -> Json:
        return {"name": self.name, "arguments": self.arguments}


class Observation(NamedTuple):
    """What a call gave: `unknown`, there is no such tool; `invalid`, its arguments are wrong; `error`, it failed."""

    status: Status
    text: str


@dataclass(frozen=True)
class Toolbox:
    """The tools of `source` (see `definitions`), as they are when it is made; without a source there are none.

    A part holds one in a field that is part of its fingerprint: so is the `digest`, a hash of what the tools are.
    """

    source: str = field(metadata={"fingerprint": False})
    definitions: tuple[Definition, ...] = field(init=False, repr=False, compare=False)
    digest: str = field(init=False, repr=False, metadata={"fingerprint": True})
    _text: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        text = text_of_file(self.source) if kind_of(self.source) == "file" else ""
        found = definitions(self.source) if self.source else ()
        if text:
            check_imports(text, self.source)
        calls = text or ("" if kind_of(self.source) == "document" else self.source)  # what a call depends on
        body = orjson.dumps([tool.to_json() for tool in found], option=orjson.OPT_SORT_KEYS) + calls.encode()
        told = {"definitions": found, "digest": blake2b(body, digest_size=8).hexdigest(), "_text": text}
        for name, value in told.items():
            object.__setattr__(self, name, value)

    @property
    def needs(self) -> tuple[str, ...]:
        return ("sandbox",) if kind_of(self.source) == "file" else ()

    @property
    def callable(self) -> bool:
        return bool(self.source) and kind_of(self.source) != "document"

    async def call(self, call: Call, generate: Generate, offered: Sequence[Definition] | None = None) -> Observation:
        """Checks a call and makes it, once: a run that goes on has what it gave. `offered`: the tools that may be
        called (all of them). What a tool raises is an observation; nothing is raised but ConfigError."""
        if wrong := await flaw_of(call, self.definitions if offered is None else offered):
            return wrong

        async def make() -> Json:
            status, text = await self._made(call, generate)
            return [status, text.encode(errors="replace").decode()]  # JSON has no half letters

        made: Any = await generate.once([self.digest, call.to_json()], make)
        return Observation(*made)

    async def _made(self, call: Call, generate: Generate) -> Observation:
        match kind_of(self.source):
            case "file":
                return await self._in_sandbox(call, generate)
            case "server":
                session = generate.shared(self.source, partial(McpSession, self.source))
                failed, text = await session.call(call.name, call.arguments, generate.until)
                return Observation("error" if failed else "ok", text)
            case "objects" if self.source:
                return await self._here(call)
        raise ConfigError(f"the tools of {self.source!r} are defined and cannot be called")

    async def _in_sandbox(self, call: Call, generate: Generate) -> Observation:
        sandbox = Sandbox(Limits(cpu=2, memory=256))
        stdin = orjson.dumps([call.name, call.arguments]).decode()
        ended = await sandbox.run(_CALL, stdin=stdin, files={"functions.py": self._text}, until=generate.until)
        if ended.exit == "ok":
            return Observation("ok", ended.stdout.rstrip("\n").rpartition("\n")[2])
        last = ended.stderr.strip().rpartition("\n")[2]
        return Observation("error", last if ended.exit == "error" else f"ended by the sandbox: {ended.exit}")

    async def _here(self, call: Call) -> Observation:
        place = [definition.name for definition in self.definitions].index(call.name)
        tool = tools_at(self.source)[place]
        failures: tuple[type[Exception], ...] = (*_FAILURES, *_refusals(tool))
        try:
            if hasattr(tool, "ainvoke"):
                return Observation("ok", _told(await tool.ainvoke(dict(call.arguments))))
            if inspect.iscoroutinefunction(tool):
                return Observation("ok", _told(await tool(**call.arguments)))
            return Observation("ok", _told(await asyncio.to_thread(tool, **call.arguments)))
        except failures as e:
            return Observation("error", f"{type(e).__name__}: {e}")


# What a tool says by raising; anything else is a fault of the tool, and ends the run as any other.
_FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)


def _refusals(tool: Any) -> tuple[type[Exception], ...]:
    if not hasattr(tool, "ainvoke"):
        return ()
    from langchain_core.tools import ToolException

    return (ToolException,)


def _told(value: Any) -> str:
    try:
        return value if isinstance(value, str) else orjson.dumps(value).decode()
    except TypeError:
        return re.sub(r" at 0x[0-9a-f]+", "", str(value))  # an address differs from run to run


async def flaw_of(call: Call, offered: Sequence[Definition]) -> Observation | None:
    """What is wrong with a call before it is made."""
    tool = next((definition for definition in offered if definition.name == call.name), None)
    if tool is None:  # by its whole name: a suffix or an empty name would fit a wrong tool
        return Observation("unknown", f"there is no tool {call.name!r}")
    wrong = await tool.flaw(call.arguments)
    return Observation("invalid", wrong) if wrong else None


def same_calls(left: Sequence[Call], right: Sequence[Call]) -> bool:
    """Whether two lists hold the same calls, each as often, in whatever order: parallel calls have none."""
    return _counted(left) == _counted(right)


def _counted(calls: Sequence[Call]) -> Counter[bytes]:
    return Counter(orjson.dumps([call.name, call.arguments], option=orjson.OPT_SORT_KEYS) for call in calls)


def tool_call(call: Call, number: int) -> ToolCall:
    """As a message of the assistant holds it; the id depends on its place alone."""
    return ToolCall(f"call_{number}", call.name, orjson.dumps(call.arguments).decode())
