"""What the display says of the teachers, beside the run's numbers."""

from __future__ import annotations

from kdaug.calls import CallStats
from kdaug.progress import _View
from kdaug.stage import StageStats, Stats
from kdaug.teachers.fake import Fake


class Talking(Fake):
    status = ""


def test_a_teacher_speaks_only_when_it_has_something_to_say_and_once() -> None:
    teacher = Talking(name="openai:m")
    roles = {"teacher": teacher, "judge": teacher, "student": Fake()}
    view = _View(Stats([StageStats("0.respond")], CallStats(), teachers=roles), jobs=10)
    quiet = view.lines()
    assert "openai:m" not in view.line()
    teacher.status = "64 of 128 slots, pausing 3 s after 429"
    assert view.lines() == [*quiet, "  openai:m: 64 of 128 slots, pausing 3 s after 429"]
    assert view.line().endswith(" · openai:m: 64 of 128 slots, pausing 3 s after 429")


def test_the_time_left_is_that_of_the_last_stage_not_of_one_that_runs_ahead() -> None:
    first, last = StageStats("0.pass"), StageStats("1.document_qa")
    view = _View(Stats([first, last], CallStats()), jobs=500)
    assert view.eta() == "ETA unknown"
    first.jobs, first.kept, last.jobs = 500, 400, 100
    view.sample()
    (_, *counts), (now, *_) = view._samples[0], view._samples[-1]
    view._samples[0] = (now - 10.0, *counts)  # type: ignore[assignment] # the same, ten seconds ago
    assert view.eta() == "ETA 30s"
