"""A run selects when its dataset is derived: exactly n, told in card and show, and another choice asks nothing anew."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from kdaug.cli import main
from kdaug.dataset import Dataset
from kdaug.dropped import read_dropped
from kdaug.gates.judge import Judge
from kdaug.generators.pass_through import Pass
from kdaug.generators.respond import Respond
from kdaug.progress import Log
from kdaug.recipe import Recipe
from kdaug.record import Record, user
from kdaug.running import Outcome, execute
from kdaug.selector import Pool, Selection, Selector
from kdaug.selectors.balance import Balance
from kdaug.selectors.top_k import TopK
from kdaug.source import Each
from kdaug.stage import Stage
from kdaug.teachers.fake import Fake


def recipe(select: Selector | None, count: int = 30, **more: Any) -> Recipe:
    seeds = [Record(prompt=user(f"question {i}"), meta={"topic": f"t{i % 3}"}) for i in range(count)]
    return Recipe(Each(seeds), [Stage(Respond()), Stage(Pass(), [Judge(min=1)])], select=select, **more)


def go(made: Recipe, out: Path) -> tuple[Outcome, Fake]:
    teacher = Fake()
    return execute(made, out, {"teacher": teacher}, log=Log(quiet=True)), teacher


def test_exactly_n_are_in_the_dataset_and_the_rest_is_kept_aside(tmp_path: Path) -> None:
    outcome, _ = go(recipe(TopK(8, score="judge")), tmp_path / "run")
    assert (outcome.exit_code, outcome.facts["kept"], len(outcome.dataset)) == (0, 8, 8)
    left = list(read_dropped(tmp_path / "run" / "dropped.parquet"))
    assert len(left) == 22 and {d.reason for d in left} == {"select:rank"} and left[0].stage == "select.top_k"
    worst = min(r.scores["judge"] for r in outcome.dataset)
    assert all(d.record is not None and d.record.scores["judge"] <= worst for d in left)
    assert outcome.facts["selected"] == {"rule": "top_k", "n": 8, "of": 30, "kept": 8, "dropped": {"select:rank": 22}}
    card = (tmp_path / "run" / "dataset" / "README.md").read_text("utf-8")
    assert "Of the 30 records that the run kept, 8 were selected by `top_k`;" in card
    assert "| select.top\\_k | `select:rank` | 22 |" in card and "score: judge" in card


def test_another_selection_derives_the_dataset_anew_and_asks_nothing(tmp_path: Path) -> None:
    go(recipe(None), tmp_path / "run")
    whole = {r.id for r in Dataset(tmp_path / "run")}
    for select, kept in ((TopK(8, score="judge"), 8), (Balance(6, by="meta.topic"), 6), (None, 30)):
        outcome, teacher = go(recipe(select), tmp_path / "run")
        assert teacher.calls == [] and len(outcome.dataset) == kept
        assert {r.id for r in outcome.dataset} <= whole
    assert "selected" not in outcome.facts


def test_a_run_in_parts_selects_what_a_run_in_one_selects(tmp_path: Path) -> None:
    go(recipe(TopK(8, score="judge"), max_jobs=11), tmp_path / "parts")
    go(recipe(TopK(8, score="judge")), tmp_path / "parts")
    go(recipe(TopK(8, score="judge")), tmp_path / "one")
    files = [sorted((tmp_path / name / "dataset" / "data").rglob("*.parquet")) for name in ("parts", "one")]
    assert files[0] and [f.read_bytes() for f in files[0]] == [f.read_bytes() for f in files[1]]


@dataclass(frozen=True)
class Endless:
    """Selects for ever, and is broken off by Ctrl-C."""

    n: int = 3
    name: ClassVar[str] = "endless"

    def select(self, pool: Pool) -> Selection:
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(2000):
            time.sleep(0.01)
            pool.step()
        raise AssertionError("nobody broke it off")


def test_ctrl_c_breaks_a_selection_off_and_the_next_run_selects(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        go(recipe(Endless()), tmp_path / "run")
    said = (tmp_path / "run" / "log.txt").read_text("utf-8")
    assert "select.endless: looking for 3 among what was kept" in said and "interrupted: it broke off" in said
    outcome, teacher = go(recipe(TopK(8, score="judge")), tmp_path / "run")
    assert teacher.calls == [] and len(outcome.dataset) == 8


def test_what_cannot_be_met_is_said(tmp_path: Path) -> None:
    outcome, _ = go(recipe(TopK(50, score="judge")), tmp_path / "run")
    assert (outcome.exit_code, outcome.facts["status"], len(outcome.dataset)) == (3, "stopped", 30)
    assert "kept 30 of 30 (50 were wanted, and there are no more)" in (tmp_path / "run" / "log.txt").read_text("utf-8")


def test_a_score_that_is_not_there_fails_and_the_next_try_asks_nothing(tmp_path: Path) -> None:
    outcome, _ = go(recipe(TopK(5, score="jugde")), tmp_path / "run")
    assert outcome.exit_code == 2 and outcome.facts["status"] == "failed"
    assert "no record has the score 'jugde'; there are judge" in str(outcome.error)
    again, teacher = go(recipe(TopK(5, score="judge")), tmp_path / "run")
    assert again.exit_code == 0 and teacher.calls == [] and len(again.dataset) == 5


def test_a_target_is_what_is_selected_from(tmp_path: Path) -> None:
    outcome, _ = go(recipe(TopK(5, score="judge"), target=12), tmp_path / "run")
    assert outcome.exit_code == 0 and outcome.facts["selected"]["of"] == 12 and len(outcome.dataset) == 5


YAML = """stages:
  - generator: respond
  - generator: pass
    gates: [{judge: {min: 1}}]
