"""LangChain's models as teachers, and generators as its Runnables, with the fake models of langchain-core itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import (
    FakeChatModel,
    FakeListChatModel,
    FakeMessagesListChatModel,
    GenericFakeChatModel,
    ParrotFakeChatModel,
)
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult

import kdaug as kd
from kdaug import recipes
from kdaug.errors import (
    AccessDenied,
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
)
from kdaug.progress import Log
from kdaug.record import Message, Record, ToolCall, user
from kdaug.running import execute
from kdaug.teacher import Completion, Request, Sampling
from kdaug.teachers.langchain import LangChain, failure_of
from kdaug.teachers.retry import Retry

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
ADA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


class Told(GenericFakeChatModel):
    """Answers by a function of what it got: messages, and the keywords of the call."""

    messages: Any = iter(())
    answer: Any
    model: str = "told-1"

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **more: Any
    ) -> ChatResult:
        answer = self.answer(messages, {**more, "stop": stop})
        if isinstance(answer, Exception):
            raise answer
        return ChatResult(generations=[ChatGeneration(message=answer)])

    def bind_tools(self, tools: Sequence[Any], **more: Any) -> Any:
        return self.bind(tools=tools, **more)


def told(answer: Callable[[list[BaseMessage], dict[str, Any]], AIMessage | Exception], **more: Any) -> LangChain:
    return LangChain(Told(answer=answer), **more)


def ask(teacher: kd.Teacher, request: Request | str) -> Completion:
    return asyncio.run(teacher.generate(Request(user(request)) if isinstance(request, str) else request))


def test_an_answer_comes_with_all_that_langchain_knows_of_it() -> None:
    used = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}
    parts: list[Any] = [{"type": "reasoning", "reasoning": "Hm."}, {"type": "text", "text": "four"}]
    teacher = told(lambda *_: AIMessage(parts, usage_metadata=used, response_metadata={"stop_reason": "max_tokens"}))
    reply = ask(teacher, "2 + 2?")
    assert (reply.text, reply.reasoning, reply.finish_reason) == ("four", "Hm.", "length")
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (7, 3)
    assert teacher.name == "langchain:told-1"


@pytest.mark.parametrize(
    ("message", "reasoning"),
    [
        (AIMessage("<think>Hm.</think>four"), "Hm."),
        (AIMessage("four", additional_kwargs={"reasoning_content": "Hm."}), "Hm."),
        (AIMessage("four"), ""),
    ],
)
def test_a_thought_is_kept_apart(message: AIMessage, reasoning: str) -> None:
    reply = ask(told(lambda *_: message), "2 + 2?")
    assert (reply.reasoning, reply.text, reply.finish_reason) == (reasoning, "four", "stop")


def test_messages_tools_and_settings_go_out_and_calls_come_back() -> None:
    seen: list[Any] = []

    def answer(messages: list[BaseMessage], more: dict[str, Any]) -> AIMessage:
        seen[:] = [messages, more]
        bad = {"name": "weather", "args": "{oslo", "id": "b", "error": None}
        good = {"name": "weather", "args": {"city": "Oslo"}, "id": "a"}
        return AIMessage("", tool_calls=[good], invalid_tool_calls=[bad])

    calls = (ToolCall("x", "weather", '{"city": "Bergen"}'), ToolCall("y", "weather", "Bergen"))
    talk = (
        Message("system", "Be brief."),
        Message("user", "Bergen?"),
        Message("assistant", "", calls),
        Message("tool", "rain", (), "x"),
        Message("tool", "what?", (), "y"),
    )
    reply = ask(told(answer), Request(talk, Sampling(temperature=0.5, max_tokens=9, stop=("END",)), (TOOL,)))
    assert reply.tool_calls == (ToolCall("a", "weather", '{"city":"Oslo"}'), ToolCall("b", "weather", "{oslo"))
    assert reply.finish_reason == "tool_calls"
    messages, more = seen
    assert [m.type for m in messages] == ["system", "human", "ai", "tool", "tool"]
    assert messages[2].tool_calls[0]["args"] == {"city": "Bergen"}
    assert messages[2].invalid_tool_calls[0]["args"] == "Bergen"
    assert messages[3].tool_call_id == "x"
    assert more == {"tools": [TOOL], "temperature": 0.5, "max_tokens": 9, "stop": ["END"]}


def test_a_schema_is_a_tool_that_has_to_be_called() -> None:
    def answer(messages: list[BaseMessage], more: dict[str, Any]) -> AIMessage:
        assert more["tools"][0]["function"]["parameters"] == ADA
        assert more["tool_choice"] == "reply"
        return AIMessage("", tool_calls=[{"name": "reply", "args": {"name": "Ada"}, "id": "1"}])

    reply = ask(told(answer), Request(user("Who?"), Sampling(schema={"json": ADA})))
    assert (reply.text, reply.tool_calls, reply.finish_reason) == ('{"name":"Ada"}', (), "stop")


@pytest.mark.parametrize("schema", [ADA, ["Ada", "Bob"]])
def test_a_model_without_tools_is_told_the_form_in_words(tmp_path: Path, schema: Any) -> None:
    """It answers badly at first; the second turn says what is wrong."""
    good = '{"name":"Ada"}' if schema is ADA else "Ada"

    class Ask:
        name, roles = "ask", ("teacher",)

        async def __call__(self, parents: Any, generate: kd.Generate, rng: Any) -> list[Record]:
            reply = await generate(parents[0].prompt, schema=schema)
            return [parents[0].child(by=self.name, completion=kd.assistant(reply.text), replies=[reply])]

    teacher = LangChain(FakeListChatModel(responses=["Nobody.", good]))
    out = execute(kd.Recipe(kd.Each([Record(prompt=user("Who?"))]), [kd.Stage(Ask())]), tmp_path / "run",
                  {"teacher": teacher}, log=Log(quiet=True))  # fmt: skip
    assert [r.completion[0].content for r in out.dataset.records() if r.completion] == [good]
    assert out.facts["forms"][teacher.name]["corrected"] == 1


class Http(Exception):
    """As the errors of openai, anthropic and httpx are."""

    def __init__(self, status_code: int, words: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(words)
        self.status_code = status_code
        self.response = type("Response", (), {"status_code": status_code, "headers": headers or {}})()


class APIConnectionError(Exception):
    pass


def _theirs(name: str) -> Exception:
    from langchain_core import exceptions

    kind = getattr(exceptions, name, None)
    return pytest.skip(f"this langchain-core has no {name}") if kind is None else kind("no")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (lambda: Http(401, "no such key"), AccessDenied),
        (lambda: Http(404, "no such model"), AccessDenied),
        (lambda: Http(429, "slow down", {"Retry-After": "3"}), RateLimited),
        (lambda: Http(400, "maximum context length is 4096"), ContextTooLong),
        (lambda: Http(400, "content_filter"), Refused),
        (lambda: Http(422, "no"), BadRequest),
        (lambda: Http(503, "later"), ServerError),
        (lambda: APIConnectionError("refused"), TeacherUnavailable),
        (lambda: ConnectionRefusedError("refused"), TeacherUnavailable),
        (lambda: TimeoutError(), TeacherTimeout),
        (lambda: _theirs("ModelRateLimitError"), RateLimited),
        (lambda: _theirs("ContextOverflowError"), ContextTooLong),
        (lambda: _theirs("ModelAuthenticationError"), AccessDenied),
    ],
)
def test_errors_of_providers_are_told_apart(error: Callable[[], Exception], kind: type[TeacherError]) -> None:
    cause = error()
    with pytest.raises(kind) as caught:
        ask(told(lambda *_: cause), "Hi.")
    assert type(caught.value) is kind
    assert type(caught.value.__cause__) is type(cause)
    assert "langchain:told-1" in str(caught.value)


def test_the_wish_to_wait_is_kept_and_a_bug_is_no_failure() -> None:
    failed = failure_of(Http(429, "slow down", {"Retry-After": "3"}))
    assert failed is not None and failed.retry_after == 3
    with pytest.raises(KeyError):
        ask(told(lambda *_: KeyError("a bug")), "Hi.")


def test_a_filtered_reply_is_refused() -> None:
    with pytest.raises(Refused):
        ask(told(lambda *_: AIMessage("", response_metadata={"finish_reason": "SAFETY"})), "Hi.")


def test_a_spec_names_the_class_and_its_arguments() -> None:
    spec = 'langchain:langchain_core.language_models:FakeListChatModel?responses=["a"]&concurrency=3'
    teacher = recipes.teacher(spec)
    assert isinstance(teacher, Retry)
    assert (teacher.concurrency, ask(teacher, "Hi.").text) == (3, "a")


@pytest.mark.parametrize(
    ("model", "answer"),
    [
        (FakeChatModel(), "fake response"),
        (FakeListChatModel(responses=["a"]), "a"),
        (FakeMessagesListChatModel(responses=[AIMessage("b")]), "b"),
        (GenericFakeChatModel(messages=iter(["c"])), "c"),
        (ParrotFakeChatModel(), "Hi."),
    ],
)
def test_every_fake_model_of_langchain_core_answers(model: Any, answer: str) -> None:
    assert ask(LangChain(model), "Hi.").text == answer


def test_a_scripted_model_at_its_end_says_so() -> None:
    teacher = LangChain(GenericFakeChatModel(messages=iter(["only one"])))
    ask(teacher, "Hi.")
    with pytest.raises(KdaugError, match="langchain:GenericFakeChatModel has no more replies"):
        ask(teacher, "Hi.")
    with pytest.raises(ConfigError, match="LangChain: timeout is 'long': expected float"):
        LangChain(FakeChatModel(), timeout="long")  # type: ignore[arg-type] # as a user may


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("langchain:", "which chat"),
        ("langchain:FakeListChatModel", "PACKAGE.MODULE:CLASS"),
        ("langchain:no_such_package:Chat", "no_such_package"),
        ("langchain:langchain_core.language_models:FakeListChatModel?api_key=sk-secret", "responses"),
        ("langchain:langchain_core.messages:HumanMessage?content=a", "no chat model"),
    ],
)
def test_what_is_no_chat_model_is_said(spec: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        recipes.teacher(spec)
    assert "sk-secret" not in str(caught.value)


# -- the other way round -----------------------------------------------------------------------------------------------


def parrot(request: Request) -> str:
    return f"You said {request.messages[-1].content}"


def test_a_generator_is_a_runnable_from_every_side() -> None:
    teacher = kd.Fake(parrot, name="openai:parrot", latency=0.01)
    respond = kd.as_runnable(kd.Respond(), teacher=teacher)
    rows = [{"prompt": f"task {n}"} for n in range(6)]

    def said(made: list[list[dict[str, Any]]]) -> list[str]:
        return [record["completion"][0]["content"] for records in made for record in records]

    expected = [f"You said task {n}" for n in range(6)]
    assert said([respond.invoke(row) for row in rows]) == expected
    assert said(respond.batch(rows)) == expected

    async def from_a_loop() -> list[list[dict[str, Any]]]:
        return [*await respond.abatch(rows[:5]), await respond.ainvoke(rows[5])]

    assert said(asyncio.run(from_a_loop())) == expected
    assert teacher.peak > 1  # they share it, at once
    (record,) = respond.invoke({"instruction": "Add.", "input": "1 2"})
    assert record["teachers"] == ["openai:parrot"]
    assert Record.from_json(record).prompt[0].content.startswith("Add.")


def test_a_runnable_says_what_is_wrong() -> None:
    with pytest.raises(ConfigError, match="teacher="):
        kd.as_runnable(kd.Respond())
    respond = kd.as_runnable(kd.Respond(), teacher=kd.Fake({"good": "yes"}))
    with pytest.raises(ConfigError, match="not a record"):
        respond.invoke({"nothing": 1})
    with pytest.raises(BadRequest):
        respond.invoke({"prompt": "bad"})
    assert respond.invoke({"prompt": "good"})
