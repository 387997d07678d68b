"""Runs with a batch teacher that are killed, stopped and cancelled: nothing is paid twice, and the data is the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from random import Random
from typing import Any

import pytest
from killing import KDAUG, run_killed_amid_batches, run_whole
from servers.run import FakeBatches

PROMPTS = 30
HALF = [f"batch_requests={PROMPTS // 2}"]
# Where the server holds a request up (or a batch stays), so that the kill meets that very step.
STEPS = {
    "upload_before": {"pause": {"upload_before": 1.0}},
    "upload_after": {"pause": {"upload_after": 1.0}},
    "create_before": {"pause": {"create_before": 1.0}},
    "create_after": {"pause": {"create_after": 1.0}},
    "validating": {"stay": "validating"},
    "in_progress": {"stay": "in_progress"},
    "content": {"pause": {"content": 1.0}},
}


def command(server: FakeBatches, folder: Path, *more: str) -> list[str]:
    """Two stages, so that a run needs several batches."""
    seeds, recipe = folder / "prompts.jsonl", folder / "twice.yaml"
    seeds.write_text("".join(json.dumps({"prompt": f"question {i}"}) + "\n" for i in range(PROMPTS)), "utf-8")
    recipe.write_text("stages:\n  - generator: respond\n  - generator: respond\n", "utf-8")
    spec = "&".join((f"batch:m?base_url={server.url}", "poll=0.05", "settle=3", *more))
    return ["run", str(recipe), "--seeds", str(seeds), "--teacher", spec]


def begun(arguments: list[str], out: Path) -> subprocess.Popen[str]:
    whole = [*KDAUG, *arguments, "--out", str(out)]
    return subprocess.Popen(whole, stderr=subprocess.PIPE, text=True, env={**os.environ, "OPENAI_API_KEY": "sk-x"})


def executed_once(server: FakeBatches) -> bool:
    stats = server.stats()
    return len(stats["executed"]) == 2 * PROMPTS and set(stats["executed"].values()) == {1}


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_any_step_pays_nothing_twice(tmp_path: Path, step: str) -> None:
    with FakeBatches() as other:
        whole = run_whole(command(other, tmp_path), tmp_path / "whole")
    with FakeBatches() as server:
        arguments = command(server, tmp_path, *HALF)
        server.configure(**STEPS[step])
        process = begun(arguments, tmp_path / "killed")
        server.wait_for(step)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        server.configure()
        assert run_whole(arguments, tmp_path / "killed") == whole
        assert executed_once(server)
    assert whole


@pytest.mark.slow
def test_kills_at_random_moments_pay_nothing_twice(tmp_path: Path) -> None:
    with FakeBatches() as other:
        whole = run_whole(command(other, tmp_path), tmp_path / "whole")
    with FakeBatches() as server:
        server.configure(pause=dict.fromkeys(("upload_after", "create_before", "create_after", "content"), 0.1))
        arguments = command(server, tmp_path, *HALF)
        assert run_killed_amid_batches(arguments, tmp_path / "killed", server, 5, Random(3)) == (5, whole)
        assert executed_once(server)


@pytest.mark.slow
def test_a_clean_stop_does_not_wait_for_the_batch_and_the_next_run_takes_it_up(tmp_path: Path) -> None:
    with FakeBatches() as server:
        arguments = command(server, tmp_path)
        server.configure(stay="in_progress")
        process = begun(arguments, tmp_path / "run")
        server.wait_for("in_progress")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
        assert process.returncode == 130
        assert "0 calls in flight finish first" in said
        assert f"{PROMPTS} calls wait for batches" in said
        server.configure()
        assert run_whole(arguments, tmp_path / "run")
        assert executed_once(server)
        assert facts(tmp_path / "run")["kept"] == PROMPTS


@pytest.mark.slow
def test_the_batches_of_a_run_are_listed_and_cancelled_while_it_works(tmp_path: Path) -> None:
    with FakeBatches() as server:
        arguments = command(server, tmp_path, *HALF)
        server.configure(stay="in_progress")
        process = begun(arguments, tmp_path / "run")
        server.wait_for("in_progress")
        listed = batches(tmp_path / "run")
        assert [line.split("  ")[:4] for line in sorted(listed)] == [
            [f"batch_{n}", "m", "in_progress", "0 of 15 answered, 0 failed"] for n in range(2)
        ]
        cancelled = batches(tmp_path / "run", "--cancel")
        assert all("cancelled" in line and line.endswith("cancelled by you") for line in cancelled)
        _, said = process.communicate(timeout=20)
        assert process.returncode == 1
        assert "was cancelled, 8 of its 15 requests are unanswered" in said
        server.configure()
        assert run_whole(arguments, tmp_path / "run")
        assert executed_once(server)


def test_a_run_without_batches_says_so_and_a_folder_that_is_none_too(tmp_path: Path) -> None:
    subprocess.run([*KDAUG, *fake(tmp_path), "--out", str(tmp_path / "run"), "--quiet"], check=True)
    assert batches(tmp_path / "run") == [f"{tmp_path / 'run'} has sent no batches"]
    wrong = subprocess.run([*KDAUG, "batches", str(tmp_path)], capture_output=True, text=True)
    assert (wrong.returncode, "is not a run folder" in wrong.stderr) == (2, True)


def fake(folder: Path) -> list[str]:
    (folder / "one.jsonl").write_text('{"prompt": "hello"}\n', "utf-8")
    return ["run", "respond", "--seeds", str(folder / "one.jsonl"), "--teacher", "fake"]


def batches(run: Path, *more: str) -> list[str]:
    done = subprocess.run([*KDAUG, "batches", str(run), *more], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def facts(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "run.json").read_text("utf-8"))
    return found
