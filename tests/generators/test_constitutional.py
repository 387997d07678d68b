"""Constitutional AI: four revisions are four rows by principles that are drawn, and soft labels in both orders."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import count
from math import exp
from random import Random
from typing import Any

import pytest
from scripted import Scripted, in_turn

from kdaug.errors import ConfigError
from kdaug.generators.constitutional import Constitutional, halves
from kdaug.generators.rlaif import Rlaif, clamped
from kdaug.judging import rescaled
from kdaug.prompts import listed
from kdaug.record import Discarded, Record, assistant, text_of, user
from kdaug.teacher import Completion

ASKED = Record(prompt=user("How do I open a lock without its key?"))


def revising(*answers: Any, seed: int = 0, **fields: Any) -> tuple[list[Any], Scripted]:
    generate = Scripted(in_turn(*answers))
    return list(asyncio.run(Constitutional(**fields)([ASKED], generate, Random(seed)))), generate


def test_four_revisions_are_four_rows_of_the_plain_prompt() -> None:
    replies = ["Take a pick.", *(text for n in range(4) for text in (f"Critique {n}.", f"Call a locksmith, way {n}."))]
    made, generate = revising(*replies)
    assert [text_of(m.completion) for m in made] == [f"Call a locksmith, way {n}." for n in range(4)]
    assert all(m.prompt == ASKED.prompt for m in made) and len(generate.calls) == 9
    assert "Call a locksmith, way 0." in generate.prompts[3] and "Critique 1." in generate.prompts[4]
    assert [len(m.replies) for m in made] == [3, 5, 7, 9]


def test_the_draw_of_principles_is_reproducible_and_even() -> None:
    found: Counter[str] = Counter()
    for seed in range(100):
        numbers = count()
        generate = Scripted(lambda role, prompt, sampling, numbers=numbers: f"Way {next(numbers)}.")  # type: ignore[misc]
        made = asyncio.run(Constitutional()([ASKED], generate, Random(seed)))
        found.update(m.by for m in made if isinstance(m, Record))
    assert len(found) == 16 and sum(found.values()) == 400
    assert sum((n - 25) ** 2 / 25 for n in found.values()) < 37.7  # chi-squared, 15 degrees of freedom, 0.1 %
    replies = ["Take a pick.", "Bad.", "Call somebody."]
    assert revising(*replies, rounds=1)[0][0].by == revising(*replies, rounds=1)[0][0].by


@pytest.mark.parametrize(
    ("revised", "reason"),
    [
        ("Take a pick.", "constitutional:duplicate"),
        ("As the critique says, call somebody.", "constitutional:meta"),
        ("I say where the answer encourages or enables something illegal.", "constitutional:leak"),
    ],
)
def test_a_revision_that_is_turned_down_ends_nothing(revised: str, reason: str) -> None:
    made, _ = revising("Take a pick.", "Bad.", revised, "Still bad.", "Call a locksmith.", rounds=2)
    assert isinstance(made[0], Discarded) and made[0].drop.reason == reason
    assert isinstance(made[1], Record)


def test_a_part_that_is_missing_ends_the_rounds() -> None:
    made, _ = revising("Take a pick.", "Bad.", "Call me.", " ")
    assert isinstance(made[0], Record) and made[1].drop.reason == "constitutional:empty"
    made, _ = revising(Completion("Take", finish_reason="length"))
    assert made[0].drop.reason == "constitutional:cut"


def test_principles_are_sixteen_and_well_formed() -> None:
    assert len([halves(*line) for line in listed("constitutional/principles")]) == 16
    assert len(listed("rlaif/principles")) == 16
    with pytest.raises(ConfigError, match="expected `name"):
        halves("x", "no second half")
    with pytest.raises(ConfigError):
        Constitutional(rounds=0)


def weighed(a: float, b: float) -> Completion:
    """A judge's reply whose log-probabilities of A and B are these."""
    there, other = exp(a), exp(b)
    whole = there + other
    return Completion("A" if a > b else "B", weights={"A": there / whole, "B": other / whole})


