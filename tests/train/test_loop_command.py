"""`kdaug loop` as a user types it, with a real model that is tiny: from the last student, with DPO."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
from forked import start

from kdaug.cli import main
from kdaug.dataset import Dataset
from kdaug.record import Record, text_of
from kdaug.train.student import digest, locate

SETTINGS = [
    *("--set", "loop.first.sft={epochs: 1, length: 128, accumulate: 1, save_every: 2}"),
    *("--set", "loop.train.preference={loss: dpo, length: 256, accumulate: 1, epochs: 1, save_every: 2}"),
    *("--set", "spin.max_tokens=64"),
]


@pytest.fixture
def command(tiny: Path, answers: list[Record], tmp_path: Path) -> list[str]:
    """SPIN on 24 answers, measured by the likelihood of some others."""
    seeds, dev = tmp_path / "seeds.jsonl", tmp_path / "dev.jsonl"
    lines = [json.dumps({"prompt": text_of(a.prompt), "completion": text_of(a.completion)}) for a in answers]
    seeds.write_text("\n".join(lines[:18]))
    dev.write_text("\n".join(lines[18:]))
    given = ["loop", "spin", "--seeds", str(seeds), "--evaluate", str(dev), "--student", str(tiny), "--rounds", "2"]
    return [*given, "--set", "loop.evaluate.metric=nll", *SETTINGS, "--quiet"]


def told(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "loop.json").read_text())
    return found


@pytest.mark.slow
def test_two_rounds_of_spin(command: list[str], tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "loop"
    assert main([*command, "--out", str(out)]) == 0
    loop, students = told(out), [digest(out / f"round-{n}/student") for n in (0, 1)]
    first = digest(out / "start/student")
    assert loop["base"] == digest(locate(tiny)) and loop["ended"] == "rounds"
    assert [r["parent"] for r in loop["rounds"]] == [first, students[0]]
    assert [r["asked"] for r in loop["rounds"]] == [first, students[0]]
    for n, parent in enumerate([first, students[0]]):  # as each training itself tells it: its start, and its reference
        assert json.loads((out / f"round-{n}/student/training.json").read_text())["facts"]["student"] == parent
    assert loop["start"] is not None and all(r["figure"] > 0 for r in loop["rounds"])
    assert len(Dataset(out / "round-1/data")) == sum(r["records"] for r in loop["rounds"])
    assert "round 1" in capsys.readouterr().out


def steps(out: Path) -> int:
    """Of all its trainings."""
    return sum(file.read_bytes().count(b"\n") for file in out.rglob("metrics.jsonl"))


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_same_students(command: list[str], tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main([*command, "--out", str(whole)]) == 0
    rng, ended = Random(7), []
    for _ in range(3):
        goal = steps(parts) + rng.randint(1, steps(whole) // 4)
        process = start([*command, "--out", str(parts)])
        while process.is_alive() and steps(parts) < goal:
            time.sleep(0.005)
        time.sleep(rng.random())  # into what comes between two trainings
        process.kill()
        process.join()
        ended.append(process.exitcode)
    assert ended[0] == -signal.SIGKILL and set(ended) <= {-signal.SIGKILL, 0}
    assert main([*command, "--out", str(parts)]) == 0
    figures = [[(r["records"], r["figure"]) for r in told(out)["rounds"]] for out in (whole, parts)]
    assert figures[0] == figures[1] and len(figures[0]) == 2
    for student in ("start/student", "round-0/student", "round-1/student"):
        weights = [(out / student / "model.safetensors").read_bytes() for out in (whole, parts)]
        assert weights[0] == weights[1]
