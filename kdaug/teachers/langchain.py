"""Any chat model of LangChain as a teacher."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import orjson

from kdaug.chat import split_thought
from kdaug.declared import check
from kdaug.errors import (
    AccessDenied,
    BadReply,
    BadRequest,
    ConfigError,
    ContextTooLong,
    KdaugError,
    RateLimited,
    Refused,
    ServerError,
    TeacherError,
    TeacherTimeout,
    TeacherUnavailable,
    require,
    shorten,
)
from kdaug.record import Json, Message, ToolCall
from kdaug.teacher import Completion, FinishReason, Request, Sampling, Usage
from kdaug.teachers.chat_api import FILTERED, TOO_LONG, retry_after
from kdaug.teachers.oldest import Oldest

# Finish reasons of OpenAI, Anthropic, Ollama and Google, in lower case.
FINISH: dict[str, FinishReason] = {
    **dict.fromkeys(("stop", "end_turn", "stop_sequence"), "stop"),
    **dict.fromkeys(("length", "max_tokens"), "length"),
    **dict.fromkeys(("tool_calls", "tool_use", "function_call"), "tool_calls"),
}
REFUSALS = ("content_filter", "refusal", "safety", "prohibited_content", "blocklist")
REPLY_TOOL = "reply"  # by which a model without another way is held to a JSON schema


class LangChain:
    """A `langchain_core` chat model: an object, or the address of its class with its arguments
    (`langchain:langchain_anthropic:ChatAnthropic?model=claude-x`).

    `timeout` is in seconds, for one request. Besides `max_tokens` and `stop`, what a request samples by is handed to
    the model where it differs from the usual 1.0, 0 or none. A JSON schema is offered as a tool that the model has to
    call, where it takes tools. A model's own `max_retries` are seen by no cap or limit of kdaug: set them to 0.

    Raises ConfigError for an address that leads to no chat model.
    """

    def __init__(self, chat: Any, concurrency: int = 16, timeout: float = 120.0, **arguments: Any) -> None:
        require("langchain_core", "langchain", "a LangChain teacher")
        from langchain_core.language_models import BaseChatModel

        self.model = _construct(chat, arguments) if isinstance(chat, str) else chat
        if not isinstance(self.model, BaseChatModel):
            raise ConfigError(f"{self.model!r} is no chat model of langchain_core")
        check("LangChain", "concurrency", concurrency, int)
        check("LangChain", "timeout", timeout, float)
        if concurrency < 1 or timeout <= 0:
            raise ConfigError("concurrency and timeout must be more than zero")
        self.concurrency, self.timeout = concurrency, timeout
        self._out = Oldest(timeout)
        known = (getattr(self.model, name, None) for name in ("model_name", "model", "model_id"))
        self.name = f"langchain:{next((n for n in known if isinstance(n, str) and n), type(self.model).__name__)}"

    def __repr__(self) -> str:
        return f"LangChain({self.name!r}, concurrency={self.concurrency})"  # a model's own may show its key

    @property
    def status(self) -> str:
        return self._out.status

    async def open(self, state: Path) -> None:
        """Nothing to do: the model is there."""

    async def generate(self, request: Request) -> Completion:
        """One call of the model. Raises TeacherError; KdaugError where a scripted model has no more replies. An error
        that is no provider's is raised as it is."""
        if request.sampling.logprobs:
            raise BadRequest("LangChain has no log-probabilities with token ids: use vllm: or local:")
        messages = [_to_langchain(m) for m in request.messages]
        call = self._out.sent()
        try:
            asked, as_call = self._offering(request)
            async with asyncio.timeout(self.timeout):
                answer = await asked.ainvoke(messages, **_settings(request.sampling))
            return _completion(answer, as_text=as_call)
        except Exception as e:
            failed = failure_of(e)
            if failed is None and isinstance(e.__cause__, StopIteration):
                raise KdaugError(f"{self.name} has no more replies: its messages are used up") from e
            if failed is None:
                raise
            words = f"{self.name}: {failed}"
            raise type(failed)(words, request=request, teacher=self.name, retry_after=failed.retry_after) from e
        finally:
            self._out.back(call)

    async def flush(self) -> None:
        """Nothing is held back."""

    async def aclose(self) -> None:
        """A model has no end of its own."""

    def _offering(self, request: Request) -> tuple[Any, bool]:
        """The model with the tools that it may call, and whether its reply has to be a call. Raises BadRequest where it
        takes no tools but the request has some."""
        tool = None if request.tools else _tool_of(request.sampling)
        try:
            if request.tools:
                return self.model.bind_tools(list(request.tools)), False
            if tool is not None:
                return self.model.bind_tools([tool], tool_choice=REPLY_TOOL), True
        except NotImplementedError as e:
            if request.tools:
                raise BadRequest("this model takes no tools") from e
        return self.model, False


# What providers' errors are: by the names of their classes (LangChain's own, those of openai, anthropic and httpx), and
# by the HTTP status that they hold. The first that fits counts.
FAILURES: tuple[tuple[type[TeacherError], frozenset[str], tuple[int, ...]], ...] = (
    (ContextTooLong, frozenset({"ContextOverflowError"}), ()),
    (AccessDenied, frozenset({"ModelAuthenticationError", "ModelPermissionDeniedError", "ModelNotFoundError"}), ()),
    (RateLimited, frozenset({"ModelRateLimitError"}), (429,)),
    (TeacherTimeout, frozenset({"ModelTimeoutError", "APITimeoutError", "TimeoutException", "TimeoutError"}), (408,)),
    (TeacherUnavailable, frozenset({"ModelConnectionError", "APIConnectionError", "ConnectError"}), ()),
    (TeacherUnavailable, frozenset({"ConnectionError"}), ()),
    (AccessDenied, frozenset(), (401, 402, 403, 404)),
    (ServerError, frozenset({"ModelAPIError", "TransportError"}), tuple(range(500, 600))),
    (BadRequest, frozenset({"ModelInvalidRequestError"}), tuple(range(400, 500))),
    (BadReply, frozenset({"OutputParserException"}), ()),
)


