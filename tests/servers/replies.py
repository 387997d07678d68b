"""What the fake OpenAI server answers: the options, one call, and its reply for every fault."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson


@dataclass
class Config:
    """Every option, on the command line (`--latency-ms 200`) and in `/__config` (`{"latency_ms": 200}`)."""

    latency_ms: float = 0.0  # mean time until the answer
    dist: str = "fixed"  # of the latency: fixed, uniform or lognormal
    sigma: float = 0.5  # of the lognormal
    seed: int = 0  # of the faults and the latencies
    faults: dict[str, float] = field(default_factory=dict)  # fault: probability
    fault_once: bool = False  # only the first attempt of a prompt can fail
    fault_latency: bool = True  # faults take the latency too
    retry_after: float = 1.0  # seconds, in the header of a 429 or 503; negative: no header
    hang_s: float = 3600.0
    huge_mb: int = 64
    rps: float = 0.0  # above so many requests a second (a token bucket) a 429; 0: no limit
    tps: float = 0.0  # above so many tokens a second (of answers that went out) a 429; 0: no limit
    works_on: int = 0  # so many at once, the others queue for their turn; 0: all
    max_inflight: int = 0  # above so many at once a 429; 0: no limit
    api_key: str = ""  # any other bearer gets a 401; empty: none is asked for
    max_completion_tokens: bool = False  # refuse `max_tokens`, as OpenAI's reasoning models do
    reasoning: bool = False  # answers carry reasoning_content
    schemas: str = "ignore"  # what becomes of response_format and structured_outputs: ignore, keep or refuse
    resp_chars: int = 400
    model: str = "fake-model"
    trace: bool = False


FILLER = "The quick brown fox jumps over the lazy dog while distillation proceeds with care. " * 200
REASONS = {200: b"OK", 302: b"Found", 400: b"Bad Request", 401: b"Unauthorized", 404: b"Not Found",
           429: b"Too Many Requests", 500: b"Internal Server Error", 503: b"Service Unavailable"}  # fmt: skip
CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}
WORDS = {
    401: "Incorrect API key provided: {bearer}.",
    404: "The model does not exist or you do not have access to it.",
    429: "Rate limit reached, please slow down.",
}


@dataclass(slots=True)
class Call:
    """One chat call between its arrival and its reply."""

    arrived: float
    url: str
    authorization: str
    body: bytes
    close: bool
    outcome: str = "ok"
    key: str = ""
    tokens: tuple[int, int] = (0, 0)


def http(status: int, body: bytes, *, kind: bytes = b"application/json", extra: bytes = b"") -> bytes:
    head = b"HTTP/1.1 %d %s\r\ncontent-type: %s\r\ncontent-length: %d\r\n%s\r\n"
    return head % (status, REASONS.get(status, b"Error"), kind, len(body), extra) + body


def error(status: int, words: str, code: str | None, extra: bytes = b"") -> bytes:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return http(
        status, orjson.dumps({"error": {"message": words, "type": kind, "param": None, "code": code}}), extra=extra
    )


def failure(fault: str, config: Config, authorization: str) -> bytes:
    """The reply to a fault that has no answer in it."""
    if fault == "context":
        return error(400, "This model's maximum context length is 4096 tokens, 9999 asked.", "context_length_exceeded")
    if fault == "policy":
        return error(400, "The prompt was refused by the content management policy.", "content_filter")
    if fault == "quota":
        return error(429, "You exceeded your current quota, please check your plan.", "insufficient_quota")
    if fault == "max_tokens":
        words = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'."
        return error(400, words, "unsupported_parameter")
    if fault == "schema":
        return error(400, "This response_format type is unavailable now", "invalid_request_error")
    if fault == "redirect":
        return http(302, b"", extra=b"location: /login\r\n")
    if fault == "html":
        return http(200, b"<!doctype html><html><body>Please log in</body></html>", kind=b"text/html")
    if fault == "blank":
        return http(200, b"")
    if fault == "nochoices":
        return http(200, b'{"id": "x", "object": "chat.completion", "choices": []}')
    if fault == "inband":
        return http(200, b'{"error": {"message": "The upstream model is overloaded", "code": 503}}')
    if fault == "huge":
        return http(200, b'{"choices": "' + b"x" * (config.huge_mb << 20) + b'"}')
    status = int(fault)
    wait = b"retry-after: %g\r\n" % config.retry_after if status in (429, 503) and config.retry_after >= 0 else b""
    words = WORDS.get(status, f"injected {status}").format(bearer=authorization.removeprefix("Bearer "))
    return error(status, words, CODES.get(status), wait)


def kept_to(form: dict[str, Any], salt: str) -> str:
    """A reply of the wanted form; of JSON schemas, those of flat objects of strings and integers are understood."""
    if "choice" in form:
        return str(form["choice"][0])
    if "regex" in form:
        return "1984"
    properties = form["json_schema"]["schema"]["properties"]
    values = {name: len(salt) if p["type"] == "integer" else salt for name, p in properties.items()}
    return orjson.dumps(values).decode()


def letters(content: str, top_k: int) -> list[dict[str, Any]]:
    """The logprobs of a model whose tokens are letters, named by their text, as OpenAI names them."""

    def told(letter: str, logprob: float) -> dict[str, Any]:
        return {"token": letter, "logprob": logprob, "bytes": list(letter.encode())}

    others = [told(chr(ord("a") + place), -4.0 - place) for place in range(top_k - 1)]
    return [{**told(letter, -0.5), "top_logprobs": [told(letter, -0.5), *others]} for letter in content]


ANSWERED = {"ok", "trunc", "hang", "empty", "filter", "badutf8", "surrogate", "wrongtype", "trickle"}


def answer(call: Call, request: dict[str, Any], text: str, config: Config) -> bytes:
    """A completion, or what its fault makes of one; sets the call's tokens."""
    salt = call.key if request.get("seed") is None else f"{call.key}/{request['seed']}"
    limit = request.get("max_completion_tokens") or request.get("max_tokens") or 1 << 20
    size = min(config.resp_chars, limit * 4)
    content: str | None = "" if call.outcome == "empty" else f"ANS[{salt}] {text[:80]} :: {FILLER}"[:size]
    if config.schemas == "keep" and (form := request.get("structured_outputs") or request.get("response_format")):
        content = kept_to(form, salt)
    call.tokens = (len(call.body) // 4, max(1, len(content or "") // 4))
    if call.outcome == "wrongtype":
        return http(200, (content or "").encode(), kind=b"text/plain")
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    finish = "length" if size < config.resp_chars else "stop"
    measured = {"content": letters(content or "", request["top_logprobs"])} if request.get("logprobs") else None
    if config.reasoning:
        message["reasoning_content"] = f"Thinking about {salt}."
    if tools := request.get("tools"):
        function = {"name": tools[0]["function"]["name"], "arguments": '{"key": "' + salt + '"}'}
        message |= {"content": None, "tool_calls": [{"id": "call_1", "type": "function", "function": function}]}
        finish = "tool_calls"
    if call.outcome == "filter":
        finish = "content_filter"
    used = {"prompt_tokens": call.tokens[0], "completion_tokens": call.tokens[1], "total_tokens": sum(call.tokens)}
    body = orjson.dumps(
        {
            "id": "chatcmpl-" + call.key,
            "object": "chat.completion",
            "created": int(call.arrived),
            "model": request.get("model", config.model),
            "choices": [
                {
                    "index": 0,
                    "message": message,
                    "finish_reason": finish,
                    **({"logprobs": measured} if measured else {}),
                }
            ],
            "usage": used,
        }
    )
    if call.outcome == "badutf8":
        body = body.replace(b"ANS[", b"ANS\xff\xfe[")
    elif call.outcome == "surrogate":
        body = body.replace(b"ANS[", b"ANS\\ud83d[")
    elif call.outcome == "trunc":
        body = body[: len(body) // 2]
    return http(200, body)
