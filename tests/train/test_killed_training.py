"""A real process that trains, killed at random steps: it ends with the same bits as one that never was."""

from __future__ import annotations

import json
import os
import signal
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from random import Random

import pytest
from forked import start

from kdaug.cli import main
from kdaug.record import Record, text_of

SETTINGS = ["--epochs=5", "--lr=3e-3", "--length=128", "--accumulate=1", "--save-every=7", "--ema=0.9"]
KILLS = 3


@pytest.fixture
def command(tiny: Path, answers: list[Record], tmp_path: Path) -> list[str]:
    data = tmp_path / "data.jsonl"
    lines = [{"prompt": text_of(a.prompt), "completion": text_of(a.completion)} for a in answers]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return ["train", "sft", "--data", str(data), "--student", str(tiny), *SETTINGS]


def steps(folder: Path) -> int:
    file = folder / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def send(process: ForkServerProcess, number: signal.Signals) -> None:
    assert process.pid is not None
    os.kill(process.pid, number)


def wait_for(process: ForkServerProcess, folder: Path, goal: int) -> None:
    while process.is_alive() and steps(folder) < goal:
        time.sleep(0.002)


@pytest.mark.slow
def test_killed_at_random_steps_a_training_ends_with_the_same_bits(command: list[str], tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main([*command, "--out", str(whole)]) == 0
    rng = Random(5)
    for _ in range(KILLS):
        process = start([*command, "--out", str(parts)])
        wait_for(process, parts, steps(parts) + rng.randint(1, 20))
        time.sleep(rng.random() * 0.02)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it ended before it could be killed"
    assert 0 < steps(parts) < steps(whole)
    assert main([*command, "--out", str(parts)]) == 0
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
    command: list[str], tmp_path: Path, out: Path, number: signal.Signals, code: int
) -> None:
    process = start([*command, "--out", str(out)], log=tmp_path / "log")
    wait_for(process, out, 3)
    send(process, number)
    process.join()
    assert process.exitcode == code
    said = (tmp_path / "log").read_text()
    assert said.splitlines()[-1].startswith("interrupted: step ")
    assert "the same command goes on from there" in said
    assert "Traceback" not in said
    assert (out / "checkpoint.pt").is_file()


@pytest.mark.slow
def test_one_process_at_a_time_trains_into_a_folder(
    command: list[str], tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = start([*command, "--out", str(out)])
    wait_for(process, out, 2)
    send(process, signal.SIGSTOP)
    before = (out / "metrics.jsonl").read_bytes()
    assert main([*command, "--out", str(out)]) == 2
    assert f"another training is writing to {out}: wait for it" in capsys.readouterr().err
    assert main([*command, "--out", str(out), "--dry-run"]) == 0  # looks only
    assert (out / "metrics.jsonl").read_bytes() == before
    send(process, signal.SIGCONT)
    process.join()
    assert process.exitcode == 0
    assert not (out / "training.lock").exists()
    assert main([*command, "--out", str(tmp_path / "whole")]) == 0
    assert (tmp_path / "whole/model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
