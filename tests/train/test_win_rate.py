"""Win rates: both orders, ties where they disagree, an interval, and no verdict from nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kdaug.errors import ConfigError, TrainError
from kdaug.record import Record, user
from kdaug.teacher import Request
from kdaug.teachers.fake import Fake
from kdaug.train.win_rate import Called, win_rate

PROMPTS = [Record(prompt=user(f"prompt {n}")) for n in range(8)]
GOOD = Called("models/good", Fake({"": "a good answer"}, name="fake-good"))
POOR = Called("models/poor", Fake({"": "a poor answer"}, name="fake-poor"))


def fair(request: Request) -> str:
    """Finds the good answer better, wherever it stands."""
    asked = request.messages[-1].content
    first = re.search(r"Answer A:\n(.*)", asked)
    assert first is not None
    return "Verdict: A" if "good" in first[1] else "Verdict: B"


def test_a_fair_judge_counts_in_both_orders() -> None:
    judge = Fake(fair, name="fake-judge")
    table = win_rate(GOOD, POOR, judge, PROMPTS, "prompts")
    (row,) = table.rows
    assert table.title == "Win rate against models/poor" and row.model == "models/good"
    assert {name: figure.value for name, figure in row.figures.items()} == {
        "win_rate": 1.0,
        "wins": 1.0,
        "ties": 0.0,
        "losses": 0.0,
    }
    assert row.figures["win_rate"].low == pytest.approx(8 / (8 + 1.96**2), abs=1e-3)  # Wilson's for 8 of 8
    assert len(judge.calls) == 16
    assert win_rate(POOR, GOOD, judge, PROMPTS, "prompts").rows[0].figures["win_rate"].value == 0


def test_a_judge_that_likes_a_place_gives_ties() -> None:
    table = win_rate(GOOD, POOR, Fake({"": "Verdict: A"}), PROMPTS, "prompts")
    assert (table.rows[0].figures["win_rate"].value, table.rows[0].figures["ties"].value) == (0.5, 1.0)
    assert "8 verdicts turned with the order" in table.about


def test_equal_answers_tie_unasked() -> None:
    judge = Fake({"": "Verdict: A"})
    same = Called("same", Fake({"": " a good answer"}, name="fake-same"))
    assert win_rate(GOOD, same, judge, PROMPTS, "prompts").rows[0].figures["ties"].value == 1
    assert judge.calls == []


def test_what_the_judge_does_not_say_is_left_out_and_told() -> None:
    def mumbling(request: Request) -> str:
        return "Well." if "prompt 3" in request.messages[-1].content else fair(request)

    table = win_rate(GOOD, POOR, Fake(mumbling), PROMPTS, "prompts")
    assert table.rows[0].figures["win_rate"].n == 7
    assert list(table.notes) == ["1 came to nothing (parse:verdict 1) and are left out"]
    with pytest.raises(TrainError, match="gave no verdict on any of 8 prompts"):
        win_rate(GOOD, POOR, Fake({"": "Well."}), PROMPTS, "prompts")


def test_a_duel_goes_on_where_it_was(tmp_path: Path) -> None:
    first, second = Fake(fair, name="fake-judge"), Fake(fair, name="fake-judge")
    tables = [win_rate(GOOD, POOR, judge, PROMPTS, "prompts", out=tmp_path / "duel") for judge in (first, second)]
    assert second.calls == [] and tables[0] == tables[1]
    with pytest.raises(ConfigError, match="another recipe"):  # another judge's verdicts are not taken for this one's
        win_rate(GOOD, POOR, Fake(fair, name="fake-other"), PROMPTS, "prompts", out=tmp_path / "duel")


def test_without_prompts_there_is_nothing_to_win() -> None:
    with pytest.raises(ConfigError, match="holds no prompts"):
        win_rate(GOOD, POOR, Fake(fair), [], "nothing")