def failure_of(error: Exception) -> TeacherError | None:
    """A provider's error as one of ours; None where it is no failure of a call but a bug."""
    if isinstance(error, TeacherError):
        return error
    words, status = shorten(str(error) or type(error).__name__, 300), _status(error)
    if status in (400, 403) and FILTERED.search(words):
        return Refused(words)
    if status is not None and TOO_LONG.search(words):
        return ContextTooLong(words)
    names = {kind.__name__ for kind in type(error).__mro__}
    headers = getattr(getattr(error, "response", None), "headers", {})
    for kind, theirs, statuses in FAILURES:
        if names & theirs or status in statuses:
            return kind(words, retry_after=retry_after(headers))
    return None


def _status(error: Exception) -> int | None:
    """The HTTP status that an error holds, in one of the places where providers keep it."""
    response = getattr(error, "response", None)
    for holder, name in ((error, "status_code"), (response, "status_code"), (error, "code")):
        if isinstance(status := getattr(holder, name, None), int):
            return status
    return None


def _construct(address: str, arguments: Mapping[str, Any]) -> Any:
    module, _, name = address.partition(":")
    if not name:
        raise ConfigError(f"{address!r}: write langchain:PACKAGE.MODULE:CLASS?key=value")
    try:
        made = getattr(import_module(module), name)
    except (ImportError, AttributeError) as e:
        raise ConfigError(f"{address!r} cannot be imported: {e}") from e
    try:
        return made(**arguments)
    except (TypeError, ValueError) as e:
        raise ConfigError(f"{address!r} takes other arguments: {_told(e)}") from None  # what was given may be a key


def _told(error: Exception) -> str:
    """What is wrong, without the values that were given: pydantic's ValidationError shows them all."""
    if not hasattr(error, "errors"):
        return shorten(str(error), 300)
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))


def _settings(how: Sampling) -> dict[str, Any]:
    usual = Sampling()
    names = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed")
    changed = {name: getattr(how, name) for name in names if getattr(how, name) != getattr(usual, name)}
    return {"max_tokens": how.max_tokens, **changed, **({"stop": list(how.stop)} if how.stop else {})}


def _tool_of(how: Sampling) -> dict[str, Json] | None:
    """The tool whose arguments are the reply that the schema wants; None where no tool's arguments can be that."""
    schema = (how.schema or {}).get("json")
    if not isinstance(schema, dict) or not (schema.get("type") == "object" or "properties" in schema):
        return None
    function: Json = {"name": REPLY_TOOL, "description": "Takes the reply.", "parameters": schema}
    return {"type": "function", "function": function}


def _to_langchain(message: Message) -> Any:
    from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

    match message.role:
        case "system":
            return SystemMessage(message.content)
        case "user":
            return HumanMessage(message.content)
        case "tool":
            return ToolMessage(message.content, tool_call_id=message.tool_call_id or "")
        case "assistant":
            good, bad = [], []
            for call in message.tool_calls:
                arguments = _object(call.arguments)
                if arguments is None:
                    bad.append({"name": call.name, "args": call.arguments, "id": call.id, "error": "not a JSON object"})
                else:
                    good.append({"name": call.name, "args": arguments, "id": call.id})
            return AIMessage(message.content, tool_calls=good, invalid_tool_calls=bad)


def _completion(answer: Any, *, as_text: bool) -> Completion:
    """`as_text`: the arguments of its call are the reply. Raises Refused where a filter ended it."""
    told = answer.response_metadata
    finish = str(told.get("finish_reason") or told.get("stop_reason") or told.get("done_reason") or "").lower()
    if finish in REFUSALS:
        raise Refused(f"the content filter cut off the reply ({finish})")
    # A parrot (langchain-core's own, for tests) gives back what it got, which has none of an AIMessage's fields.
    good, bad = getattr(answer, "tool_calls", ()), getattr(answer, "invalid_tool_calls", ())
    calls = [ToolCall(c["id"] or "", c["name"], orjson.dumps(c["args"]).decode()) for c in good]
    calls += [ToolCall(c["id"] or "", c["name"] or "", c["args"] or "") for c in bad]
    text = str(answer.text)
    reasoning = "".join(b.get("reasoning", "") for b in answer.content_blocks if b["type"] == "reasoning")
    if not reasoning:
        reasoning, text = split_thought(text)
    if as_text and calls:
        text, calls, finish = calls[0].arguments, [], "stop" if finish not in ("length", "max_tokens") else finish
    used = getattr(answer, "usage_metadata", None) or {}
    return Completion(
        text,
        finish_reason=FINISH.get(finish, "tool_calls" if calls else "stop" if not finish else "other"),
        reasoning=reasoning,
        tool_calls=tuple(calls),
        usage=Usage(used.get("input_tokens", 0), used.get("output_tokens", 0)),
    )


def _object(text: str) -> dict[str, Any] | None:
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None
