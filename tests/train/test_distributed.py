"""Processes that train together: two give the curve of one, and a checkpoint goes on with any number of them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from forked import check, start, start_ranks
from safetensors.torch import load_file

from kdaug.cli import main
from kdaug.dataset import write_dataset
from kdaug.record import Record
from kdaug.train.distributed import World

# Sums in another order: float32 rounding, grown over some thirty-five steps.
TOLERANCE = 5e-5
SETTINGS = ["--epochs=5", "--lr=3e-3", "--length=128", "--accumulate=3", "--ema=0.5", "--eval-every=5"]
SFT = ["train", "sft"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "kdaug"]


def test_passes_are_dealt_out_and_all_make_equally_many() -> None:
    passes = ["a", "b", "c", "d", "e"]
    dealt = [World(rank, 2).deal(passes) for rank in range(2)]
    assert dealt[0] == [(0, "a", True), (2, "c", True), (4, "e", True)]
    assert dealt[1] == [(1, "b", True), (3, "d", True), (4, "e", False)]  # the last makes up the number only
    assert World().deal(passes) == [(i, name, True) for i, name in enumerate(passes)]


@pytest.fixture
def given(tiny: Path, answers: list[Record], tmp_path: Path) -> list[str]:
    write_dataset(tmp_path / "data", lambda: answers, held_out={a.id for a in answers[:3]}, facts={})
    return ["--data", str(tmp_path / "data"), "--student", str(tiny), *SETTINGS]


def metrics(folder: Path) -> list[dict[str, float]]:
    file = folder / "metrics.jsonl"
    return [json.loads(line) for line in file.read_bytes().splitlines()] if file.is_file() else []


def assert_same_training(one: Path, other: Path) -> None:
    for ours, theirs in zip(metrics(one), metrics(other), strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - {"tokens_per_second"}:
            assert theirs[name] == pytest.approx(ours[name], abs=TOLERANCE)
    weights = [load_file(folder / "model.safetensors") for folder in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    assert max(float((weights[0][n] - weights[1][n]).abs().max()) for n in weights[0]) < TOLERANCE
    assert {f.name for f in one.iterdir()} == {f.name for f in other.iterdir()}


def one(command: list[str], out: Path) -> Path:
    """It is trained in this process."""
    assert main([*command, "--out", str(out)]) == 0
    return out


def two(command: list[str], out: Path) -> Path:
    """It is trained in two."""
    check(*start_ranks([*command, "--out", str(out)], 2))
    return out


def wait_for(out: Path, step: int, runs: Callable[[], bool]) -> None:
    while runs() and len(metrics(out)) < step:
        time.sleep(0.005)
    assert runs(), "it ended before it was told to"


@pytest.mark.slow
def test_two_processes_give_the_curve_of_one_and_go_on_from_each_others_checkpoints(
    given: list[str], tmp_path: Path
) -> None:
    """Two trainings are ended as a scheduler would end them, that of torchrun and that of one process."""
    command, parts = [*SFT, *given], tmp_path / "parts"
    whole = one(command, tmp_path / "one")
    assert_same_training(whole, two(command, tmp_path / "two"))
    assert json.loads((tmp_path / "two" / "training.json").read_text())["results"]["processes"] == 2

    torchrun = subprocess.Popen([*TORCHRUN, *command, "--out", str(parts)], stderr=subprocess.DEVNULL)
    wait_for(parts, 3, lambda: torchrun.poll() is None)
    torchrun.send_signal(signal.SIGTERM)
    assert torchrun.wait(60) != 0
    assert list(parts.glob("checkpoint-*.parts"))
    process = start([*command, "--out", str(parts)])
    wait_for(parts, 7, process.is_alive)
    process.terminate()
    process.join()
    assert process.exitcode == 128 + signal.SIGTERM
    assert (parts / "checkpoint.pt").is_file() and not list(parts.glob("checkpoint-*.parts"))
    subprocess.run([*TORCHRUN, *command, "--out", str(parts)], check=True, capture_output=True)
    assert_same_training(whole, parts)


def distil(given: list[str], more: list[str], folder: Path, make_model: Callable[..., Path]) -> None:
    """By one process and by two: the same."""
    teacher = make_model(folder / "teacher", seed=1, layers=3)
    command = ["train", "distill", *given, "--teacher", str(teacher), *more]
    assert_same_training(one(command, folder / "one"), two(command, folder / "two"))


@pytest.mark.slow
def test_the_student_writes_its_own_answers_in_several_processes(
    given: list[str], tmp_path: Path, make_model: Callable[..., Path]
) -> None:
    greedy = ["--on-policy=0.7", "--sampling-temperature=0", "--max-new-tokens=8", "--epochs=2", "--lora-rank=4"]
    distil(given, greedy, tmp_path, make_model)


@pytest.mark.slow
def test_adapters_and_projections_are_shared_out_as_well(
    given: list[str], tmp_path: Path, make_model: Callable[..., Path]
) -> None:
    distil(given, ["--hidden=1", "--lora-rank=4"], tmp_path, make_model)
    adapters = [load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("one", "two")]
    assert all(float((adapters[0][n] - adapters[1][n]).abs().max()) < TOLERANCE for n in adapters[0])
