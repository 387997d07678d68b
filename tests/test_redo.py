"""`--redo-failed`: what failed at a teacher is tried again as new jobs, once, and that is resumed as anything else."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
from killing import data_of

from kdaug.errors import BadRequest, TeacherUnavailable
from kdaug.gates.judge import Judge
from kdaug.generators.respond import Respond
from kdaug.journal import Journal
from kdaug.progress import Log
from kdaug.recipe import Recipe
from kdaug.record import Record, text_of, user
from kdaug.running import Outcome, execute
from kdaug.source import Each
from kdaug.stage import Stage
from kdaug.teacher import Request
from kdaug.teachers.fake import Fake

SEEDS = [Record(prompt=user(f"Question {i}.")) for i in range(30)]


class Sick:
    """Fails on some questions until it is cured: answers to 3, 6, 9, … and marks for answers to 4, 8, 12, …"""

    def __init__(self) -> None:
        self.cured = False
        self.asked: Counter[str] = Counter()

    def __call__(self, request: Request) -> str:
        text = text_of(request.messages)
        number = int(text.rpartition("Question ")[2].split(".")[0])
        judging = "Score: n" in text
        self.asked[f"{'judge' if judging else 'answer'} {number}"] += 1
        if not self.cured and number % (4 if judging else 3) == 0:
            raise BadRequest("not well")
        return "It is fine.\nScore: 4" if judging else f"Answer to Question {number}. "


def recipe(max_jobs: int | None = None) -> Recipe:
    stages = [Stage(Respond(), window=4), Stage(Respond(system="brief"), [Judge(min=3)], window=4)]
    return Recipe(Each(SEEDS), stages, max_jobs=max_jobs, max_failure_rate=1.0)


def go(out: Path, sick: Sick, *, redo: bool = False, max_jobs: int | None = None) -> Outcome:
    return execute(recipe(max_jobs), out, {"teacher": Fake(sick)}, log=Log(quiet=True), redo_failed=redo)


def numbers(outcome: Outcome) -> list[int]:
    return [int(r.prompt[0].content.split()[1].rstrip(".")) for r in outcome.dataset.records()]


def test_what_failed_is_tried_again_at_the_end_and_only_that(tmp_path: Path) -> None:
    sick = Sick()
    first = numbers(go(tmp_path / "run", sick))
    assert first == [i for i in range(30) if i % 3 and i % 4]
    before = Counter(sick.asked)
    sick.cured = True
    outcome = go(tmp_path / "run", sick, redo=True)
    again = numbers(outcome)
    assert again[: len(first)] == first
    assert sorted(again) == list(range(30))
    repeated = {name for name, times in (sick.asked - before).items() if name in before}
    # The second stage's answers were good where only their marks failed: they are not asked again.
    unmarked = {f"judge {i}" for i in range(30) if i % 3 and i % 4 == 0}
    assert repeated == {f"answer {i}" for i in range(0, 30, 3)} | unmarked


def test_done_again_without_the_option_nothing_is_asked_and_nothing_changes(tmp_path: Path) -> None:
    sick = Sick()
    go(tmp_path / "run", sick)
    sick.cured = True
    go(tmp_path / "run", sick, redo=True)
    data, asked = data_of(tmp_path / "run"), Counter(sick.asked)
    for redo in (False, True):
        go(tmp_path / "run", sick, redo=redo)
        assert data_of(tmp_path / "run") == data
    assert sick.asked == asked


def test_what_fails_again_is_tried_again_the_next_time(tmp_path: Path) -> None:
    sick = Sick()
    first = go(tmp_path / "run", sick)
    second = go(tmp_path / "run", sick, redo=True)
    assert numbers(second) == numbers(first)
    assert second.facts["failures"]["bad_request"] == 2 * first.facts["failures"]["bad_request"]
    # Two calls each, but one drop: it is the same record.
    drops = [[stage["dropped"] for stage in outcome.facts["stages"]] for outcome in (first, second)]
    assert drops[0] == drops[1]
    rows = pq.read_table(tmp_path / "run" / "dropped.parquet").num_rows
    assert rows == sum(sum(stage.values()) for stage in drops[1])
    sick.cured = True
    assert sorted(numbers(go(tmp_path / "run", sick, redo=True))) == list(range(30))


def test_a_redo_that_is_broken_off_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole, broken = Sick(), Sick()
    for sick, out in ((whole, tmp_path / "whole"), (broken, tmp_path / "broken")):
        go(out, sick)
        sick.cured = True
    go(tmp_path / "whole", whole, redo=True)

    def breaks(request: Request) -> str:
        if "Question 15" in text_of(request.messages):
            raise TeacherUnavailable("gone")
        return broken(request)

    first = execute(recipe(), tmp_path / "broken", {"teacher": Fake(breaks)}, log=Log(quiet=True), redo_failed=True)
    assert isinstance(first.error, TeacherUnavailable)
    go(tmp_path / "broken", broken)  # the plan is in the journal: the option need not be given again
    go(tmp_path / "broken", broken, redo=True)
    assert sorted(numbers(go(tmp_path / "broken", broken))) == list(range(30))
    assert numbers(go(tmp_path / "broken", broken)) == numbers(go(tmp_path / "whole", whole))


def test_a_source_that_goes_on_after_a_redo_keeps_its_order(tmp_path: Path) -> None:
    sick = Sick()
    go(tmp_path / "run", sick, max_jobs=10)
    sick.cured = True
    assert sorted(numbers(go(tmp_path / "run", sick, redo=True, max_jobs=10))) == list(range(10))
    assert sorted(numbers(go(tmp_path / "run", sick, max_jobs=20))) == list(range(20))
    journal = Journal.read_only(tmp_path / "run")
    assert [r.prompt[0].content for r in journal.kept(0)][-10:] == [f"Question {i}." for i in range(10, 20)]
    journal.close()
