"""A real `vllm serve` of our own: the `openai:` teacher against it, and how it lives and dies."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from engines import below, need_vllm, said_by, wait_until, wait_until_gone

from kdaug.cli import main
from kdaug.dataset import Dataset
from kdaug.errors import ConfigError, TeacherUnavailable
from kdaug.record import assistant, user
from kdaug.structured import form_of
from kdaug.teacher import Completion, Request, Sampling, TokenLogprobs
from kdaug.teachers.local import Local
from kdaug.teachers.openai import OpenAI
from kdaug.teachers.serve import Serve

pytestmark = pytest.mark.slow
MODEL = "SmolLM2-135M-Instruct"
RUNNER = asyncio.Runner()  # one event loop for the whole file, as a teacher has one for its life


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    need_vllm()
    teacher = Serve(max_model_len=2048, concurrency=8, dtype="float32")  # answers do not depend on the machine
    RUNNER.run(teacher.open(tmp_path_factory.mktemp("state")))
    yield teacher
    RUNNER.run(teacher.aclose())
    RUNNER.close()


@pytest.fixture
def server(serve: Serve) -> dict[str, str]:
    """How another teacher reaches it."""
    return {"base_url": f"http://127.0.0.1:{serve._port}/v1", "api_key_file": str(serve._state / "serve.key")}


def spec(model: str, server: dict[str, str]) -> str:
    return f"openai:{model}?" + "&".join(f"{name}={value}" for name, value in server.items())


def test_a_run_against_vllm_serve(server: dict[str, str], tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    asked = ["What is the capital of France?", "Name a colour.", "Say hello."]
    prompts.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in asked), "utf-8")
    command = ["run", "respond", "--seeds", str(prompts), "--teacher", spec(MODEL, server)]
    command += ["--out", str(tmp_path / "run")]
    settings = ["--set", "respond.temperature=0.0", "--set", "respond.max_tokens=64", "--set", "respond.keep_cut=true"]
    assert main([*command, *settings, "--quiet"]) == 0
    records = list(Dataset(tmp_path / "run").records())
    assert [r.instruction for r in records] == asked
    assert records[0].completion is not None
    assert "Paris" in records[0].completion[0].content
    assert {t for r in records for t in r.teachers} == {f"openai:{MODEL}"}
    usage = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))["usage"][f"openai:{MODEL}"]
    assert usage["calls"] == 3
    assert usage["prompt_tokens"] > 30
    assert 3 <= usage["completion_tokens"] <= 3 * 64


def test_a_prompt_that_is_too_long_and_a_model_that_is_not_there(
    server: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    rows = [{"prompt": "Say hello."}, {"prompt": "word " * 4000}]
    prompts.write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    command = ["run", "respond", "--seeds", str(prompts), "--set", "respond.max_tokens=8"]
    command += ["--set", "respond.keep_cut=true", "--quiet"]
    fine = [*command, "--teacher", spec(MODEL, server), "--out", str(tmp_path / "run")]
    assert main(fine) == 0
    stage = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))["stages"][0]
    assert (stage["kept"], stage["dropped"]) == (1, {"teacher:context_too_long": 1})
    assert main([*command, "--teacher", spec("nobody", server), "--out", str(tmp_path / "other")]) == 1
    assert "nobody" in capsys.readouterr().err


def test_its_logprobs_are_those_of_the_model(server: dict[str, str], tmp_path: Path) -> None:
    """By the ids that vLLM says and, as another server's would be, by the text of its tokens."""
    local, question = Local(dtype="float32"), user("What is the capital of France?")

    async def ask() -> list[TokenLogprobs]:
        views = []
        for teacher in (OpenAI(MODEL, **server), OpenAI(MODEL, **server, tokenizer="smollm2")):
            await teacher.open(tmp_path)
            request = Request(question, Sampling(temperature=0.0, max_tokens=16, logprobs=5))
            reply = await teacher.generate(request)
            await teacher.aclose()
            assert reply.logprobs is not None
            views.append(reply.logprobs)
        await local.open(tmp_path)
        views.append(await local.logprobs(question, assistant(reply.text), 5))
        await local.aclose()
        return views

    by_id, by_text, exact = asyncio.run(ask())
    for view in (by_id, by_text):
        assert view.token_ids.tolist() == exact.token_ids.tolist()[: len(view.token_ids)]
        assert view.context_ids.tolist() == exact.context_ids.tolist()
        np.testing.assert_allclose(view.top_logprobs, exact.top_logprobs[: len(view.token_ids)], atol=0.02)
    assert by_text.top_ids.tolist() == by_id.top_ids.tolist()
    assert by_text.tokenizer == exact.tokenizer


SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "large": {"type": "boolean"}},
    "required": ["city", "large"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("schema", [{"json": SCHEMA}, {"choice": ["Paris", "London"]}, {"regex": "[A-Z][a-z]{2,7}"}])
def test_a_schema_binds_every_reply(server: dict[str, str], tmp_path: Path, schema: dict[str, object]) -> None:
    """By the server's own means: the prompt says nothing of a form."""

    async def ask() -> list[Completion]:
        teacher = OpenAI(MODEL, **server)
        await teacher.open(tmp_path)
        how = Sampling(temperature=0.7, max_tokens=256, schema=schema)
        replies = await asyncio.gather(
            *(teacher.generate(Request(user("Tell me of a city."), how, nonce=n)) for n in range(4))
        )
        await teacher.aclose()
        return replies

    form = form_of(schema)
    whole = [reply for reply in asyncio.run(ask()) if not reply.cut]  # white space without end is JSON's form too
    assert whole
    assert {asyncio.run(form.read(reply)).fit for reply in whole} == {"valid"}


def test_it_answers_its_owner_and_its_death_quotes_its_log(serve: Serve) -> None:
    """The last test of the file that needs it."""
    request = Request(user("What is the capital of France?"), Sampling(temperature=0.0, max_tokens=16))
    assert "Paris" in RUNNER.run(serve.generate(request)).text
    assert serve._process is not None
    owned, key = [psutil.Process(serve._process.pid), *below(serve._process.pid)], serve._state / "serve.key"
    assert key.stat().st_mode & 0o777 == 0o600
    os.killpg(serve._process.pid, signal.SIGKILL)
    with pytest.raises(TeacherUnavailable, match=r"was killed by SIGKILL.*its log .*serve\.log"):
        # It is no outage that may pass: one is waited for for 60 s.
        RUNNER.run(asyncio.wait_for(serve.generate(request), 20))
    RUNNER.run(serve.aclose())
    wait_until_gone(owned, 5)
    assert not key.exists()


def test_a_server_that_does_not_come_up_is_a_mistake_that_quotes_its_log(tmp_path: Path) -> None:
    need_vllm()
    with pytest.raises(ConfigError, match=r"ended with exit code 1 before it was ready.*serve\.log"):
        asyncio.run(Serve(max_model_len=10_000_000).open(tmp_path))


SERVES = """
import asyncio, sys
from pathlib import Path
from kdaug.teachers.serve import Serve
asyncio.run(Serve(max_model_len=1024).open(Path(sys.argv[1])))
"""


def test_a_server_ends_when_its_owner_is_killed_while_it_starts(tmp_path: Path) -> None:
    need_vllm()
    owner = subprocess.Popen([sys.executable, "-c", SERVES, str(tmp_path)])
    servers: list[psutil.Process] = []

    def has_begun() -> bool:
        servers[:] = [p for p in below(owner.pid) if "api_server" in said_by(p)]
        return bool(servers) or owner.poll() is not None

    wait_until(has_begun)
    owner.kill()
    assert owner.wait() < 0, "it was killed, and did not end by itself"
    wait_until_gone(servers, 30)
