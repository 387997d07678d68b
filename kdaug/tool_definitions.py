"""Tool definitions: what a function is called, what it takes, and whether a call of it is right.

They are read from JSON schemas, an OpenAPI document, Python functions, tools of langchain-core, or an MCP server.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import logging
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from kdaug import openapi
from kdaug.address import load_class
from kdaug.errors import ConfigError, require, shorten
from kdaug.mcp_session import client_of, tools_of
from kdaug.prompts import shipped
from kdaug.record import Json
from kdaug.references import Unresolved, standing_alone
from kdaug.structured import Form, form_of
from kdaug.teacher import Until, patiently

# Of a part's field that names tools: a recipe looks for the file beside it first, and what the tools are (the toolbox's
# digest), not where they lie, is part of the fingerprint.
BESIDE: Mapping[str, bool] = {"beside": True, "fingerprint": False}
_NAME = re.compile(r"[A-Za-z_][\w.-]{0,63}")
_TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean", "list": "array", "dict": "object"}
LOG = logging.getLogger("kdaug")


@dataclass(frozen=True)
class Definition:
    """A tool: `parameters` is the JSON schema of an object. Raises ConfigError for a name or a schema that is none."""

    name: str
    description: str
    parameters: Mapping[str, Any]  # Any: a JSON schema

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ConfigError(f"tool {self.name!r}: a name has letters, digits, _ . and -, 64 at most")
        if self.parameters.get("type", "object") != "object":
            raise ConfigError(f"tool {self.name}: its parameters are no object: {shorten(str(self.parameters))}")
        try:
            _ = self._form
        except ConfigError as e:
            raise ConfigError(f"tool {self.name}: its parameters: {e}") from e

    @property
    def required(self) -> tuple[str, ...]:
        return tuple(self.parameters.get("required", ()))

    def to_json(self) -> dict[str, Json]:
        """As chat templates and APIs take it, and as `Record.tools` holds it."""
        told: dict[str, Json] = {
            "name": self.name,
            "description": self.description,
            "parameters": {"type": "object", "properties": {}, **self.parameters},
        }
        return {"type": "function", "function": told}

    async def flaw(self, arguments: object, until: Until = patiently) -> str | None:
        """What is wrong with a call's arguments, in a line. Raises ConfigError for a `$ref` that leads nowhere."""
        if not isinstance(arguments, dict):
            return "the arguments are no object"
        return await self._form.flaw(arguments, until)

    @property
    def closed(self) -> dict[str, Any]:
        """The schema of a call's arguments, where one that is not named is wrong unless it says otherwise."""
        return {"type": "object", "additionalProperties": False, **self.parameters}

    @property
    def _form(self) -> Form:
        return form_of({"json": self.closed})


def definitions(source: str) -> tuple[Definition, ...]:
    """The tools of a `.json` or `.yaml` file (a list of definitions, or an OpenAPI document), of a `.py` file of
    functions, of `package.module:attribute` (a function, a tool of langchain-core, or a list of them), or of an MCP
    server (`mcp:COMMAND ARGUMENT …` or `mcp:https://…`).

    A file that is not there is looked for among the shipped ones. Raises ConfigError for a source that cannot be read,
    that has no tool, or two of one name.
    """
    match kind_of(source):
        case "server":
            found = _of_server(source)
        case "file":
            found = list(_of_module(text_of_file(source), source))
        case "document":
            found = list(_of_document(source))
        case _:
            found = [_of_object(tool, source) for tool in tools_at(source)]
    return distinct(found, source)


def distinct(found: Sequence[Definition], where: str) -> tuple[Definition, ...]:
    """Raises ConfigError where there is no tool, or two of one name."""
    names = [definition.name for definition in found]
    if not names:
        raise ConfigError(f"{where} holds no tool")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"{where} has two tools of the name {twice}: rename one")
    return tuple(found)


def kind_of(source: str) -> Literal["server", "file", "document", "objects"]:
    if source.startswith("mcp:"):
        return "server"
    if source.endswith(".py"):
        return "file"
    return "document" if source.endswith((".json", ".yaml", ".yml")) else "objects"