select: SELECT
"""
SELECTORS = [
    "{deita: {n: 6, threshold: 0.99, score: judge}}",
    "{k_center: {n: 6}}",
    "{quota: {n: 6, clusters: 3}}",
    "{balance: {n: 6, by: scores.judge, bins: 3}}",
    "{top_k: {n: 6, score: judge}}",
]


def written(folder: Path, select: str) -> list[str]:
    (folder / "r.yaml").write_text(YAML.replace("SELECT", select), "utf-8")
    rows = [json.dumps({"prompt": f"question {i} 水 🙂"}) + "\n" for i in range(20)]
    (folder / "seeds.jsonl").write_text("".join(rows), "utf-8")
    return [str(folder / "r.yaml"), "--seeds", str(folder / "seeds.jsonl")]


@pytest.mark.slow
@pytest.mark.parametrize("select", SELECTORS)
def test_every_selector_from_the_command_line(select: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = written(tmp_path, select)
    assert main(["check", *given]) == 0
    out = str(tmp_path / "run")
    assert main(["run", *given, "--teacher", "fake", "--out", out]) == 0
    assert len(Dataset(out)) == 6
    capsys.readouterr()
    assert main(["show", out]) == 0
    rule = select[1:].partition(":")[0]
    assert f"select.{rule}: of 20, kept 6 (n 6)" in capsys.readouterr().out
    left = [d for d in read_dropped(tmp_path / "run" / "dropped.parquet") if d.stage == f"select.{rule}"]
    assert len(left) == 14 and left[0].record is not None
    assert main(["show", out, left[0].record.id]) == 0
    assert f"kept, but not selected: {left[0].reason}" in capsys.readouterr().out


def test_mistakes_in_yaml_name_the_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for select, says in (
        ("{detia: {n: 6}}", "unknown selector 'detia' (did you mean 'deita'?)"),
        ("{top_k: {n: many, score: judge}}", "r.yaml:5"),
        ("{top_k: {n: 0, score: judge}}", "n is 0"),
        ("{top_k: {n: 6}}", "score"),
    ):
        given = written(tmp_path, select)
        assert main(["run", *given, "--teacher", "fake", "--out", str(tmp_path / "run")]) == 2
        assert says in capsys.readouterr().err
    given = written(tmp_path, "{top_k: {n: 6, score: judge}}")
    out = str(tmp_path / "run")
    assert main(["run", *given, "--teacher", "fake", "--out", out, "--set", "top_k.n=4"]) == 0
    assert len(Dataset(out)) == 4
