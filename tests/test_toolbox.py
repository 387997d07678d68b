"""Tools are read from every kind of source, a wrong call is known before it is made, and a right one is made."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import pytest
from scripted import Scripted, in_turn

import kdaug as kd
from kdaug import schemas
from kdaug.errors import ConfigError
from kdaug.generator import Generate
from kdaug.generators.apigen import ApiGen
from kdaug.methods import find
from kdaug.prompts import shipped
from kdaug.recipe import Recipe
from kdaug.recipe_file import load
from kdaug.recipes import stages_in
from kdaug.record import Record, user
from kdaug.scaffold import scaffold_method
from kdaug.source import Each
from kdaug.tool_definitions import Definition, calls_schema, definitions, from_openapi
from kdaug.toolbox import Call, Observation, Toolbox, same_calls

ADD = Definition(
    "add",
    "",
    {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a", "b"]},
)


def half(of: int) -> float:
    """Halves a number.

    of: the number
    """
    if of == 13:
        raise ValueError("thirteen is unlucky")
    return of / 2


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        ({"a": 1, "b": 2}, None),
        ({"a": 1}, "'b' is a required property (at $)"),
        ({"a": 1, "b": 2, "c": 3}, "Additional properties are not allowed ('c' was unexpected) (at $)"),
        ({"a": 1, "b": "2"}, "'2' is not of type 'integer' (at $.b)"),
        ([1, 2], "the arguments are no object"),
        ("a=1", "the arguments are no object"),
    ],
)
def test_a_wrong_call_is_known_by_its_schema(arguments: Any, wrong: str | None) -> None:
    assert asyncio.run(ADD.flaw(arguments)) == wrong


def test_an_argument_that_is_not_named_is_right_only_where_the_schema_says_so() -> None:
    assert asyncio.run(Definition("f", "", {"additionalProperties": True}).flaw({"a": 1})) is None
    assert asyncio.run(Definition("f", "", {"additionalProperties": {"type": "integer"}}).flaw({"a": "1"})) is not None
    assert asyncio.run(Definition("f", "", {"patternProperties": {"^x_": {}}}).flaw({"x_a": "1"})) is None


def test_parallel_calls_have_no_order_but_a_number() -> None:
    one, two = Call("f", {"a": 1, "b": 2}), Call("f", {"a": 2})
    assert same_calls([one, two], [two, Call("f", {"b": 2, "a": 1})])
    assert not same_calls([one], [one, one])
    assert not same_calls([one], [two])


def test_functions_of_a_file_are_read_without_being_run(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from typing import Literal\nraise SystemExit\n\ndef _hidden(): ...\n\n"
        'def paint(colour: Literal["red", "blue"], sizes: list[float], note: str | None = None, *, far: bool, x=1):\n'
        '    """Paints it.\n\n    colour: which one\n    """\n'
    )
    (paint,) = definitions(str(file))
    assert paint.name == "paint" and paint.description == "Paints it."
    assert paint.parameters["properties"] == {
        "colour": {"enum": ["red", "blue"], "description": "which one"},
        "sizes": {"type": "array", "items": {"type": "number"}},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "x": {},
        "far": {"type": "boolean"},
    }
    assert paint.required == ("colour", "sizes", "far")


def test_an_openapi_document(tmp_path: Path) -> None:
    document = {
        "openapi": "3.0.0",
        "paths": {
            "/pets/{id}": {
                "parameters": [{"$ref": "#/components/parameters/Id"}],
                "get": {"operationId": "getPet", "summary": "A pet.", "parameters": [
                    {"name": "full", "in": "query", "schema": {"type": "boolean"}, "description": "all of it"}]},
                "put": {"requestBody": {"content": {"application/json": {
                    "schema": {"$ref": "#/components/schemas/Pet"}}}}},
            }
        },
        "components": {
            "parameters": {"Id": {"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}}},
            "schemas": {"Pet": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}},
        },
    }  # fmt: skip
    (file := tmp_path / "api.json").write_text(json.dumps(document))
    get, put = definitions(str(file))
    assert (get.name, get.description, get.required) == ("getPet", "A pet.", ("id",))
    assert get.parameters["properties"]["full"] == {"description": "all of it", "type": "boolean"}
    assert put.name == "put_pets_id" and set(put.required) == {"id", "name"}
    document["paths"]["/pets/{id}"]["parameters"] = [{"$ref": "https://elsewhere.test/x.json"}]  # type: ignore[index] # JSON
    file.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match="leads out of the document"):
        definitions(str(file))


PET = {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]}


def api(*, schemas: Any = None, path: str = "/pets", **operation: Any) -> dict[str, Any]:
    """A document of one operation."""
    return {"paths": {path: {"post": {"operationId": "op", **operation}}}, "components": {"schemas": schemas or {}}}


def told(document: dict[str, Any]) -> Definition:
    (only,) = from_openapi(document, "api.json")
    return only


def body_of(schema: Any, media: str = "application/json", **more: Any) -> Any:
    return {"content": {media: {"schema": schema}}, **more}


DOG = {
    "allOf": [{"$ref": "#/components/schemas/Pet"}, {"properties": {"bark": {"type": "string"}}, "required": ["bark"]}]
}


@pytest.mark.parametrize(
    "media",
    ["application/json", "application/json; charset=utf-8", "application/vnd.api+json", "multipart/form-data",
     "application/x-www-form-urlencoded"],
)  # fmt: skip
def test_the_fields_of_a_body_are_arguments(media: str) -> None:
    tool = told(api(schemas={"Pet": PET}, requestBody=body_of(DOG, media)))
    assert tool.parameters["properties"] == {"id": {"type": "integer"}, "bark": {"type": "string"}}
    assert tool.required == ("id", "bark")


@pytest.mark.parametrize(
    "schema",
    [
        {"oneOf": [PET, {"type": "object", "properties": {"name": {"type": "string"}}}]},
        {"anyOf": [PET]},
        {"type": "array", "items": PET},
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {**PET, "minProperties": 1},
        {"type": "string"},
        {"allOf": [{"oneOf": [PET]}, PET]},
        {"type": "object"},
        {},
    ],
)
def test_a_body_that_is_no_plain_object_is_one_argument(schema: Any) -> None:
    tool = told(api(requestBody=body_of(schema, required=True), parameters=[{"name": "id", "in": "query"}]))
    assert tool.parameters["properties"] == {"id": {}, "body": schema} and tool.required == ("body",)


def test_a_body_with_a_field_of_a_parameters_name_is_one_argument() -> None:
    tool = told(api(path="/pets/{id}", parameters=[{"name": "id", "in": "path"}], requestBody=body_of(PET)))
    assert tool.parameters["properties"] == {"id": {}, "body": PET} and tool.required == ("id", "body")


def test_a_body_that_may_be_left_out() -> None:
    wide = {**PET, "properties": {**PET["properties"], "name": {}}}  # type: ignore[dict-item] # JSON
    tool = told(api(requestBody=body_of(wide, required=False)))
    flaws = [asyncio.run(tool.flaw(arguments)) for arguments in ({}, {"id": 1}, {"id": 1, "name": 2}, {"name": 2})]
    assert [bool(wrong) for wrong in flaws] == [False, False, False, True]
    assert told(api(requestBody=body_of([], required=False) | {"content": {"text/plain": {}}})).required == ()


def test_parameters_keep_all_that_is_said_of_them() -> None:
    swagger = {"name": "tags", "in": "query", "type": "array", "items": {"type": "string"}, "maxItems": 3,
               "collectionFormat": "csv", "description": "which"}  # fmt: skip
    page = {"name": "page", "in": "query", "type": "integer", "minimum": 1, "default": 1, "format": "int32"}
    by_content = {"name": "filter", "in": "query", "content": {"application/json": {"schema": PET}}}
    old = {"name": "pet", "in": "body", "schema": {"type": "object", "properties": {"name": {"type": "string"}}}}
    key = {"name": "Authorization", "in": "header", "type": "string"}
    assert told(api(parameters=[swagger, page, by_content, old, key])).parameters["properties"] == {
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3, "description": "which"},
        "page": {"type": "integer", "minimum": 1, "default": 1, "format": "int32"},
        "filter": PET,
        "name": {"type": "string"},
    }


def test_what_openapi_3_0_says_in_its_own_way() -> None:
    fields = {
        "a": {"type": "integer", "minimum": 0, "exclusiveMinimum": True, "maximum": 9, "exclusiveMaximum": False},
        "b": {"type": "string", "nullable": True, "enum": ["x"]},
        "c": {"allOf": [PET], "nullable": True},
        "nullable": {"type": "string"},
    }
    assert told(api(requestBody=body_of({"type": "object", "properties": fields}))).parameters["properties"] == {
        "a": {"type": "integer", "exclusiveMinimum": 0, "maximum": 9},
        "b": {"type": ["string", "null"], "enum": ["x", None]},
        "c": {"anyOf": [{"allOf": [PET]}, {"type": "null"}]},
        "nullable": {"type": "string"},
    }


NODE = {"type": "object", "properties": {"label": {"type": "string"}, "nodes": {
    "type": "array", "items": {"$ref": "#/components/schemas/a~1node"}}}}  # fmt: skip


def test_a_schema_that_leads_back_into_itself_is_kept() -> None:
    tool = told(api(schemas={"a/node": NODE}, requestBody=body_of({"$ref": "#/components/schemas/a~1node"})))
    assert tool.parameters["properties"]["label"] == {"type": "string"}
    right, wrong = ({"nodes": [{"nodes": [{"label": label}]}]} for label in ("x", 3))
    assert schemas.find_flaw(json.dumps(tool.closed), right) is None
    assert "3 is not of type 'string'" in str(schemas.find_flaw(json.dumps(tool.closed), wrong))
    among = json.dumps({"properties": {"action": calls_schema([tool])}})  # as generators ask for it
    assert schemas.find_flaw(among, {"action": {"name": "op", "arguments": right}}) is None
    assert schemas.find_flaw(among, {"action": {"name": "op", "arguments": {"nodes": 3}}}) is not None


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"requestBody": body_of({"$ref": "#/components/schemas/none"})}, "leads nowhere"),
        ({"requestBody": body_of({"$ref": "other.json#/a"})}, "leads out of the document"),
        ({"requestBody": body_of({"allOf": [{"$ref": "#/components/schemas/Self"}]})}, "round in a circle"),
        ({"requestBody": body_of({"$ref": "#/components/schemas/B0"})}, "parts when its references"),
        ({"requestBody": body_of({"type": "number", "minimum": "x"})}, "not a JSON schema"),
        ({"parameters": [{"name": "a", "in": "query"}, {"name": "a", "in": "header"}]}, "two parameters of the name"),
        ({"parameters": [{"name": "body", "in": "query"}], "requestBody": body_of({})}, "has a body, and a parameter"),
        ({"parameters": {"a": 1}}, "parameters is no list"),
    ],
)
def test_an_operation_that_cannot_be_told_is_left_out_by_name(
    more: dict[str, Any], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    doubled = {
        f"B{n}": {"properties": {k: {"$ref": f"#/components/schemas/B{n + 1}"} for k in "ab"}} for n in range(20)
    }
    known = {"Self": {"allOf": [{"$ref": "#/components/schemas/Self"}]}, **doubled, "B20": {}}
    document = api(schemas=known, **more)
    with pytest.raises(ConfigError, match=rf"^api.json: the operation POST /pets \(op\) is left out: .*{why}"):
        list(from_openapi(document, "api.json"))
    caplog.clear()
    document["paths"]["/"] = {"get": {}}
    assert [tool.name for tool in from_openapi(document, "api.json")] == ["get"]
    (line,) = caplog.messages
    assert why in line and "POST /pets (op)" in line


def test_an_operation_is_named_as_function_calls_take_it() -> None:
    document = api(operationId="pets.add é/1" + "x" * 80)
    assert told(document).name == ("pets_add___1" + "x" * 80)[:64]
    document["paths"]["/b"] = {"post": {"operationId": "pets/add é/1" + "x" * 80}}
    with pytest.raises(ConfigError, match=r"POST /pets .* and POST /b .* have one name"):
        list(from_openapi(document, "api.json"))


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("[]", "holds no tool"),
        ("{", "neither JSON nor YAML"),
        ('{"a": 1}', "expected a list of tools"),
        ('[{"name": "f"}, {"name": "f"}]', "two tools of the name f"),
        ('[{"name": "two words"}]', "a name has letters"),
        ('[{"name": "f", "parameters": {"type": "array"}}]', "are no object"),
        ('[{"name": "f", "parameters": {"properties": {"a": {"type": "text"}}}}]', "not a JSON schema"),
    ],
)
def test_what_is_no_source_of_tools_is_said_in_a_line(tmp_path: Path, text: str, wrong: str) -> None:
    (file := tmp_path / "tools.json").write_text(text)
    with pytest.raises(ConfigError, match=wrong):
        definitions(str(file))


def test_sources_that_are_not_there() -> None:
    for source, wrong in {
        "none.json": "^tools 'none.json': there is no such file$",
        "none.py": "^tools 'none.py': there is no such file$",
        "weather": "package.module",
        "no_such:thing": "cannot import no_such",
        "mcp:": "which",
    }.items():
        with pytest.raises(ConfigError, match=wrong):
            definitions(source)


def answers(toolbox: Toolbox, *calls: Call) -> list[Observation]:
    async def ask() -> list[Observation]:
        generate = Scripted(in_turn())
        made = [await toolbox.call(call, generate) for call in calls]
        for thing in generate.things.values():
            await thing.aclose()
        return made

    return asyncio.run(ask())


def test_the_users_own_functions_and_langchains_tools_are_called_here(monkeypatch: pytest.MonkeyPatch) -> None:
    from langchain_core.tools import ToolException, tool

    @tool
    def double(of: int) -> int:
        """Doubles a number."""
        if of < 0:
            raise ToolException("negative")
        return 2 * of

    module = type(sys)("my_tools")
    module.mine = [half, double]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_tools", module)
    toolbox = Toolbox("my_tools:mine")
    assert [d.name for d in toolbox.definitions] == ["half", "double"] and toolbox.needs == ()
    assert toolbox.definitions[1].parameters["properties"]["of"]["type"] == "integer"
    assert answers(
        toolbox, Call("half", {"of": 3}), Call("half", {"of": 13}), Call("double", {"of": 4}),
        Call("double", {"of": -1}),
        Call("alf", {"of": 3}), Call("", {}), Call("half", {"of": 3, "by": 2}),
    ) == [
        ("ok", "1.5"), ("error", "ValueError: thirteen is unlucky"), ("ok", "8"), ("error", "ToolException: negative"),
        ("unknown", "there is no tool 'alf'"), ("unknown", "there is no tool ''"),
        ("invalid", "Additional properties are not allowed ('by' was unexpected) (at $)"),
    ]  # fmt: skip


def test_functions_of_a_file_run_in_the_sandbox(tmp_path: Path) -> None:
    (file := tmp_path / "f.py").write_text(
        "def power(a: int, b: int) -> int:\n    print('noise')\n    return a ** b\n\n"
        "def peek(path: str) -> str:\n    return open(path).read()\n\n"
        "def leave() -> str:\n    print('left')\n    raise SystemExit(0)\n"
    )
    toolbox = Toolbox(str(file))
    assert toolbox.needs == ("sandbox",)
    right, hidden, left = answers(
        toolbox, Call("power", {"a": 2, "b": 5}), Call("peek", {"path": str(file)}), Call("leave", {})
    )
    assert right == ("ok", "32")
    assert hidden.status == "error" and "FileNotFoundError" in hidden.text
    assert left == ("error", "SystemExit: 0")


def test_what_a_call_gave_is_taken_from_the_journal_and_a_wrong_call_is_not_made() -> None:
    class Known(Scripted):
        async def once(self, what: Any, do: Any) -> Any:
            assert what == [toolbox.digest, {"name": "add", "arguments": {"a": 1, "b": 2}}]
            return ["ok", "kept"]

    toolbox, known = Toolbox("tools.py"), Known(in_turn())
    assert asyncio.run(toolbox.call(Call("add", {"a": 1, "b": 2}), known)) == ("ok", "kept")
    assert asyncio.run(toolbox.call(Call("add", {"a": 1}), known)).status == "invalid"


def test_without_a_source_there_are_no_tools() -> None:
    none = Toolbox("")
    assert (none.definitions, none.callable, none.needs) == ((), False, ())


def test_a_module_of_the_current_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tools_lying_here.py").write_text("import kdaug\n\ndef one() -> int:\n    return 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert answers(Toolbox("tools_lying_here:one"), Call("one", {})) == [("ok", "1")]


@pytest.mark.parametrize(
    ("text", "needs"),
    [
        ("from langchain_core.tools import tool\n\ndef f(): ...\n", "langchain_core.tools"),
        ("def f():\n    import numpy.linalg\n", "numpy.linalg"),
        ("from . import near\n\ndef f(): ...\n", "what lies beside it"),
        ("import os, json.decoder\ntry:\n    import numpy\nexcept ImportError: ...\n\ndef f(): ...\n", None),
    ],
)
def test_a_file_that_needs_what_the_sandbox_has_not_is_refused_at_once(
    text: str, needs: str | None, tmp_path: Path
) -> None:
    (file := tmp_path / "mine.py").write_text(text)
    if needs is None:
        assert Toolbox(str(file)).callable
        return
    with pytest.raises(ConfigError, match=rf"imports {needs}, which the sandbox does not have .* write mine:FUNCTION"):
        Toolbox(str(file))


def test_where_a_file_lies_does_not_matter_but_what_is_in_it(tmp_path: Path) -> None:
    text = (shipped() / "seeds" / "tools.py").read_text("utf-8")
    (same := tmp_path / "same.py").write_text(text, "utf-8")
    (other := tmp_path / "other.py").write_text(text + "\n\ndef more() -> int:\n    return 1\n", "utf-8")
    first, second, third = (
        Recipe(Each([Record(prompt=user("one"))]), [kd.Stage(ApiGen(tools=tools))]).fingerprint
        for tools in ("tools.py", str(same), str(other))
    )
    assert first == second != third


def test_the_tools_beside_a_recipe_are_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    list(scaffold_method(find("apigen"), tmp_path / "mine"))
    with (tmp_path / "mine" / "tools.py").open("a") as file:
        file.write("\n\ndef mine() -> int:\n    return 1\n")
    monkeypatch.chdir(tmp_path)
    (stage,) = stages_in(load("mine/recipe.yaml"))
    assert "mine" in [d.name for d in vars(stage.generator)["toolbox"].definitions]


@pytest.mark.parametrize("name", ["apigen", "planning", "toolllm"])
def test_a_scaffold_has_the_tools_that_it_calls(name: str, tmp_path: Path) -> None:
    lines = list(scaffold_method(find(name), tmp_path / "mine"))
    assert any("tools.py" in line for line in lines)
    assert (tmp_path / "mine" / "tools.py").read_text("utf-8") == (shipped() / "seeds" / "tools.py").read_text("utf-8")


def test_the_shipped_tools() -> None:
    toolbox = Toolbox("tools.py")
    assert {d.name: d.required for d in toolbox.definitions}["days_of_month"] == ("month",)
    assert len(toolbox.digest) == 16


class Uses:
    """A generator that calls a tool after its teacher."""

    name: ClassVar[str] = "uses"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    async def __call__(self, parents: Sequence[Record], generate: Generate, rng: Random) -> Sequence[Record]:
        await generate(parents[0].prompt)
        await Toolbox("tools.py").call(Call("add", {"a": 1, "b": 2}), generate)
        raise AssertionError("nobody's turn came")


def test_a_tool_run_that_waits_for_its_turn_is_not_begun_after_the_end_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = asyncio.Semaphore(0)
    monkeypatch.setattr("kdaug.sandbox.require_sandbox", lambda: None)
    monkeypatch.setattr("kdaug.sandbox._slots", lambda: taken)
    recipe = kd.Recipe(kd.Each([Record(prompt=user("one"))]), [kd.Stage(Uses())], max_time=0.2)

    async def go() -> kd.Dataset:
        return await asyncio.wait_for(kd.arun(recipe, tmp_path / "run", teacher=kd.Fake(), quiet=True), 20)

    assert len(asyncio.run(go())) == 0


@pytest.mark.slow  # starts a server, twice
def test_an_mcp_server(tmp_path: Path) -> None:
    (file := tmp_path / "server.py").write_text(
        "from mcp.server.mcpserver import MCPServer\nserver = MCPServer('toy')\n\n"
        "@server.tool()\ndef add(a: int, b: int) -> int:\n    '''Adds.'''\n    return a + b\n\n"
        "@server.tool()\ndef fail() -> str:\n    '''Fails.'''\n    raise ValueError('no')\n\nserver.run()\n"
    )
    toolbox = Toolbox(f"mcp:{sys.executable} {file}")
    assert toolbox.definitions[0].required == ("a", "b")
    added, failed = answers(toolbox, Call("add", {"a": 1, "b": 2}), Call("fail", {}))
    assert added == ("ok", "3") and failed.status == "error"
