"""One endpoint against a real server over real HTTP: every failure is what it should be, and nothing leaks."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from servers.run import FakeOpenAI, free_port

from kdaug.errors import (
    AccessDenied,
    BadReply,
    BadRequest,
    ConfigError,
    ContextTooLong,
    RateLimited,
    Refused,
    ServerError,
    TeacherError,
    TeacherTimeout,
    TeacherUnavailable,
)
from kdaug.record import Message, ToolCall, user
from kdaug.teacher import Completion, Request, Sampling
from kdaug.teachers import chat_api
from kdaug.teachers.endpoint import Endpoint

KEY = "sk-secret-0123456789"
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy")


@pytest.fixture(scope="module")
def server() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as server:
        yield server


@pytest.fixture(autouse=True)
def environment(server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test starts with a faultless server and an environment that says nothing."""
    server.configure()
    for variable in (*PROXY_VARIABLES, "no_proxy", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def outcomes(teacher: Endpoint, *requests: Request | str) -> list[Completion | BaseException]:
    """What comes of requests that are made all at once."""

    async def ask() -> list[Completion | BaseException]:
        await teacher.open(Path())
        asked = [Request(user(r)) if isinstance(r, str) else r for r in requests]
        try:
            return await asyncio.gather(*(teacher.generate(r) for r in asked), return_exceptions=True)
        finally:
            await teacher.aclose()

    return asyncio.run(ask())


def outcome(teacher: Endpoint, request: Request | str) -> Completion | BaseException:
    return outcomes(teacher, request)[0]


def answer(teacher: Endpoint, request: Request | str) -> Completion:
    result = outcome(teacher, request)
    assert isinstance(result, Completion), result
    return result


def sent(server: FakeOpenAI) -> dict[str, Any]:
    """The body of the last request."""
    return orjson.loads(server.trace()[-1]["body"])


def test_an_answer_comes_with_its_usage(server: FakeOpenAI) -> None:
    completion = answer(Endpoint("fake-model", base_url=server.url), "Say hello.")
    assert completion.text.startswith("ANS[")
    assert "Say hello." in completion.text
    assert completion.finish_reason == "stop"
    assert completion.usage.prompt_tokens > 0
    assert completion.usage.completion_tokens == 100


def test_the_request_holds_what_was_asked_and_no_more(server: FakeOpenAI) -> None:
    server.configure(trace=True)
    teacher = Endpoint("fake-model", base_url=server.url)
    answer(teacher, Request(user("Hi."), Sampling(temperature=0.5, max_tokens=7, seed=3)))
    assert sent(server) == {
        "model": "fake-model",
        "messages": [{"role": "user", "content": "Hi."}],
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 1.0,
    }
    full = Sampling(stop=("END",), presence_penalty=0.5, frequency_penalty=-0.5, schema={"json": {"type": "object"}})
    answer(Endpoint("fake-model", base_url=server.url, send_seed=True), Request(user("Hi."), full, nonce=99))
    body = sent(server)
    assert (body["stop"], body["presence_penalty"], body["frequency_penalty"], body["seed"]) == (["END"], 0.5, -0.5, 99)
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}


def test_a_cut_answer_says_so(server: FakeOpenAI) -> None:
    request = Request(user("Hi."), Sampling(max_tokens=5))
    assert answer(Endpoint("fake-model", base_url=server.url), request).cut


def test_extra_fields_are_added_and_none_takes_one_away(server: FakeOpenAI) -> None:
    server.configure(trace=True)
    extra = {"reasoning_effort": "low", "temperature": None}
    answer(Endpoint("fake-model", base_url=server.url, extra_body=extra), "Hi.")
    assert sent(server)["reasoning_effort"] == "low"
    assert "temperature" not in sent(server)