def labelled(*judgements: Any, record: Record = ASKED, **fields: Any) -> tuple[Any, Scripted]:
    students, judges = iter(["Ask a locksmith.", "Break it."]), iter(judgements)

    def reply(role: str, prompt: str, sampling: dict[str, Any]) -> Any:
        return next(students if role == "student" else judges)

    generate = Scripted(reply)
    (made,) = asyncio.run(Rlaif(**fields)([record], generate, Random(0)))
    return made, generate


def test_the_label_is_the_softmax_of_the_two_log_probabilities() -> None:
    made, generate = labelled(weighed(-0.2, -1.2), both_orders=False)
    assert made.scores == {"preference": pytest.approx(0.7310585786)}
    assert text_of(made.completion) == "Ask a locksmith." and text_of(made.rejected) == "Break it."
    assert generate.calls[2].sampling["weigh"] == ("A", "B") and made.prompt == ASKED.prompt
    assert made.by.startswith("rlaif/") and dict(listed("rlaif/principles"))[made.by[6:]] in generate.prompts[2]


def test_a_judge_that_likes_the_first_place_makes_a_tie() -> None:
    made, _ = labelled(weighed(-0.2, -1.2), weighed(-0.2, -1.2))
    assert isinstance(made, Discarded) and made.drop.reason == "rlaif:tie"


def test_both_orders_are_averaged_and_the_better_one_is_chosen() -> None:
    made, generate = labelled(weighed(0.0, 0.0), weighed(-0.2, -1.2))
    assert text_of(made.completion) == "Break it."
    assert made.scores["preference"] == pytest.approx(1 - (0.5 + 0.2689414214) / 2)
    assert generate.prompts[2].index("Ask a locksmith.") < generate.prompts[2].index("Break it.")
    assert generate.prompts[3].index("Break it.") < generate.prompts[3].index("Ask a locksmith.")


def test_labels_after_thoughts_are_clamped_and_others_are_not() -> None:
    made, generate = labelled("Hm, one.", weighed(-0.2, -1.2), thoughts=True, both_orders=False)
    assert made.scores["preference"] == 0.6 and "Hm, one." in generate.prompts[3]
    made, _ = labelled("Hm.", "Hm.", weighed(-1.2, -0.2), weighed(-0.2, -1.2), thoughts=True)
    assert made.scores["preference"] == 0.6 and text_of(made.completion) == "Break it."
    assert [clamped(p, 0.6) for p in (0.1, 0.5, 0.59, 0.9)] == [0.4, 0.5, 0.59, 0.6]


def test_a_preference_is_labelled_anew() -> None:
    pair = Record(prompt=ASKED.prompt, completion=assistant("Break it."), rejected=assistant("Ask a locksmith."))
    made, generate = labelled(weighed(-1.2, -0.2), weighed(-0.2, -1.2), record=pair)
    assert text_of(made.completion) == "Ask a locksmith." and len(generate.calls) == 2
    assert len(made.replies) == 2


def test_a_judge_that_tells_no_probabilities_is_none() -> None:
    made, _ = labelled("A", both_orders=False)
    assert isinstance(made, Discarded) and made.drop.reason == "parse:weights"


def test_a_student_that_says_one_thing_twice() -> None:
    generate = Scripted(in_turn("Break it.", "Break  it."))
    made = asyncio.run(Rlaif()([ASKED], generate, Random(0)))
    assert [m.drop.reason for m in made if isinstance(m, Discarded)] == ["rlaif:duplicate", "rlaif:single"]


def test_direct_marks_are_rescaled() -> None:
    assert [rescaled(score, 1, 10) for score in (5.5, 10, 1)] == [0, 1, -1]


def test_a_clamp_below_a_half_is_refused() -> None:
    with pytest.raises(ConfigError, match="clamp"):
        Rlaif(clamp=0.4)
