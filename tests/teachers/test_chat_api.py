"""What servers say, read: replies, failures and how long they wish us to wait. No server is asked."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import orjson
import pytest

from kdaug.errors import (
    AccessDenied,
    BadReply,
    BadRequest,
    ContextTooLong,
    RateLimited,
    Refused,
    ServerError,
    TeacherError,
)
from kdaug.record import ToolCall
from kdaug.teacher import Completion
from kdaug.teachers.chat_api import failure_of_reply, read_completion, retry_after


def test_the_wish_to_wait_is_read_in_every_form() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    past = format_datetime(datetime.now(UTC) - timedelta(seconds=30), usegmt=True)
    assert retry_after({"Retry-After": "1.5"}) == 1.5
    assert 25 < (retry_after({"Retry-After": soon}) or 0) <= 30
    assert retry_after({"Retry-After": past}) == 0
    assert retry_after({"Retry-After": "soon"}) is None
    assert retry_after({}) is None
    limits = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1m2.5s"}
    assert retry_after(limits) == 62.5
    assert retry_after({**limits, "x-ratelimit-remaining-tokens": "10"}) is None


# Bodies as servers send them, in short.
BODIES: list[tuple[int, Any, type[TeacherError]]] = [
    (400, {"error": {"message": "You passed 25 input tokens and requested 1000 output tokens. However, the model's "
                     "context length is only 1024 tokens", "code": 400}}, ContextTooLong),
    (400, {"object": "error", "message": "This model's maximum context length is 6048 tokens."}, ContextTooLong),
    (400, {"error": {"code": 400, "message": "too big", "type": "exceed_context_size_error"}}, ContextTooLong),
    (422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096"}, ContextTooLong),
    (400, {"error": {"message": "The response was filtered", "code": "content_filter"}}, Refused),
    (403, {"error": {"message": "Your input was flagged", "code": 403}}, Refused),
    (403, {"error": {"message": "Country not supported"}}, Refused),
    (400, [{"error": {"code": 400, "message": "API key not valid. Please pass a valid API key."}}], AccessDenied),
    (429, {"error": {"code": "insufficient_quota", "message": "You exceeded your current quota."}}, AccessDenied),
    (429, [{"error": {"code": 429, "message": "You exceeded your current quota.", "status": "RESOURCE_EXHAUSTED"}}],
     RateLimited),
    (400, {"error": {"message": "bad role in 'Explain: invalid API key'"}}, BadRequest),
    (500, {"error": {"message": "invalid_api_key while asking the upstream"}}, ServerError),
    (422, {"detail": [{"loc": ["body", "max_tokens"], "msg": "wrong"}]}, BadRequest),
    (204, {}, BadReply),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "kind"), BODIES)
def test_the_words_of_servers_are_understood(status: int, body: Any, kind: type[TeacherError]) -> None:
    assert type(failure_of_reply(status, {}, orjson.dumps(body), first=False)) is kind


def completed(**message: Any) -> bytes:
    return orjson.dumps({"choices": [{"message": message, "finish_reason": "stop"}]})


def test_odd_replies_are_read() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "two and two"}]}
    parts = read_completion(completed(content=[thinking, {"type": "text", "text": "four"}]), {})
    assert (parts.reasoning, parts.text) == ("two and two", "four")
    assert read_completion(completed(content="four", reasoning="two and two"), {}).reasoning == "two and two"
    call = {"function": {"name": "add", "arguments": {"a": 1}}}
    assert read_completion(completed(content=None, tool_calls=[call]), {}).tool_calls == (
        ToolCall("", "add", '{"a":1}'),
    )


@pytest.mark.parametrize(
    ("message", "reasoning", "text"),
    [
        ({"content": "<think>\nHm.\n</think>\n\n4"}, "Hm.", "4"),
        ({"content": "Hm.</think>4"}, "Hm.", "4"),  # opened by the chat template of the server
        ({"content": "<think>Hm, 2"}, "Hm, 2", ""),  # cut off
        ({"content": "Use <think> in it.", "reasoning_content": "Hm."}, "Hm.", "Use <think> in it."),
        ({"content": None, "reasoning_content": "Hm, 2"}, "Hm, 2", ""),
    ],
)
def test_a_thought_is_kept_apart_however_it_comes(message: dict[str, Any], reasoning: str, text: str) -> None:
    reply = read_completion(completed(**message), {})
    assert (reply.reasoning, reply.text) == (reasoning, text)


@pytest.mark.parametrize(
    "read",
    [
        lambda: read_completion(completed(content=4), {}),
        lambda: read_completion(b'{"choices": [null]}', {}),
        lambda: read_completion(b"[]", {}),
        lambda: read_completion(b"[" * 100_000, {}),
    ],
)
def test_nonsense_is_a_bad_reply(read: Callable[[], Completion]) -> None:
    with pytest.raises(BadReply):
        read()


def test_a_refusal_is_no_answer() -> None:
    with pytest.raises(Refused, match="I cannot"):
        read_completion(completed(content=None, refusal="I cannot do that."), {})