def text_of_file(source: str) -> str:
    """Of a file here, or of a shipped one of this name. Raises ConfigError where there is none."""
    path = Path(source) if Path(source).exists() else shipped() / "seeds" / source
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as e:
        raise ConfigError(f"tools {source!r}: there is no such file") from e
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"tools {source!r}: cannot be read ({getattr(e, 'strerror', None) or e})") from e


def tools_at(address: str) -> Sequence[Any]:  # Any: functions, or tools of langchain-core
    """What `package.module:attribute` holds; the module may lie in the current folder. Raises ConfigError where that
    cannot be imported."""
    if not address.partition(":")[2]:
        raise ConfigError(
            f"tools {address!r}: give a .py, .json or .yaml file, package.module:attribute, or mcp:COMMAND"
        )
    try:
        found = load_class(address, Path.cwd())
    except ConfigError as e:
        raise ConfigError(f"tools {address!r}: {e}") from e
    return found if isinstance(found, Sequence) else [found]


def check_imports(text: str, source: str) -> None:
    """Raises ConfigError where a file's functions need more than Python's own library, as the sandbox has no more."""
    foreign = [n for n in _imported(ast.parse(text).body) if n.partition(".")[0] not in sys.stdlib_module_names]
    if foreign:
        raise ConfigError(
            f"tools {source!r}: it imports {foreign[0] or 'what lies beside it'}, which the sandbox does not have that "
            f"a file's functions run in: write {Path(source).stem}:FUNCTION (or the name of a list of them), which "
            "runs in this process, unguarded"
        )


def _imported(body: Sequence[ast.stmt]) -> Iterator[str]:
    """The modules that are imported, but for what is tried alone."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "" if node.level else node.module or ""
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from _imported(node.body)


def from_json(plain: Any, where: str) -> Definition:
    """A definition as OpenAI's API has it (`{"type": "function", "function": {…}}`), or the inner object alone."""
    told = plain.get("function", plain) if isinstance(plain, Mapping) else None
    if not isinstance(told, Mapping) or "name" not in told:
        raise ConfigError(f"{where}: expected an object with name, description and parameters: {shorten(str(plain))}")
    parameters = told.get("parameters") or told.get("input_schema") or told.get("inputSchema") or {"type": "object"}
    if not isinstance(parameters, Mapping):
        raise ConfigError(f"{where}: the parameters of {told['name']} are no JSON schema of an object")
    return Definition(told["name"], str(told.get("description") or ""), parameters)


def named(plain: Any) -> str | None:
    """The name in a definition as `from_json` takes it; None where there is none."""
    told = plain.get("function", plain) if isinstance(plain, Mapping) else None
    name = told.get("name") if isinstance(told, Mapping) else None
    return name if isinstance(name, str) else None


def calls_schema(offered: Sequence[Definition]) -> dict[str, Any]:
    """The JSON schema of a call of one of these tools: `{"name": …, "arguments": {…}}`."""
    return {"anyOf": [_call_schema(definition) for definition in offered]}


def _call_schema(definition: Definition) -> dict[str, Any]:
    properties = {"name": {"const": definition.name}, "arguments": standing_alone(definition.closed)}
    return {
        "type": "object",
        "properties": properties,
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _of_document(source: str) -> Iterator[Definition]:
    import yaml

    text = text_of_file(source)
    try:
        # YAML has dates, and numbers as names.
        found = text if source.endswith(".json") else orjson.dumps(yaml.safe_load(text), option=orjson.OPT_NON_STR_KEYS)
        found = orjson.loads(found)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError, yaml.YAMLError) as e:
        raise ConfigError(f"{source} is neither JSON nor YAML: {e}") from e
    if isinstance(found, Mapping) and isinstance(found.get("paths"), Mapping):
        yield from from_openapi(found, source)
        return
    listed = found.get("tools") if isinstance(found, Mapping) else found
    if not isinstance(listed, list):
        raise ConfigError(f"{source}: expected a list of tools, or an OpenAPI document with paths")
    for number, plain in enumerate(listed):
        yield from_json(plain, f"{source}: tool {number}")