def test_tool_calls_go_out_and_come_back(server: FakeOpenAI) -> None:
    server.configure(trace=True)
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    call = ToolCall("call_0", "weather", '{"city": "Oslo"}')
    talk = (Message("user", "And in Oslo?"), Message("assistant", "", (call,)), Message("tool", "rain", (), "call_0"))
    completion = answer(Endpoint("fake-model", base_url=server.url), Request(talk, tools=(tool,)))
    assert completion.text == ""
    assert completion.finish_reason == "tool_calls"
    assert completion.tool_calls[0].name == "weather"
    assert "key" in orjson.loads(completion.tool_calls[0].arguments)
    messages = sent(server)["messages"]
    function = {"name": "weather", "arguments": '{"city": "Oslo"}'}
    assert messages[1]["tool_calls"] == [{"id": "call_0", "type": "function", "function": function}]
    assert messages[2] == {"role": "tool", "content": "rain", "tool_call_id": "call_0"}


def test_reasoning_is_kept_apart(server: FakeOpenAI) -> None:
    server.configure(reasoning=True)
    completion = answer(Endpoint("fake-model", base_url=server.url), "Hi.")
    assert completion.reasoning.startswith("Thinking")
    assert "Thinking" not in completion.text


def test_max_tokens_goes_by_its_new_name_where_the_endpoint_demands_it(server: FakeOpenAI) -> None:
    server.configure(max_completion_tokens=True)
    teacher = Endpoint("fake-model", base_url=server.url)
    assert all(isinstance(o, Completion) for o in outcomes(teacher, *(f"Question {i}" for i in range(20))))
    assert server.stats()["total"] == 21, "one refusal, then every request by the new name"


FAULTS: list[tuple[str, type[TeacherError], str]] = [
    ("400", BadRequest, "400"),
    ("401", AccessDenied, "401 invalid_api_key"),
    ("402", AccessDenied, "402"),
    ("403", Refused, "403"),
    ("408", TeacherTimeout, "408"),
    ("422", BadRequest, "422"),
    ("429", RateLimited, "slow down"),
    ("500", ServerError, "500"),
    ("502", ServerError, "502"),
    ("503", ServerError, "503"),
    ("context", ContextTooLong, "context length"),
    ("policy", Refused, "management policy"),
    ("filter", Refused, "content filter"),
    ("quota", AccessDenied, "quota"),
    ("reset", ServerError, "connection broke"),
    ("trunc", BadReply, "no JSON"),
    ("blank", BadReply, "0 bytes"),
    ("nochoices", BadReply, "no chat completion"),
    ("html", BadReply, "text/html"),
    ("wrongtype", BadReply, "text/plain"),
    ("inband", ServerError, "overloaded"),
    ("hang", TeacherTimeout, "in time"),
    ("trickle", TeacherTimeout, "in time"),
]


@pytest.mark.parametrize(("fault", "kind", "words"), FAULTS, ids=[f[0] for f in FAULTS])
def test_every_fault_becomes_its_error(server: FakeOpenAI, fault: str, kind: type[TeacherError], words: str) -> None:
    server.configure(retry_after=2.5)
    timeout = 0.4 if fault in ("hang", "trickle") else 20.0
    request = Request(user(f"@@FAIL:{fault}@@"))
    teacher = Endpoint("fake-model", base_url=server.url, timeout=timeout)
    proven, error = outcomes(teacher, "The endpoint works.", request)
    assert isinstance(proven, Completion)
    assert type(error) is kind
    assert str(error).startswith(f"openai:fake-model at {server.root.removeprefix('http://')}: ")
    assert words in str(error)
    assert "\n" not in str(error)
    assert error.request is request
    assert error.teacher == "openai:fake-model"
    assert error.retry_after == {"429": 2.5, "503": 2.5, "inband": 0.0}.get(fault)


def test_a_reply_without_end_is_given_up(server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_api, "MAX_BODY", 1 << 20)
    server.configure(huge_mb=8)
    error = outcome(Endpoint("fake-model", base_url=server.url), "@@FAIL:huge@@")
    assert type(error) is BadReply
    assert "larger than 1 MiB" in str(error)


@pytest.mark.parametrize("fault", ["badutf8", "surrogate"])
def test_text_that_no_writer_takes_is_mended(server: FakeOpenAI, fault: str) -> None:
    completion = answer(Endpoint("fake-model", base_url=server.url), f"@@FAIL:{fault}@@")
    assert completion.text.startswith("ANS\ufffd")
    orjson.dumps(completion.text)


