"""A real process that trains, killed at random steps: it ends with the same bits as one that never was."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

from kdaug.record import Record, text_of

SETTINGS = ["--epochs=10", "--lr=3e-3", "--length=128", "--accumulate=1", "--save-every=7", "--ema=0.9"]
KILLS = 3


@pytest.fixture
def command(tiny: Path, answers: list[Record], tmp_path: Path) -> list[str]:
    data = tmp_path / "data.jsonl"
    lines = [{"prompt": text_of(a.prompt), "completion": text_of(a.completion)} for a in answers]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    given = ["train", "sft", "--data", str(data), "--student", str(tiny), *SETTINGS]
    return [sys.executable, "-m", "kdaug", *given]


def steps(folder: Path) -> int:
    file = folder / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def wait_for(process: subprocess.Popen[Any], folder: Path, goal: int) -> None:
    while process.poll() is None and steps(folder) < goal:
        time.sleep(0.002)


@pytest.mark.slow
def test_killed_at_random_steps_a_training_ends_with_the_same_bits(command: list[str], tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    subprocess.run([*command, "--out", str(whole)], check=True, stderr=subprocess.DEVNULL)
    rng, killed = Random(5), 0
    while killed < KILLS:
        process = subprocess.Popen([*command, "--out", str(parts)], stderr=subprocess.DEVNULL)
        wait_for(process, parts, steps(parts) + rng.randint(1, 20))
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(rng.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed += 1
    assert 0 < steps(parts) < steps(whole)
    subprocess.run([*command, "--out", str(parts)], check=True, stderr=subprocess.DEVNULL)
    curves = [
        [
            {name: value for name, value in json.loads(line).items() if name != "tokens_per_second"}
            for line in (folder / "metrics.jsonl").read_text().splitlines()
        ]
        for folder in (whole, parts)
    ]
    assert curves[0] == curves[1]
    assert (whole / "model.safetensors").read_bytes() == (parts / "model.safetensors").read_bytes()
    assert {f.name for f in whole.iterdir()} == {f.name for f in parts.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_command_with_its_code_and_the_way_on(
    command: list[str], out: Path, number: signal.Signals, code: int
) -> None:
    process = subprocess.Popen([*command, "--out", str(out)], stderr=subprocess.PIPE, text=True)
    wait_for(process, out, 3)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == code
    assert said.splitlines()[-1].startswith("interrupted: step ")
    assert "the same command goes on from there" in said
    assert "Traceback" not in said
    assert (out / "checkpoint.pt").is_file()