def from_openapi(
    document: Mapping[str, Any], where: str, left: Callable[[str], None] = LOG.warning
) -> Iterator[Definition]:
    """The operations of an OpenAPI document (see kdaug/openapi.py). `left` is told, in a line, of each that cannot be
    told as a tool. Raises ConfigError for a document without any other, and for two operations of one name."""
    known: dict[str, openapi.Place] = {}
    why: list[str] = []
    try:
        for place in openapi.places(document):
            try:
                made = Definition(place.name, place.description, openapi.arguments(place, document))
            except (Unresolved, ConfigError) as e:
                why.append(f"{where}: the operation {place} is left out: {e}")
                left(why[-1])
                continue
            if (other := known.setdefault(made.name, place)) is not place:
                raise ConfigError(f"{where}: {other} and {place} have one name, {made.name}: give other operationIds")
            yield made
    except Unresolved as e:
        raise ConfigError(f"{where}: {e}") from e
    if why and not known:
        raise ConfigError(why[0])


def _of_object(tool: Any, where: str) -> Definition:
    if hasattr(tool, "args_schema") or hasattr(tool, "tool_call_schema"):
        require("langchain_core", "langchain", where)
        from langchain_core.utils.function_calling import convert_to_openai_tool

        return from_json(convert_to_openai_tool(tool), where)
    if isinstance(tool, Mapping):
        return from_json(tool, where)
    try:
        source = textwrap.dedent(inspect.getsource(tool))
    except (OSError, TypeError) as e:
        raise ConfigError(f"{where}: {tool!r} is neither a function nor a tool") from e
    return next(_of_module(source, where))


def _of_module(text: str, where: str) -> Iterator[Definition]:
    """The functions of a Python file whose names do not begin with _; the file is read and not run."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as e:
        raise ConfigError(f"{where} is no Python: {e}") from e
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield _of_function(node)


def _of_function(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Definition:
    """By its annotations and its docstring, whose lines `name: …` describe the arguments."""
    doc = ast.get_docstring(node) or ""
    arguments = [*node.args.posonlyargs, *node.args.args]
    optional = {a.arg for a in arguments[len(arguments) - len(node.args.defaults) :]}
    optional |= {a.arg for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if d is not None}
    fields = {}
    for argument in (*arguments, *node.args.kwonlyargs):
        told = re.search(rf"^\s*{argument.arg}(?: \([^)]*\))?: (.+)$", doc, re.MULTILINE)
        fields[argument.arg] = {**_schema(argument.annotation), **({"description": told[1].strip()} if told else {})}
    required = [name for name in fields if name not in optional]
    description = doc.split("\n\n")[0].replace("\n", " ")
    return Definition(node.name, description, {"type": "object", "properties": fields, "required": required})


def _schema(annotation: ast.expr | None) -> dict[str, Any]:
    match annotation:
        case ast.Name(id=name) if name in _TYPES:
            return {"type": _TYPES[name]}
        case ast.Subscript(value=ast.Name(id="list"), slice=inner):
            return {"type": "array", "items": _schema(inner)}
        case ast.Subscript(value=ast.Name(id="dict")):
            return {"type": "object"}
        case ast.Subscript(value=ast.Name(id="Literal"), slice=ast.Tuple(elts=options)):
            return {"enum": [option.value for option in options if isinstance(option, ast.Constant)]}
        case ast.BinOp(left=left, op=ast.BitOr(), right=ast.Constant(value=None)):
            return {"anyOf": [_schema(left), {"type": "null"}]}
    return {}


def _of_server(source: str) -> list[Definition]:
    client_of(source)  # what is wrong in its name is said here
    with ThreadPoolExecutor(1) as thread:  # an event loop may run in this one
        listed = thread.submit(asyncio.run, tools_of(source)).result()
    return [Definition(tool.name, tool.description or "", dict(tool.input_schema)) for tool in listed]
