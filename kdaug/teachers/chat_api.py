"""Replies and failures of chat completion APIs: what the server sent becomes a Completion or a TeacherError."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import orjson

from kdaug.chat import split_thought
from kdaug.errors import (
    AccessDenied,
    BadReply,
    BadRequest,
    ContextTooLong,
    RateLimited,
    Refused,
    ServerError,
    TeacherError,
    TeacherTimeout,
    TeacherUnavailable,
    shorten,
)
from kdaug.record import Json, ToolCall
from kdaug.teacher import Completion, FinishReason, Schema, Usage
from kdaug.teachers.weights import read_tokens, weights_of

if TYPE_CHECKING:
    import aiohttp

MAX_BODY = 32 << 20  # bytes; the longest replies of today's models are about 1 MB
FINISH: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}
# The words of OpenAI, vLLM, llama.cpp, TGI, Azure and others, where they give no code.
TOO_LONG = re.compile(
    r"context_length_exceeded|exceed_context_size|context (length|size|window)|maximum (input|prompt) length"
    r"|prompt is too long|`?inputs`? tokens",
    re.I,
)
FILTERED = re.compile(
    r"content_filter|content_policy|content management policy|content policy|moderation|flagged"
    r"|data_inspection_failed|content exists risk",
    re.I,
)
# At the start only: further on, a server may quote the prompt.
NO_ACCESS = re.compile(
    r"\d+ (?:\w+: )?(?:api.?key not valid|(?:invalid|incorrect)[ _]api.?key|insufficient[ _](?:quota|balance)"
    r"|billing_hard_limit_reached|billing_not_active|your credit balance is too low)",
    re.I,
)
# The words of a server that refuses to constrain its reply, or cannot do it with this schema.
UNCONSTRAINED = re.compile(
    r"response_format|json_schema|structured_outputs|schema|grammar|guided|extra (inputs|fields)", re.I
)
NO_TLS = "does the server speak https? If not, base_url begins with http://"
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
GO_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:([\d.]+)s)?(?:([\d.]+)ms)?")


def constraint(schema: Schema, *, official: bool) -> dict[str, Json]:
    """The field of a request that constrains its reply: `response_format` for a JSON schema, for a regex or a choice
    vLLM's `structured_outputs`, which OpenAI's own API has nothing like."""
    if "json" in schema:
        wanted = schema["json"]
        named: Json = {"name": "reply", "schema": wanted, "strict": _is_closed(wanted)}
        return {"response_format": {"type": "json_schema", "json_schema": named}}
    return {} if official else {"structured_outputs": schema}


def _is_closed(schema: Json) -> bool:
    """Whether OpenAI takes it as strict: each of its objects needs all of its properties and allows no others."""
    if isinstance(schema, list):
        return all(map(_is_closed, schema))
    if not isinstance(schema, dict):
        return True
    if schema.get("type") == "object" or "properties" in schema:
        names, needed = schema.get("properties") or {}, schema.get("required") or []
        if not (isinstance(names, dict) and isinstance(needed, list) and schema.get("additionalProperties") is False):
            return False
        if names.keys() != set(map(str, needed)):
            return False
    return all(map(_is_closed, schema.values()))


async def whole_body(reply: aiohttp.ClientResponse) -> bytes:
    """The decoded body. Raises BadReply when it does not end within MAX_BODY."""
    chunks, size = [], 0
    async for chunk in reply.content.iter_any():
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_BODY:
            raise BadReply(f"the reply is larger than {MAX_BODY >> 20} MiB")
    return b"".join(chunks)


def read_completion(data: bytes, headers: Mapping[str, str], weigh: Sequence[str] = ()) -> Completion:
    """The completion in the body of a 200, with the weights of the words that it was to `weigh`. Raises BadReply where
    there is none, Refused where a filter cut it off.

    The body decides, not its declared type: a completion that is labelled text/plain is one.
    """
    reply = _loads(data, headers)
    try:
        choice = reply["choices"][0]
        message = choice["message"]
        finish = choice.get("finish_reason")
        text, thought = _text(message.get("content"))
        calls = tuple(_tool_call(call) for call in message.get("tool_calls") or ())
        used = reply.get("usage") or {}
        usage = Usage(used.get("prompt_tokens") or 0, used.get("completion_tokens") or 0)
        told = message.get("reasoning_content") or message.get("reasoning")
        refusal = message.get("refusal")
        weights = weights_of(read_tokens(choice), weigh) if weigh else {}
    except (LookupError, TypeError, AttributeError) as e:
        if isinstance(reply, dict) and reply.get("error"):
            raise _failure_in_band(reply, headers, data) from e
        raise BadReply(f"the reply is no chat completion: {shorten(data[:300].decode('utf-8', 'replace'))}") from e
    if finish == "content_filter":
        raise Refused("the content filter cut off the reply")
    if refusal and not text:
        raise Refused(f"the model refused: {refusal}")
    if finish in ("error", "abort"):  # OpenRouter, vLLM: the generation broke off on their side
        raise ServerError(f"the generation broke off: finish_reason {finish!r}")
    reasoning = told if isinstance(told, str) else thought
    if not reasoning:  # a server without a parser for its model's thoughts leaves them in the answer
        reasoning, text = split_thought(text)
    return Completion(
        text,
        finish_reason=FINISH.get(finish, "other"),
        reasoning=reasoning,
        tool_calls=calls,
        usage=usage,
        weights=weights,
    )


def failure_of_reply(status: int, headers: Mapping[str, str], data: bytes, *, first: bool) -> TeacherError:
    """What a status other than 200 means. `first`: the endpoint has not answered any call yet."""
    words = f"{status} {_server_words(data)}".strip()
    wait = retry_after(headers)
    if status in (401, 402, 407) or (status < 500 and NO_ACCESS.match(words)):
        return AccessDenied(words)
    if status == 429:
        return RateLimited(words, retry_after=wait)
    if status == 408:
        return TeacherTimeout(words, retry_after=wait)
    if 400 <= status < 500 and FILTERED.search(words):
        return Refused(words)
    if status == 403:  # once others were answered, it is this request that is not allowed: a moderator, say
        return AccessDenied(words) if first else Refused(words)
    if TOO_LONG.search(words):  # llama.cpp has said so with a 500
        return ContextTooLong(words)
    if status >= 500:  # 503 and 529 (Anthropic): too much work, whether or not it says how long
        return ServerError(words, retry_after=(wait or 0.0) if status in (503, 529) else wait)
    if status in (404, 405) or 300 <= status < 400:
        where = f" (sent on to {headers['Location']})" if "Location" in headers else ""
        # At the first call: a wrong base_url, or a model that is not there or not ours. No other call would fare
        # better. Later on, this request differs from the ones that went through.
        return AccessDenied(f"{words}{where}: check base_url and model") if first else BadRequest(words + where)
    if 200 <= status < 300:
        return BadReply(f"{words}: not a completion")
    return BadRequest(words)


def failure_of(error: BaseException) -> TeacherError:
    """What went wrong on the way there or back; a TeacherError is its own."""
    import aiohttp

    if isinstance(error, TeacherError):
        return error
    if isinstance(error, aiohttp.ClientHttpProxyError):
        words = f"the proxy answered {error.status} {error.message}"
        return AccessDenied(words) if error.status in (401, 403, 407) else TeacherUnavailable(words)
    if isinstance(error, aiohttp.ClientResponseError):
        return BadReply(f"the reply is no HTTP: {error.message}")
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        hint = "a CA bundle can be named in SSL_CERT_FILE"
        return TeacherUnavailable(f"no secure connection: {error.certificate_error} ({hint})")
    if isinstance(error, aiohttp.ClientSSLError):
        return TeacherUnavailable(f"no secure connection: {error.os_error} ({NO_TLS})")
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
        why = cause.strerror or str(cause) or type(cause).__name__
        if isinstance(cause, ConnectionResetError):  # in the handshake: nothing else is said before a connection stands
            why = f"it was cut off at its start ({NO_TLS})"
        proxied = isinstance(error, aiohttp.ClientProxyConnectionError)
        to = f" to the proxy {error.host}:{error.port}, which the environment names" if proxied else ""
        return TeacherUnavailable(f"no connection{to}: {why}")
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return TeacherUnavailable("no connection in time")
    if isinstance(error, TimeoutError):
        return TeacherTimeout("no complete reply in time")
    # ClientPayloadError, ServerDisconnectedError, ClientOSError and their kin: cut off half way.
    return ServerError(f"the connection broke: {type(error).__name__} {error}")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that the server asks to wait: Retry-After (seconds or a date), else OpenAI's own headers."""
    asked = headers.get("Retry-After")
    if asked is not None:
        try:
            return max(0.0, float(asked))
        except ValueError:
            pass
        try:
            date = parsedate_to_datetime(asked)
        except ValueError:
            return None
        return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    waits = []
    for what in ("requests", "tokens"):
        spent = headers.get(f"x-ratelimit-remaining-{what}") == "0"
        lasts = GO_DURATION.fullmatch(headers.get(f"x-ratelimit-reset-{what}", "")) if spent else None
        if lasts is not None:
            hours, minutes, seconds, millis = (float(part or 0) for part in lasts.groups())
            waits.append(hours * 3600 + minutes * 60 + seconds + millis / 1000)
    return max(waits, default=None)


