"""Engines that die, and those whose owner does: a clear end that quotes the log, nothing left over, and a run that goes
on."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from engines import below, need_vllm, said_by, wait_until, wait_until_gone
from killing import KDAUG, journalled, of_group

from kdaug.cli import main
from kdaug.dataset import Dataset

pytestmark = pytest.mark.slow
PROMPTS = 32


def command(folder: Path) -> list[str]:
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Count to {i}."}) + "\n" for i in range(PROMPTS)), "utf-8")
    options = ["--set", "respond.max_tokens=48", "--set", "respond.keep_cut=true", "--out", str(folder / "run")]
    teacher = "vllm:?max_model_len=1024&concurrency=4"
    return ["run", "respond", "--seeds", str(prompts), "--teacher", teacher, *options]


def test_a_run_whose_engine_is_killed_says_so_and_goes_on_from_there(tmp_path: Path) -> None:
    need_vllm()
    out = tmp_path / "run"
    process = subprocess.Popen([*KDAUG, *command(tmp_path)], stderr=subprocess.PIPE, text=True)
    wait_until(lambda: journalled(out) >= 4 or process.poll() is not None)
    owned = below(process.pid)
    max(owned, key=lambda p: p.memory_info().rss).kill()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "vllm:SmolLM2-135M-Instruct: vLLM's engine " in said
    assert "engine.log" in said
    assert "the same command goes on from here" in said
    wait_until_gone(owned)
    known = journalled(out)
    assert 4 <= known < PROMPTS

    assert main([*command(tmp_path), "--quiet"]) == 0
    assert journalled(out) == PROMPTS, "nothing was asked twice"
    assert len(Dataset(out)) == PROMPTS
    assert below(os.getpid()) == []


@pytest.mark.parametrize("sign", ["spawn_main", "VLLM::Worker"], ids=["started this moment", "with its worker"])
def test_an_engine_ends_with_its_owner(sign: str, tmp_path: Path) -> None:
    need_vllm()
    process = subprocess.Popen([*KDAUG, *command(tmp_path), "--quiet"], start_new_session=True)

    def has_begun() -> bool:
        return process.poll() is not None or any(sign in said_by(p) for p in below(process.pid))

    wait_until(has_begun, every=0.01)
    owned = below(process.pid)
    process.kill()
    assert process.wait() < 0, "it was killed, and did not end by itself"
    wait_until_gone([*owned, *of_group(process.pid)], 120)
    assert of_group(process.pid) == []