def test_an_empty_answer_is_an_answer(server: FakeOpenAI) -> None:
    assert answer(Endpoint("fake-model", base_url=server.url), "@@FAIL:empty@@").text == ""


def test_a_prompt_that_is_no_text_is_its_own_fault(server: FakeOpenAI) -> None:
    error = outcome(Endpoint("fake-model", base_url=server.url), "half a pair: \ud83d")
    assert type(error) is BadRequest


def test_a_schema_goes_out_in_the_servers_own_words(server: FakeOpenAI) -> None:
    server.configure(trace=True)
    loose = {"type": "object", "properties": {"name": {"type": "string"}}}
    closed = {**loose, "required": ["name"], "additionalProperties": False}
    teacher = Endpoint("fake-model", base_url=server.url)
    answer(teacher, Request(user("Hi."), Sampling(schema={"choice": ["a", "b"]})))
    assert sent(server)["structured_outputs"] == {"choice": ["a", "b"]}
    assert "response_format" not in sent(server)
    for schema, strict in ((loose, False), (closed, True), ({"anyOf": [closed, loose]}, False)):
        answer(teacher, Request(user("Hi."), Sampling(schema={"json": schema})))
        told = sent(server)["response_format"]["json_schema"]
        assert (told["schema"], told["strict"]) == (schema, strict)


def test_a_server_that_cannot_constrain_is_asked_once_whether_it_can(server: FakeOpenAI) -> None:
    server.configure(schemas="refuse")
    asked = [Request(user(str(n)), Sampling(schema={"json": {"type": "object"}})) for n in range(20)]
    results = outcomes(Endpoint("fake-model", base_url=server.url), *asked)
    assert all(isinstance(r, Completion) for r in results)
    assert server.stats()["outcomes"] == {"schema": 1, "ok": 20}


def test_a_wrong_key_costs_one_call(server: FakeOpenAI) -> None:
    server.configure(api_key="another", latency_ms=50)
    errors = outcomes(Endpoint("fake-model", base_url=server.url), *(f"Question {i}" for i in range(64)))
    assert {type(e) for e in errors} == {AccessDenied}
    assert len({str(e) for e in errors}) == 1
    assert server.stats()["total"] == 1


def test_a_key_revoked_in_the_middle_stops_the_calls_behind_it(server: FakeOpenAI) -> None:
    server.configure(latency_ms=20)
    prompts = ["The endpoint works.", *(f"@@FAIL:401@@ {i}" for i in range(4)), *(f"Question {i}" for i in range(20))]
    results = outcomes(Endpoint("fake-model", base_url=server.url, concurrency=4), *prompts)
    assert isinstance(results[0], Completion)
    assert all(type(e) is AccessDenied for e in results[1:])
    assert server.stats()["total"] == 5


def test_the_first_call_goes_alone_and_the_others_follow(server: FakeOpenAI) -> None:
    server.configure(latency_ms=50, trace=True)
    assert all(isinstance(o, Completion) for o in outcomes(Endpoint("m", base_url=server.url), *map(str, range(20))))
    calls = sorted(server.trace(), key=lambda call: call["arrived"])
    assert calls[1]["arrived"] >= calls[0]["departed"]
    assert calls[-1]["arrived"] <= min(call["departed"] for call in calls[1:]), "and these go together"


def test_a_refused_first_request_shows_that_the_endpoint_works(server: FakeOpenAI) -> None:
    results = outcomes(Endpoint("m", base_url=server.url), "@@FAIL:400@@", *map(str, range(5)))
    assert type(results[0]) is BadRequest
    assert all(isinstance(o, Completion) for o in results[1:])


def test_a_request_that_was_never_sent_shows_nothing(server: FakeOpenAI) -> None:
    server.configure(api_key="another", latency_ms=20)
    results = outcomes(Endpoint("m", base_url=server.url), "half a pair: \ud83d", *map(str, range(10)))
    assert type(results[0]) is BadRequest
    assert {type(e) for e in results[1:]} == {AccessDenied}
    assert server.stats()["total"] == 1


