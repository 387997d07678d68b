"""SIGKILL at random moments: the data is that of a run never killed, and only calls in flight are repeated."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from killing import run_killed, run_whole
from servers.run import FakeOpenAI

KILLS, PROMPTS, IN_FLIGHT = 10, 3_000, 32
FAULTY = {"latency_ms": 20, "faults": {"429": 0.02, "500": 0.02, "reset": 0.02, "trunc": 0.01}, "retry_after": 0.05}


@pytest.mark.slow
def test_ten_kills_lose_nothing_and_repeat_only_what_was_in_flight(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"question {i}"}) + "\n" for i in range(PROMPTS)), "utf-8")
    with FakeOpenAI() as server:
        server.configure(**FAULTY)
        teacher = f"openai:m?base_url={server.url}&concurrency={IN_FLIGHT}"
        command = ["run", "respond", "--seeds", str(prompts), "--teacher", teacher]
        whole = run_whole(command, tmp_path / "whole")
        server.configure(**FAULTY)
        killed = run_killed(command, tmp_path / "killed", server, KILLS, Random(7))
        stats = server.stats()
    assert len(killed.lost) == KILLS
    assert killed.data == whole
    assert whole
    assert stats["ok_distinct"] == PROMPTS
    assert all(lost <= IN_FLIGHT for lost in killed.lost)
    assert killed.repeated <= sum(killed.lost)
