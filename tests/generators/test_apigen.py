"""APIGen keeps what passes all three checks, and says of the rest which it failed."""

from __future__ import annotations

import asyncio
import json
from random import Random
from typing import Any

import pytest
from scripted import Scripted, in_turn

from kdaug.errors import ConfigError, ParseError
from kdaug.generators.apigen import ApiGen, calls_of, format_flaw, style_flaw
from kdaug.record import Discarded, Message, Record, ToolCall, text_of, user
from kdaug.teacher import Completion
from kdaug.tool_definitions import Definition
from kdaug.toolbox import Call

ADD = Definition(
    "add",
    "",
    {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a", "b"]},
)
SEED = Record(
    prompt=user("What is one and one?"),
    completion=(Message("assistant", "", (ToolCall("1", "add", '{"a":1,"b":1}'),)),),
)
YES, NO = ('{"reason": "It does.", "pass": true}', '{"reason": "It does not.", "pass": false}')


def add(a: int, b: int) -> int:
    """Adds."""
    if a == 13:
        raise ValueError("thirteen")
    return a + b


def word(of: str) -> str:
    """A word."""
    return of


TOOLS = [add, word]


def reply(*calls: Any, query: str = "How many is that?") -> str:
    return json.dumps({"query": query, "calls": list(calls)})


def call(name: str = "add", **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


def make(*answers: Any, style: str = "simple", rng: int = 0) -> tuple[Any, Scripted]:
    generate = Scripted(in_turn(*answers))
    generator = ApiGen(tools=f"{__name__}:TOOLS", styles=(style,))
    (made,) = asyncio.run(generator([SEED], generate, Random(rng)))
    return made, generate


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or _this())


def _this() -> Any:
    import types

    module = types.ModuleType(__name__)
    vars(module).update(globals())
    return module


def first(style: str, name: str) -> int:
    """A seed with which the tool that is offered alone is `name`."""
    for seed in range(50):
        made, _ = make(reply(), style=style, rng=seed)
        if [t["function"]["name"] for t in made.record.tools] == [name]:
            return seed
    raise AssertionError(name)


def test_the_three_checks_are_passed() -> None:
    made, generate = make(reply(call(a=2, b=3)), YES, rng=first("simple", "add"))
    assert isinstance(made, Record) and made.by == "apigen/simple" and made.parents == (SEED.id,)
    assert text_of(made.prompt) == "How many is that?" and calls_of(made) == [Call("add", {"a": 2, "b": 3})]
    assert [call.role for call in generate.calls] == ["teacher", "judge"]
    assert "-> 5" in generate.prompts[1] and "What is one and one?" in generate.prompts[0]
    assert generate.calls[0].sampling["temperature"] == 0.7


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ((reply(call(a=1)),), "apigen:format"),
        ((reply(call(a=1, b=2, c=3)),), "apigen:format"),
        ((reply(call("ad", a=1, b=2)),), "apigen:format"),
        ((reply(call(a=1, b=2), query=" "),), "apigen:format"),
        ((reply(),), "apigen:format"),
        ((reply(call(a=1, b=2), call(a=1, b=3)),), "apigen:style"),
        ((reply(call(b=1, a=1)),), "apigen:copy"),
        ((reply(call(a=13, b=2)),), "apigen:execution"),
        ((reply(call(a=1, b=2)), NO), "apigen:semantic"),
    ],
)
def test_what_fails_a_check_is_dropped_before_the_next_one_is_paid(said: tuple[str, ...], reason: str) -> None:
    made, _ = make(*said, rng=first("simple", "add"))
    assert isinstance(made, Discarded) and made.drop.reason == reason


def test_a_reply_of_another_form_is_no_item() -> None:
    for said in ('{"query": "q"}', '{"query": "q", "calls": [1]}', Completion(reply(), finish_reason="length")):
        with pytest.raises(ParseError):
            make(said)


def test_form() -> None:
    assert asyncio.run(format_flaw([Call("add", {"a": 1})], [ADD])) == "add: 'b' is a required property (at $)"
    assert asyncio.run(format_flaw([Call("add", {"a": 1, "b": 2, "c": 3})], [ADD])).startswith(
        "add: Additional properties"
    )  # type: ignore[union-attr] # it is a text
    assert asyncio.run(format_flaw([Call("sub", {})], [ADD])) == "sub: there is no tool 'sub'"
    assert asyncio.run(format_flaw([], [ADD])) == "there is no call"
    assert asyncio.run(format_flaw([Call("add", {"a": 1, "b": 2})] * 2, [ADD])) is None


@pytest.mark.parametrize(
    ("style", "names", "fits"),
    [
        ("simple", "f", True), ("simple", "ff", False), ("multiple", "f", True), ("multiple", "fg", False),
        ("parallel", "ff", True), ("parallel", "f", False), ("parallel", "fg", False),
        ("parallel_multiple", "fg", True), ("parallel_multiple", "fgf", True), ("parallel_multiple", "ff", False),
    ],
)  # fmt: skip
def test_style(style: str, names: str, fits: bool) -> None:
    assert (style_flaw(style, [Call(name, {}) for name in names]) is None) is fits


def test_tools_that_cannot_be_run_are_refused(tmp_path: Any) -> None:
    (file := tmp_path / "tools.json").write_text('[{"name": "f"}, {"name": "g"}]')
    with pytest.raises(ConfigError, match="cannot be run"):
        ApiGen(tools=str(file))
    with pytest.raises(ConfigError, match="styles are some of"):
        ApiGen(styles=("serial",))