def test_a_passing_failure_of_the_first_call_lets_the_next_try(server: FakeOpenAI) -> None:
    results = outcomes(Endpoint("m", base_url=server.url), "@@FAIL:500@@", *map(str, range(5)))
    assert type(results[0]) is ServerError
    assert all(isinstance(o, Completion) for o in results[1:])


def test_a_cancelled_first_call_lets_the_next_try(server: FakeOpenAI) -> None:
    server.configure(hang_s=60)

    async def ask() -> Completion:
        teacher = Endpoint("m", base_url=server.url)
        await teacher.open(Path())
        first = asyncio.ensure_future(teacher.generate(Request(user("@@FAIL:hang@@"))))
        second = asyncio.ensure_future(teacher.generate(Request(user("Hi."))))
        await asyncio.sleep(0.1)
        first.cancel()
        completion = await second
        await teacher.aclose()
        return completion

    assert asyncio.run(ask()).text.startswith("ANS[")


@pytest.mark.parametrize("fault", ["404", "redirect"])
def test_a_model_or_address_that_is_not_there_is_fatal_at_first(server: FakeOpenAI, fault: str) -> None:
    teacher = Endpoint("m", base_url=server.url)
    errors = outcomes(teacher, *(f"@@FAIL:{fault}@@ {i}" for i in range(5)))
    assert {type(e) for e in errors} == {AccessDenied}
    assert "check base_url and model" in str(errors[0])
    assert server.stats()["total"] == 1
    later = outcomes(teacher, "The endpoint works.", f"@@FAIL:{fault}@@")
    assert type(later[1]) is BadRequest


def test_an_endpoint_that_is_not_there_is_an_outage() -> None:
    port = free_port()
    errors = outcomes(Endpoint("m", base_url=f"http://127.0.0.1:{port}/v1"), "a", "b", "c")
    assert {type(e) for e in errors} == {TeacherUnavailable}
    assert f"127.0.0.1:{port}" in str(errors[0])


def test_a_host_without_an_address_is_an_outage() -> None:
    assert type(outcome(Endpoint("m", base_url="http://no-such-host.invalid/v1"), "a")) is TeacherUnavailable


def test_a_server_that_speaks_no_http_is_a_bad_reply() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"220 mail ready\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        port = listener.getsockname()[1]
        error = outcome(Endpoint("m", base_url=f"http://127.0.0.1:{port}/v1"), "a")
        thread.join()
    assert type(error) is BadReply
    assert KEY not in "".join(traceback.format_exception(error)) + repr(error)


def test_no_more_calls_are_in_flight_than_the_concurrency(server: FakeOpenAI) -> None:
    server.configure(latency_ms=400)  # the first of them is out for as long as a slow machine needs to send 32
    results = outcomes(Endpoint("m", base_url=server.url, concurrency=32), *map(str, range(100)))
    assert all(isinstance(o, Completion) for o in results)
    assert server.stats()["max_inflight"] == 32


def test_waiting_for_a_slot_is_no_part_of_the_timeout(server: FakeOpenAI) -> None:
    server.configure(latency_ms=150)
    results = outcomes(Endpoint("m", base_url=server.url, concurrency=1, timeout=0.6), *map(str, range(8)))
    assert all(isinstance(o, Completion) for o in results)


def test_the_key_is_sent_and_never_shown(server: FakeOpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.configure(trace=True)
    teacher = Endpoint("m", base_url=server.url)
    error = outcome(teacher, "@@FAIL:401@@")  # this server quotes the key in its words
    assert server.trace()[-1]["authorization"] == f"Bearer {KEY}"
    assert "Incorrect API key provided: ***" in str(error)
    assert isinstance(error, BaseException)
    shown = "".join([repr(teacher), str(teacher), repr(error), repr(vars(error)), *traceback.format_exception(error)])
    assert KEY not in shown

    file = tmp_path / "key"
    file.write_text("sk-from-file\n")
    monkeypatch.delenv("OPENAI_API_KEY")
    answer(Endpoint("m", base_url=server.url, api_key_file=file), "Hi.")
    assert server.trace()[-1]["authorization"] == "Bearer sk-from-file"


def test_a_local_endpoint_needs_no_key(server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    server.configure(trace=True)
    answer(Endpoint("m", base_url=server.url), "Hi.")
    assert server.trace()[-1]["authorization"] == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "OPENAI_API_KEY"),
        ({"api_key_env": "MY_KEY", "base_url": "http://127.0.0.1:1/v1"}, "MY_KEY"),
        ({"api_key_file": "/no/such/file"}, "/no/such/file"),
    ],
)
def test_a_missing_key_is_named_before_any_call(
    options: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ConfigError, match=words):
        outcome(Endpoint("m", **options), "Hi.")