def _loads(data: bytes, headers: Mapping[str, str]) -> Any:  # Any: JSON as it comes
    """JSON, where invalid UTF-8 and lone surrogates are replaced by U+FFFD: no writer could take them."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:
        tree = json.loads(data.decode("utf-8", "replace"))
        return orjson.loads(LONE_SURROGATE.sub("\ufffd", json.dumps(tree, ensure_ascii=False)))
    except (ValueError, RecursionError) as e:
        kind = headers.get("Content-Type", "no type")
        start = shorten(data[:300].decode("utf-8", "replace")) or "empty"
        raise BadReply(f"the reply is no JSON ({kind}, {len(data)} bytes): {start}") from e


def _text(content: Any) -> tuple[str, str]:  # Any: JSON as it comes
    """(answer, thought): a string, nothing (a mere tool call), or a list of typed parts (Mistral)."""
    if isinstance(content, str):
        return content, ""
    parts = content or ()
    answer = "".join(part["text"] for part in parts if part.get("type") == "text")
    thoughts = [_text(part.get("thinking"))[0] for part in parts if part.get("type") == "thinking"]
    return answer, "\n".join(thoughts)


def _tool_call(call: Any) -> ToolCall:  # Any: JSON as it comes
    function = call["function"]
    arguments = function.get("arguments") or ""
    if not isinstance(arguments, str):  # Ollama has sent them as an object
        arguments = orjson.dumps(arguments).decode()
    return ToolCall(call.get("id") or "", function["name"], arguments)


def _failure_in_band(reply: Any, headers: Mapping[str, str], data: bytes) -> TeacherError:  # Any: JSON as it comes
    """An error inside a 200 (OpenRouter): its code is the status."""
    code = reply["error"].get("code") if isinstance(reply["error"], dict) else None
    if isinstance(code, int) and 400 <= code < 600:
        return failure_of_reply(code, headers, data, first=False)
    return BadReply(f"an error in place of a completion: {_server_words(data)}")


def _server_words(data: bytes) -> str:
    """The server's own account: code and message of the usual error object, else the start of the body."""
    try:
        reply = orjson.loads(data)
    except orjson.JSONDecodeError:
        return shorten(re.sub(rb"<[^>]*>", b" ", data[:2000]).decode("utf-8", "replace"), 200)
    if isinstance(reply, list) and reply:  # Google
        reply = reply[0]
    error = reply.get("error", reply) if isinstance(reply, dict) else reply
    if not isinstance(error, dict):
        return shorten(str(error), 200)
    message = error.get("message") or error.get("detail") or error.get("type") or error
    code = next((c for c in (error.get("code"), error.get("type")) if isinstance(c, str)), None)
    return shorten(f"{code}: {message}" if code else str(message), 200)
