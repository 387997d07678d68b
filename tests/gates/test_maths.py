"""Answers as mathematics: equal in value, not in letters; what hangs is ended."""

from __future__ import annotations

import asyncio

import pytest
from scripted import Scripted, in_turn

from kdaug import equality
from kdaug.gates.maths import Maths
from kdaug.record import Json, Record, assistant, user
from kdaug.worker import Worker


def reason(answer: str, reference: Json) -> str | None:
    record = Record(prompt=user("?"), completion=assistant(answer), meta={"reference": reference})
    drop = Maths().decide(asyncio.run(Maths().prepare(record, Scripted(in_turn()))))
    return drop.reason if drop else None


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("So \\boxed{\\frac{1}{2}}.", "0.5", None),
        ("The answer is 1+x", "x+1", None),
        ("Thus $\\boxed{2\\sqrt{2}}$", "\\sqrt{8}", None),
        ("\\boxed{\\{2, 1\\}}", "\\boxed{\\{1, 2\\}}", None),
        ("It is 72 clips.", 72, None),
        ("Answer: 1,000.0", "We get #### 1000", None),
        ("\\boxed{x=5}", "5", None),
        ("#### 1e3", "1000", None),
        ("#### 1.5 \\times 10^{-3}", "1.5e-3", None),
        ("\\boxed{1\\frac{1}{2}}", "1.5", None),
        ("Answer: 50%", "0.5", None),
        ("Answer: 0.5", "50\\%", None),
        ("Answer: 50%", "50", None),
        ("\\boxed{10^{-5}}", 0.00001, None),
        ("#### 0.1", "0.10000001", "maths:wrong"),
        ("#### 0.1", 0.10000001, "maths:wrong"),
        ("Answer: 0.333333", "1/3", "maths:wrong"),
        ("#### 1e3", "1", "maths:wrong"),
        ("\\boxed{2\\sqrt{2}}", "2", "maths:wrong"),
        ("\\boxed{2\\pi}", "2", "maths:wrong"),
        ("\\boxed{x + 2}", "2", "maths:wrong"),
        ("\\boxed{1\\frac{1}{2}}", "5.5", "maths:wrong"),
        ("#### " + "1" * 5000, "12", "maths:wrong"),
        ("Answer: 21", "12", "maths:wrong"),
        ("\\boxed{x-1}", "1+x", "maths:wrong"),
        ("I do not know.", "12", "maths:wrong"),
        ("", "12", "maths:wrong"),
        ("Answer: \\frac{", "12", "maths:wrong"),
        ("x" * 100_000, "12", "maths:wrong"),
        ("The answer is not 5.", "5", "maths:denied"),
        ("The answer isn't 5.", "5", "maths:denied"),
        ("The answer is not exactly **5**", 5, "maths:denied"),
        ("It cannot be $\\boxed{5}$.", "5", "maths:denied"),
        ("It is not \\boxed{x+1}", "1+x", "maths:denied"),
        ("The answer is not 5 but 7.", "7", None),
        ("I'm not sure.\n#### 5", "5", None),
        ("I do not know, but I think\nthe answer is 5", "5", None),
        ("It is not hard to see that the answer is 5.", "5", None),
        ("Answer: 12", None, "maths:no_reference"),
        ("Answer: 1", True, "maths:no_reference"),
    ],
)
def test_equal_in_value(answer: str, reference: Json, expected: str | None) -> None:
    assert reason(answer, reference) == expected


def test_what_hangs_is_ended_and_the_next_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equality, "_worker", Worker("kdaug.equality", cpu=2, memory=4096))
    assert reason("\\boxed{10^{10^{10}}}", "\\boxed{3^{10^{11}}}") in ("maths:timeout", "maths:wrong")
    assert reason("\\boxed{\\frac{2}{4}}", "0.5") is None
