"""UltraFeedback: answers side by side in shuffled order, strict ratings, N/A, pairs, and principles by source."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from itertools import count
from math import isnan
from random import Random
from typing import Any

import pytest
from scripted import Scripted

from kdaug.errors import ConfigError, ParseError
from kdaug.generators.ultrafeedback import UltraFeedback, draw, rating_form, read_ratings, summed, unshuffled
from kdaug.prompts import listed
from kdaug.record import Discarded, Record, text_of, user
from kdaug.structured import form_of
from kdaug.teacher import Completion

ASKED = Record(prompt=user("Name a river."), meta={"source": "evol_instruct"})
WORTH = {"answer 0": 2, "answer 1": 5, "answer 2": 3, "answer 3": 1}


def ratings(*marks: Any) -> str:
    return json.dumps({"ratings": [{"rationale": "because", "rating": mark} for mark in marks]})


def run(judge: Any = None, seed: int = 0, record: Record = ASKED, **fields: Any) -> Any:
    """Four answers; the judge rates each by its worth, in whatever order it is shown them."""
    numbers = count()

    def reply(role: str, prompt: str, sampling: dict[str, Any]) -> Any:
        if role != "judge":
            return f"answer {next(numbers)}"
        if judge is not None and (said := judge(prompt)) is not None:
            return said
        if "schema" not in sampling:
            return f"Do better.\nScore: {2 * WORTH[prompt.partition('Answer:')[2].split(chr(10))[1]]}"
        shown = [line for line in prompt.splitlines() if line in WORTH]
        assert len(shown) == 4
        return ratings(*(WORTH[one] for one in shown))

    generate = Scripted(reply)
    made = asyncio.run(UltraFeedback(**fields)([record], generate, Random(seed)))
    return [m for m in made if isinstance(m, Record)], [m for m in made if isinstance(m, Discarded)], generate


def test_ratings_find_their_answers_again_whatever_the_order() -> None:
    orders = set()
    for seed in range(20):
        kept, _, generate = run(seed=seed, keep="ranked")
        assert {text_of(r.completion): r.scores["ultrafeedback"] for r in kept} == WORTH
        rated = [call for call in generate.calls if "schema" in call.sampling]
        assert len(rated) == 4  # one prompt an aspect, all answers in it
        for call in rated:
            orders.add(tuple(line for line in call.prompt.splitlines() if line in WORTH))
            assert (call.sampling["temperature"], call.sampling["top_p"]) == (0.0, 0.6)
    assert len(orders) > 12
    assert kept[0].scores.keys() == {*dict(listed("ultrafeedback/aspects")), "ultrafeedback", "overall"}
    assert kept[0].prompt == ASKED.prompt


def test_inverse_of_a_permutation() -> None:
    order = (2, 0, 3, 1)
    answers = ["a", "b", "c", "d"]
    worth = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}
    assert unshuffled([worth[answers[place]] for place in order], order) == [1.0, 2.0, 3.0, 4.0]


def test_the_best_and_a_random_lower_one() -> None:
    rejected = set()
    for seed in range(30):
        (pair,), _, _ = run(seed=seed)
        assert text_of(pair.completion) == "answer 1" and pair.scores["ultrafeedback"] == 5.0
        rejected.add(text_of(pair.rejected))
    assert rejected == {"answer 0", "answer 2", "answer 3"}
    assert len(run(how="all")[0]) == 6
    (pair,), _, _ = run(score_by="overall", how="best_worst")
    assert pair.scores == {"overall": 10.0, "margin": 8.0}


def test_ties_are_no_pairs() -> None:
    kept, turned_down, _ = run(judge=lambda prompt: None if "Score: n" in prompt else ratings(3, 3, 3, 3))
    assert not kept and [d.drop.reason for d in turned_down] == ["ultrafeedback:tie"]


FORM = form_of({"json": rating_form(4, may_not_apply=True)})


@pytest.mark.parametrize(
    ("text", "fit"),
    [
        (ratings(1, 2, 3, 4), "valid"),
        ("Sure:\n```json\n" + ratings(1, 2, 3, "N/A") + "\n```", "repaired"),
        (ratings(1, 2, 3), "wrong"),  # three blocks
        (ratings(1, 2, 3, 4, 5), "wrong"),  # five
        (ratings(1, 2, 3, 10), "wrong"),
        (ratings(1, 2, 3, "4/5"), "wrong"),
        (ratings(1, 2, 3, 4.5), "wrong"),
    ],
)
def test_the_form_of_ratings_is_strict(text: str, fit: str) -> None:
    assert asyncio.run(FORM.read(Completion(text))).fit == fit


def test_what_does_not_apply_is_no_number_and_only_honesty_may_not_apply() -> None:
    told = read_ratings(Completion(ratings(1, "N/A", 3, 4)), 4)
    assert isnan(told[1]) and summed({"honesty": told[1], "helpfulness": 4.0}, None) == {
        "helpfulness": 4.0,
        "ultrafeedback": 4.0,
    }
    plain = form_of({"json": rating_form(4, may_not_apply=False)})
    assert asyncio.run(plain.read(Completion(ratings(1, "N/A", 3, 4)))).fit == "wrong"
    assert [name for name, text in listed("ultrafeedback/aspects") if "N/A" in text] == ["honesty"]


def test_a_rating_of_another_number_is_asked_for_again_and_then_given_up() -> None:
    left = iter([ratings(1, 2, 3)] * 2)
    kept, _, generate = run(judge=lambda prompt: next(left, None) if "Rate all" in prompt else None, tries=3)
    assert kept and sum("schema" in call.sampling for call in generate.calls) == 6
    with pytest.raises(ParseError, match="ratings"):
        run(judge=lambda prompt: ratings(1, 2, 3) if "Rate all" in prompt else None)


@pytest.mark.parametrize(("said", "mark"), [("Score: 10", 10.0), ("Score: 1", 1.0), ("Score: 1/10", 1.0)])
def test_one_is_not_ten(said: str, mark: float) -> None:
    kept, _, _ = run(judge=lambda prompt: said if "Score: n" in prompt else None, keep="ranked")
    assert {record.scores["overall"] for record in kept} == {mark}


def test_critiques_are_data_for_a_critic() -> None:
    kept, turned_down, _ = run(
        judge=lambda prompt: "Fine." if "Score: n" in prompt and "answer 0" in prompt else None, keep="critiques"
    )
    assert [record.scores["overall"] for record in kept] == [10.0, 6.0, 2.0]
    assert all("Name a river." in text_of(r.prompt) and text_of(r.completion).startswith("Do better.") for r in kept)
    assert [d.drop.reason for d in turned_down] == ["parse:score"]


def test_a_missing_critique_leaves_the_ratings() -> None:
    kept, _, _ = run(judge=lambda prompt: "Fine." if "Score: n" in prompt else None, keep="ranked")
    assert len(kept) == 4 and "overall" not in kept[0].scores


def test_principles_by_source() -> None:
    rng = Random(3)
    for source, wanted in {
        "truthful_qa": {"truthfulness": 0.5, "honesty": 0.45, "calibration": 0.05},
        "evol_instruct": {"helpfulness": 1.0},
        "sharegpt": {"helpfulness": 0.6, "truthfulness": 0.2, "honesty": 0.18, "calibration": 0.02},
        "flan": {"helpfulness": 0.8, "calibration": 0.2},
        "never heard of": {"helpfulness": 0.6, "truthfulness": 0.2, "honesty": 0.18, "calibration": 0.02},
    }.items():
        found = Counter(draw(source, rng) for _ in range(2000))
        assert found.keys() == wanted.keys()
        assert all(abs(found[name] / 2000 - share) < 0.05 for name, share in wanted.items())


def test_models_are_drawn_and_the_system_message_is_in_no_record() -> None:
    kept, _, generate = run(keep="ranked", models=("a", "b", "c", "d", "e"))
    asked = [call for call in generate.calls if call.role != "judge"]
    assert len({call.role for call in asked}) == 4
    assert all(call.messages[0].role == "system" and call.sampling["temperature"] == 1.0 for call in asked)
    assert all(record.prompt == ASKED.prompt for record in kept)
    _, _, generate = run(models=("a", "b"))
    assert Counter(call.role for call in generate.calls if call.role != "judge") == {"a": 2, "b": 2}


def test_an_answer_that_repeats_its_system_message_is_discarded() -> None:
    texts = iter(["You are a helpful assistant. Find out what the person needs and give all of it.", "So.", "Thus."])

    def reply(role: str, prompt: str, sampling: dict[str, Any]) -> Any:
        if role != "judge":
            return next(texts)
        return ratings(1, 2) if "schema" in sampling else "Score: 3"

    made = asyncio.run(UltraFeedback(answers=3)([ASKED], Scripted(reply), Random(0)))
    assert [m.drop.reason for m in made if isinstance(m, Discarded)] == ["ultrafeedback:leak"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"models": ()},
        {"answers": 1},
        {"tries": 0},
        {"keep": "all"},
        {"score_by": "length"},
        {"how": "worst"},
        {"min_margin": -1.0},
    ],
)
def test_what_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        UltraFeedback(**wrong)
