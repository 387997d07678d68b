"""Mistakes in Python: what is no part or teacher is named in one line; a run that breaks off says what goes on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import pytest
from servers.run import FakeOpenAI

import kdaug as kd
from kdaug.errors import JournalError

SEEDS = [kd.Record(prompt=kd.user(f"question {i}")) for i in range(8)]


@dataclass(frozen=True)
class Gives:
    """A generator that returns what it is told to, or what that returns."""

    what: Any
    name: ClassVar[str] = "gives"
    roles: ClassVar[tuple[str, ...]] = ()

    async def __call__(self, parents: Sequence[kd.Record], generate: kd.Generate, rng: Random) -> Any:
        return self.what() if callable(self.what) else self.what


def buggy() -> None:
    raise KeyError("missing")


class Judges(kd.Gate):
    name = "judges"

    def decide(self, prepared: kd.Prepared) -> Any:
        return False


class Prepares(kd.Gate):
    name = "prepares"

    async def prepare(self, record: kd.Record, generate: kd.Generate) -> Any:
        return record


def run(out: Path, *stages: Any, teacher: Any = None, **more: Any) -> kd.Dataset:
    return kd.run(kd.Recipe(kd.Each(SEEDS), stages, **more), out, teacher=teacher or kd.Fake(), quiet=True)


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        (kd.Respond(), "write Stage("),
        (kd.Stage(kd.Respond), "Respond is a class: write Respond()"),  # type: ignore[arg-type] # the mistake
        (kd.Stage(kd.Respond(), [kd.Rouge]), "Rouge is a class: write Rouge()"),  # type: ignore[list-item] # the mistake
        (kd.Stage(len), "needs a name and roles"),  # type: ignore[arg-type] # the mistake
        (kd.Stage(kd.Rouge(), []), "rouge is a gate, no generator: write Stage(Pass(), [gates])"),  # type: ignore[arg-type] # the mistake
        (kd.Stage(kd.Respond(), [kd.Respond()]), "a gate is a subclass of kdaug.Gate"),  # type: ignore[list-item] # the mistake
    ],
)
def test_what_is_no_part_is_refused_before_anything_is_made(stage: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(kd.ConfigError) as refused:
        run(tmp_path / "run", stage)
    assert says in str(refused.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("teacher", ["fake", kd.Fake, 7])
def test_what_is_no_teacher_is_refused(teacher: Any, tmp_path: Path) -> None:
    with pytest.raises(kd.ConfigError, match=r"teacher=.* is no teacher: give an object such as kd\.OpenAI"):
        run(tmp_path / "run", kd.Stage(kd.Respond()), teacher=teacher)


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        (kd.Stage(Gives(None)), "the generator gives gave None: it returns a list of Record"),
        (kd.Stage(Gives(["text"])), "the generator gives gave ['text']"),
        (kd.Stage(kd.Respond(), [Judges()]), "decided False: decide returns a Drop or None"),
        (kd.Stage(kd.Respond(), [Prepares()]), "prepares.prepare gave Record("),
    ],
)
def test_what_a_part_must_not_return_is_said(stage: kd.Stage, says: str, tmp_path: Path) -> None:
    with pytest.raises(kd.KdaugError) as refused:
        run(tmp_path / "run", stage)
    assert says in str(refused.value)


def test_a_bug_in_a_part_says_where_and_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    with pytest.raises(KeyError) as raised:
        run(tmp_path / "run", kd.Stage(Gives(buggy)))
    assert raised.value.__notes__ == ["in stage 0 (gives), job 0"]
    assert json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))["status"] == "failed"
    assert "the dataset is not renewed" in (tmp_path / "run" / "log.txt").read_text("utf-8")


def test_within_a_running_loop_the_way_out_is_arun(tmp_path: Path) -> None:
    recipe = kd.Recipe(kd.Each(SEEDS), [kd.Stage(kd.Respond())])

    async def notebook() -> int:
        with pytest.raises(kd.ConfigError, match=r"await kd\.arun"):
            kd.run(recipe, tmp_path / "run", teacher=kd.Fake())
        return len(await kd.arun(recipe, tmp_path / "run", teacher=kd.Fake(), quiet=True))

    assert asyncio.run(notebook()) == len(SEEDS)


def test_a_test_split_that_stays_empty_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seeds = kd.Recipe(kd.Each(SEEDS[:2]), [kd.Stage(kd.Respond())], holdout=0.5, max_jobs=2)
    kd.run(seeds, tmp_path / "both", teacher=kd.Fake())
    assert "no test split" not in capsys.readouterr().err
    one = kd.Recipe(kd.Each(SEEDS[:1]), [kd.Stage(kd.Respond())], holdout=0.5)
    kd.run(one, tmp_path / "one", teacher=kd.Fake())
    assert "holdout 0.5: there is no test split" in capsys.readouterr().err


def test_a_second_ctrl_c_says_what_goes_on(tmp_path: Path) -> None:
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps({"prompt": f"q {i}"}) + "\n" for i in range(50)), "utf-8")
    with FakeOpenAI(latency_ms=20_000) as server:
        command = [sys.executable, "-m", "kdaug", "run", "respond", "--seeds", str(tmp_path / "seeds.jsonl")]
        command += ["--out", str(tmp_path / "run"), "--teacher", f"openai:m?base_url={server.url}"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while server.stats()["total"] < 1:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGINT)
        time.sleep(1.0)
        os.kill(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=15)
    assert process.returncode == 130
    assert "stopping: 1 calls in flight finish first" in said  # the first goes alone: the others were not sent
    assert "resume: kdaug run respond" in said
    assert "Traceback" not in said
    assert json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))["status"] == "interrupted"


def test_a_disk_that_fills_before_the_last_file_is_one_error_and_the_run_goes_on(tmp_path: Path) -> None:
    run(tmp_path / "run", kd.Stage(kd.Respond()))
    (tmp_path / "run" / "run.json.tmp").mkdir()  # as a full disk does, it takes no file
    with pytest.raises(JournalError, match=r"cannot write .*run\.json .*: nothing is lost"):
        run(tmp_path / "run", kd.Stage(kd.Respond()))
    (tmp_path / "run" / "run.json.tmp").rmdir()
    assert len(run(tmp_path / "run", kd.Stage(kd.Respond()))) == len(SEEDS)


@pytest.mark.parametrize("limits", [{"max_cost": float("nan")}, {"max_time": float("inf")}])
def test_a_cap_that_is_no_number_is_refused(limits: dict[str, float]) -> None:
    with pytest.raises(kd.ConfigError, match="give a number, or leave it out"):
        kd.Recipe(kd.Each(SEEDS), [kd.Stage(kd.Respond())], **limits)  # type: ignore[arg-type] # floats alone
