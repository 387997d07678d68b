"""A check of a judge finds what a judge is: sound, in love with a place, with length, with itself, or unable to say."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from kdaug.cli import main
from kdaug.errors import ConfigError, TeacherUnavailable
from kdaug.gates.judge import Judge
from kdaug.generators.pass_through import Pass
from kdaug.intervals import wilson
from kdaug.judge_check import Bounds, cases, correlation, judge_check, parse_bounds, shuffled, truncated
from kdaug.judges import read_check
from kdaug.progress import Log
from kdaug.recipe import Recipe
from kdaug.record import Record, assistant, user
from kdaug.running import execute
from kdaug.source import Each
from kdaug.stage import Stage
from kdaug.teacher import Request
from kdaug.teachers.fake import Fake

GOOD = [
    Record(prompt=user(f"Tell of {n}."), completion=assistant(f"It is {n}. It follows {n - 1}. It is whole."))
    for n in range(20, 60)
]
Taste = Callable[[str, str], float]  # (prompt, answer): how good


def sound(prompt: str, answer: str) -> float:
    number = re.findall(r"\d+", prompt)[-1]
    right = f"It is {number}. It follows {int(number) - 1}. It is whole."
    return 5.0 if answer == right else 4.0 if answer == "Mine." else 1.0 + (right in answer)


def judge(taste: Taste, *, place: bool = False, name: str = "judge") -> Fake:
    """Judges by `taste`; with `place` always for the first."""

    def reply(request: Request) -> str:
        asked = request.messages[-1].content
        prompt = re.search(r"Request:\n(.*?)\n\nAnswer", asked, re.S)
        if prompt is None:
            return "Mine."
        if "Verdict: A" in asked:
            one, two = re.findall(r"Answer [AB]:\n(.*?)(?=\n\nAnswer B|\n\nFirst give)", asked, re.S)
            better = 1.0 if place else taste(prompt[1], one) - taste(prompt[1], two)
            return "Verdict: " + ("A" if better > 0 else "B" if better < 0 else "tie")
        answer = re.search(r"Answer:\n(.*?)\n\nFirst give", asked, re.S)
        assert answer is not None
        return f"Score: {min(5, round(taste(prompt[1], answer[1])))}"

    return Fake(reply, name=name)


def check(out: Path, teacher: Fake, records: list[Record] = GOOD, **more: Any) -> dict[str, dict[str, Any]]:
    found = judge_check(out, teacher, records, log=Log(quiet=True), **more)
    return {"": found} | {figure["name"]: figure for figure in found["figures"]}


def test_a_sound_judge_passes(out: Path) -> None:
    found = check(out, judge(sound))
    assert found[""]["passed"] is True and found[""]["judge"] == "judge"
    assert found["read"]["value"] == found["planted"]["value"] == 1.0
    assert found["turned"]["value"] == 0.0 and found["first_place"]["value"] == 0.5
    assert found["length_slope"]["value"] < 0
    assert found["own_answer"] == {**found["own_answer"], "value": 0.0, "n": 20, "passed": None}
    assert json.loads((out / "judge_check.json").read_bytes()) == found[""]


def test_love_of_a_place_is_found(out: Path) -> None:
    found = check(out, judge(sound, place=True))
    assert found["turned"]["value"] == found["first_place"]["value"] == 1.0
    assert found["planted"]["value"] == 0.0  # a tie, by its two orders, is no win
    assert found[""]["passed"] is False and found["first_place"]["passed"] is False


def test_love_of_length_is_found(out: Path) -> None:
    found = check(out, judge(lambda prompt, answer: 1 + len(answer) / 100))
    assert found["length_slope"]["value"] > 0.3 and found["length_slope"]["passed"] is False
    assert found["planted.padded"]["value"] == 0.0


def test_love_of_itself_is_found_beside_another_judge(out: Path) -> None:
    vain = judge(lambda prompt, answer: 9.0 if answer == "Mine." else sound(prompt, answer), name="vain")
    found = check(out, vain, second=judge(sound, name="other"))
    assert found["own_answer"]["value"] == found["self_preference"]["value"] == 1.0
    assert found["self_preference"]["passed"] is False


def test_a_judge_that_says_nothing_of_use_fails_and_ends_nothing(out: Path) -> None:
    found = check(out, Fake(lambda request: "Hm.", name="mute"))
    assert found["read"]["value"] == 0.0 and found[""]["passed"] is False
    assert "planted" not in found


def test_agreement_with_people(out: Path) -> None:
    """Pairs that people chose, a tenth of them against the judge, and marks that go with its own."""
    pairs = [
        Record(prompt=g.prompt, completion=g.completion, rejected=assistant("No."))
        if n % 10
        else Record(prompt=g.prompt, completion=assistant("No."), rejected=g.completion)
        for n, g in enumerate(GOOD)
    ]
    marks = [
        Record(prompt=g.prompt, completion=assistant("No."), meta={"score": 2})
        if n % 2
        else Record(prompt=g.prompt, completion=g.completion, meta={"score": 9})
        for n, g in enumerate(GOOD)
    ]
    found = check(out, judge(sound), [*pairs, *marks], planted=0)
    assert (found["agreement"]["value"], found["agreement"]["n"]) == (0.9, 40)
    assert (found["agreement"]["low"], found["agreement"]["high"]) == pytest.approx(wilson(36, 40))
    assert found["correlation"]["value"] == pytest.approx(1.0)


def test_few_cases_prove_little(out: Path) -> None:
    found = check(out, judge(sound), planted=1)
    assert found["planted"]["value"] == 1.0 and found["planted"]["passed"] is False


def test_a_check_that_was_broken_off_goes_on(out: Path) -> None:
    whole = check(out / "whole", judge(sound))[""]
    broken, calls = judge(sound), iter(range(10**6))
    scripted = broken.reply
    assert callable(scripted)
    broken.reply = lambda request: TeacherUnavailable("power cut") if next(calls) > 90 else scripted(request)
    with pytest.raises(TeacherUnavailable):
        check(out / "part", broken)
    again = judge(sound)
    assert check(out / "part", again)[""] == whole
    assert len(again.calls) < 20 * (4 * 4 + 3) - 60


def test_planted_pairs_are_worse_and_always_the_same() -> None:
    made = cases(GOOD, 3)
    assert [r.id for r in made] == [r.id for r in cases(GOOD, 3)]
    assert [r.meta["kind"] for r in made] == ["truncated", "shuffled", "swapped", "padded"] * 3
    assert sum(bool(r.meta["own"]) for r in made) == 3
    assert truncated("a b c d e", "", Random(0)) == "a b c"
    assert truncated("no", "", Random(0)) == shuffled("One. Two.", "", Random(0)) == ""


def test_the_intervals_and_the_correlation_by_hand() -> None:
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-3)  # Newcombe, Stat. Med. 17, 1998, table I
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-3)
    assert correlation([(1, 10), (2, 20), (3, 30)]) == pytest.approx(1.0)
    assert correlation([(1, 3), (2, 2), (3, 1)]) == pytest.approx(-1.0)
    assert correlation([(1, 1), (1, 2), (2, 3)]) == pytest.approx(0.8660, abs=1e-4)
    assert correlation([(1, 1), (1, 2)]) == 0.0


def test_bounds_are_changed_by_name() -> None:
    assert parse_bounds(["planted=0.9"]) == Bounds(planted=0.9)
    for wrong in ("planted", "planted=high", "place=1"):
        with pytest.raises(ConfigError):
            parse_bounds([wrong])
    with pytest.raises(ConfigError):
        judge_check(Path("nowhere"), Fake(), [Record(prompt=user("Hi"))])


def test_the_card_says_which_judge_passed(tmp_path: Path) -> None:
    checked = tmp_path / "check"
    check(checked, judge(sound))
    recipe = Recipe(Each(GOOD), [Stage(Pass(), [Judge(min=2)])])

    def card(name: str, *checks: Path) -> str:
        teachers = {"teacher": judge(sound, name=name)}
        assert (
            execute(
                Recipe(recipe.source, recipe.stages, judge_checks=checks),
                tmp_path / f"{name}{len(checks)}",
                teachers,
                log=Log(quiet=True),
            ).exit_code
            == 0
        )
        return (tmp_path / f"{name}{len(checks)}" / "dataset" / "README.md").read_text()

    assert "`judge`: **not checked**" in card("judge")
    assert "`judge`: passed its check" in card("judge", checked)
    assert "`other`: **not checked**" in card("other", checked / "judge_check.json")
    check(tmp_path / "bad", judge(sound, place=True, name="bad"))
    assert "`bad`: **did not pass its check** (planted, turned, first_place)" in card("bad", tmp_path / "bad")


def test_a_file_that_is_no_check_is_refused_before_any_call(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"judge": 1}'):
        (tmp_path / "c.json").write_text(text)
        with pytest.raises(ConfigError, match="judge-check"):
            read_check(tmp_path / "c.json")
    with pytest.raises(ConfigError, match="no check of a judge"):
        read_check(tmp_path / "none")


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["judge-check", "--judge", "fake", "--planted", "2", "--out", str(tmp_path / "c"), "--quiet"]) == 1
    printed = capsys.readouterr().out
    assert "planted.swapped" in printed and "fake: not passed" in printed
    run = ["run", "respond", "--seeds", str(_seeds(tmp_path)), "--teacher", "fake", "--quiet"]
    assert main([*run, "--judge-check", str(tmp_path / "c"), "--out", str(tmp_path / "r")]) == 0
    assert main([*run, "--judge-check", str(tmp_path / "no"), "--out", str(tmp_path / "r2")]) == 2
    assert "no check of a judge" in capsys.readouterr().err


def _seeds(folder: Path) -> Path:
    path = folder / "seeds.jsonl"
    path.write_text('{"prompt": "Name a river."}\n{"prompt": "Name a bird."}\n')
    return path
