"""Self-knowledge: the student's best against its worst, or what its reference answer proves right."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any

import pytest
from scripted import Scripted

from kdaug.errors import BudgetExceeded, ConfigError, RateLimited, TeacherUnavailable
from kdaug.generators.self_knowledge import SelfKnowledge
from kdaug.record import Discarded, Record, assistant, system, text_of, user
from kdaug.teacher import Completion

PROMPT = Record(prompt=user("Name a river."))
SUM = Record(prompt=(*system("Be brief."), *user("What is 5 + 5?")), completion=assistant("5 + 5 = 10\n#### 10"))


class Student:
    """Answers with `samples` in turn and judges each text by its own list of replies, in turn."""

    def __init__(self, samples: Sequence[Any], judgements: Mapping[str, Sequence[Any]] | None = None) -> None:
        self.samples = iter(samples)
        self.judgements: dict[str, Iterator[Any]] = {text: iter(said) for text, said in (judgements or {}).items()}

    def __call__(self, role: str, prompt: str, sampling: dict[str, Any]) -> Any:
        assert role == "student"
        judged = re.findall(r"\nAnswer:\n(.*?)\n\nFirst say", prompt, re.DOTALL)  # after the examples: the sample
        return next(self.judgements[judged[-1]] if judged else self.samples)


def rate(*marks: float | None) -> list[str]:
    return ["I cannot say." if mark is None else f"Because.\nScore: {mark}" for mark in marks]


def run(student: Student, record: Record = PROMPT, **fields: Any) -> tuple[list[Record], list[Discarded], Scripted]:
    generate = Scripted(student)
    made = asyncio.run(SelfKnowledge(**fields)([record], generate, Random(0)))
    kept = [m for m in made if isinstance(m, Record)]
    return kept, [m for m in made if isinstance(m, Discarded)], generate


def reasons(discarded: Sequence[Discarded]) -> list[str]:
    return [d.drop.reason for d in discarded]


def by_marks(*marks: float, **fields: Any) -> tuple[list[Record], list[Discarded], Scripted]:
    texts = [f"River {n}" for n in range(len(marks))]
    said = {text: [f"Score: {mark:g}"] for text, mark in zip(texts, marks, strict=True)}
    return run(Student(texts, said), samples=len(marks), judgements=1, **fields)


def test_best_against_worst_and_the_first_of_equal_ones() -> None:
    (pair,), discarded, generate = by_marks(2, 4, 4, 1)
    assert pair.kind == "preference" and pair.prompt == PROMPT.prompt and not discarded
    assert (text_of(pair.completion), text_of(pair.rejected)) == ("River 1", "River 3")
    assert pair.scores == {"self_judge": 4.0, "margin": 3.0}
    assert pair.replies == ("job/1", "job/3") and pair.teachers == ("scripted-student",)
    sampling = {"temperature": 0.7, "top_p": 0.9, "max_tokens": 1024}
    assert [call.sampling for call in generate.calls] == [sampling] * 8


def test_equal_marks_make_no_pair() -> None:
    kept, (tie,), _ = by_marks(3, 3, 3, 3)
    assert not kept and tie.drop.reason == "self_rewarding:tie" and tie.drop.detail == {"scores": [3.0] * 4}


def test_a_mark_is_the_mean_of_the_judgements_that_succeeded() -> None:
    """One failure of three uses two: (4, none, 5) is 4.5."""
    student = Student(["Rhine", "Alps"], {"Rhine": rate(4, None, 5), "Alps": [*rate(1, 2), RateLimited("slow down")]})
    (pair,), discarded, _ = run(student, samples=2)
    assert pair.scores == {"self_judge": 4.5, "margin": 3.0} and not discarded


def test_a_sample_that_nobody_could_mark_has_no_score() -> None:
    student = Student(
        ["Rhine", "Alps", "Elbe"], {"Rhine": rate(4, 4, 4), "Alps": rate(None, None, 6), "Elbe": rate(3, 3, 3)}
    )
    (pair,), (unscored,), _ = run(student, samples=3)
    assert text_of(pair.rejected) == "Elbe" and all(math.isfinite(score) for score in pair.scores.values())
    assert text_of(unscored.record.completion) == "Alps"
    assert unscored.drop.reason == "self_rewarding:unscored"
    assert unscored.drop.detail == {"failures": ["parse:score"] * 3}


def test_one_marked_sample_is_no_pair() -> None:
    student = Student(["Rhine", "Alps"], {"Rhine": rate(4, 4, 4), "Alps": rate(None, None, None)})
    kept, discarded, _ = run(student, samples=2)
    assert not kept and reasons(discarded) == ["self_rewarding:unscored", "self_rewarding:single"]


def test_what_is_cut_empty_or_the_same_again_is_not_judged() -> None:
    samples = ["Rhine", Completion("The Dan", finish_reason="length"), " ", "Rhine\n", "Alps"]
    (pair,), discarded, generate = run(Student(samples, {"Rhine": rate(5, 5, 5), "Alps": rate(0, 0, 0)}), samples=5)
    assert (text_of(pair.completion), text_of(pair.rejected)) == ("Rhine", "Alps")
    assert reasons(discarded) == ["self_rewarding:cut", "self_rewarding:empty", "self_rewarding:duplicate"]
    assert len(generate.calls) == 5 + 2 * 3


def test_identical_samples_make_no_pair() -> None:
    kept, discarded, _ = run(Student(["Rhine"] * 4, {"Rhine": rate(5, 4, 3)}))
    assert not kept and reasons(discarded) == ["self_rewarding:single", *["self_rewarding:duplicate"] * 3]


def test_one_failed_sample_is_its_own_loss() -> None:
    student = Student(["Rhine", RateLimited("slow down"), "Alps"], {"Rhine": rate(5), "Alps": rate(1)})
    (pair,), discarded, _ = run(student, samples=3, judgements=1)
    assert pair.scores["margin"] == 4.0 and reasons(discarded) == ["teacher:rate_limited"]


def test_when_every_call_fails_or_nobody_is_to_blame_the_engine_hears_of_it() -> None:
    with pytest.raises(RateLimited):
        run(Student([RateLimited("slow down")] * 4))
    with pytest.raises(RateLimited):
        run(Student(["a", "b"], {text: [RateLimited("slow down")] * 3 for text in "ab"}), samples=2)
    for error in (TeacherUnavailable("nobody there"), BudgetExceeded("a cap", "max_cost")):
        with pytest.raises(type(error)):
            run(Student(["a", error, "b", "c"]))


def test_verify_keeps_what_ends_in_the_reference_answer() -> None:
    samples = ["It is 5 and 5.\nAnswer: 10", "Answer: 11", "I count: 10.", "Answer: 10.0", "Answer: 10.0"]
    kept, discarded, generate = run(Student(samples), SUM, mode="verify", samples=5)
    assert [text_of(r.completion) for r in kept] == ["It is 5 and 5.\nAnswer: 10", "I count: 10.", "Answer: 10.0"]
    assert reasons(discarded) == ["rest_em:wrong", "rest_em:duplicate"]
    assert discarded[0].drop.detail == {"answer": "11", "reference": "10"}
    assert all(r.prompt == SUM.prompt and r.kind == "completion" and r.parents == (SUM.id,) for r in kept)
    assert all(call.messages[0] == SUM.prompt[0] for call in generate.calls)


def test_neither_hint_nor_form_stays_in_a_verified_prompt() -> None:
    (kept,), _, generate = run(Student(["Answer: 10"]), SUM, mode="verify", samples=1)
    asked = generate.calls[0].messages[-1].content
    assert asked.startswith("What is 5 + 5?") and "Think step by step" in asked and "10" not in asked
    assert text_of(kept.prompt[-1:]) == "What is 5 + 5?"


def test_an_easy_prompt_gives_at_most_max_kept() -> None:
    samples = [f"{'So ' * n}Answer: 10" for n in range(6)]
    kept, discarded, _ = run(Student(samples), SUM, mode="verify", samples=6, max_kept=2)
    assert len(kept) == 2 and reasons(discarded) == ["rest_em:surplus"] * 4


def test_the_share_that_verifies_is_the_students_accuracy() -> None:
    """A student that is right with p = 0.3: of 1,000 samples 300 are kept, within five standard deviations."""
    rng = Random(1)
    samples = [f"Try {n}. Answer: {10 if rng.random() < 0.3 else 9}" for n in range(1000)]
    kept, discarded, _ = run(Student(samples), SUM, mode="verify", samples=1000, max_kept=1000)
    assert abs(len(kept) - 300) < 5 * math.sqrt(1000 * 0.3 * 0.7)
    assert len(kept) + len(discarded) == 1000


def test_verify_without_a_reference_asks_nobody() -> None:
    kept, discarded, generate = run(Student([]), PROMPT, mode="verify")
    assert not kept and reasons(discarded) == ["rest_em:no_reference"] and not generate.calls


@pytest.mark.parametrize(
    "fields", [{"mode": "guess"}, {"samples": 1}, {"judgements": 0}, {"mode": "verify", "max_kept": 0}]
)
def test_settings_that_can_make_nothing_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        SelfKnowledge(**fields)