def test_a_key_with_a_line_break_is_refused_unseen(server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-one\nsk-two")
    with pytest.raises(ConfigError) as caught:
        outcome(Endpoint("m", base_url=server.url), "Hi.")
    assert "sk-one" not in str(caught.value)


@pytest.mark.parametrize("url", ["api.openai.com/v1", "ftp://host/v1", "http://user:password@host/v1"])
def test_an_address_that_cannot_be_one_is_refused(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Endpoint("m", base_url=url)
    assert "password@" not in str(caught.value)


def test_the_proxy_of_the_environment_is_used(server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    server.configure(trace=True)
    monkeypatch.setenv("HTTP_PROXY", server.root)
    answer(Endpoint("m", base_url="http://model.invalid/v1"), "Hi.")
    assert server.trace()[-1]["url"] == "http://model.invalid/v1/chat/completions"
    monkeypatch.setenv("NO_PROXY", "model.invalid")
    assert type(outcome(Endpoint("m", base_url="http://model.invalid/v1"), "Hi.")) is TeacherUnavailable


def test_a_proxy_that_cannot_be_used_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    with pytest.raises(ConfigError, match="SOCKS"):
        outcome(Endpoint("m", base_url="http://model.invalid/v1"), "Hi.")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_the_ca_bundle_of_the_environment_is_trusted(
    variable: str, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeOpenAI(certificate=certificate[0], key=certificate[1]) as server:
        error = outcome(Endpoint("m", base_url=server.url), "Hi.")
        assert type(error) is TeacherUnavailable
        assert "SSL_CERT_FILE" in str(error)
        monkeypatch.setenv(variable, str(certificate[0]))
        assert answer(Endpoint("m", base_url=server.url), "Hi.").text.startswith("ANS[")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


def test_a_missing_ca_bundle_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/bundle.pem")
    with pytest.raises(ConfigError, match="REQUESTS_CA_BUNDLE"):
        outcome(Endpoint("m"), "Hi.")


def test_a_teacher_must_be_opened_and_can_be_opened_again(server: FakeOpenAI) -> None:
    teacher = Endpoint("m", base_url=server.url)
    with pytest.raises(ConfigError, match="open"):
        asyncio.run(teacher.generate(Request(user("Hi."))))
    answer(teacher, "Hi.")
    answer(teacher, "Hi.")


def test_an_endpoint_of_ours_is_reached_past_the_proxy(server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    assert isinstance(outcome(Endpoint("m", base_url=server.url), "Hi."), TeacherUnavailable)
    assert isinstance(outcome(Endpoint("m", base_url=server.url, proxies=False), "Hi."), Completion)


def test_a_server_that_does_not_speak_https_is_told_from_one_that_is_down(server: FakeOpenAI) -> None:
    error = outcome(Endpoint("m", base_url=server.url.replace("http://", "https://")), "Hi.")
    assert type(error) is TeacherUnavailable
    assert "does the server speak https? If not, base_url begins with http://" in str(error)


def test_a_proxy_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("HTTP_PROXY", f"http://me:secret@127.0.0.1:{port}")
    error = outcome(Endpoint("m", base_url="http://model.invalid/v1"), "Hi.")
    assert type(error) is TeacherUnavailable
    assert f"no connection to the proxy 127.0.0.1:{port}, which the environment names" in str(error)
    assert "secret" not in str(error)
