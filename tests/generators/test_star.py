"""STaR: reasoning that ends in the right answer, a second try with a hint that is in no record."""

from __future__ import annotations

import asyncio
import math
import re
from random import Random
from typing import Any

import pytest
from scripted import Scripted, in_turn

from kdaug.errors import RateLimited
from kdaug.generators.star import STaR
from kdaug.record import Discarded, Record, assistant, system, text_of, user
from kdaug.teacher import Completion

SUM = Record(prompt=(*system("Be brief."), *user("What is 5 + 5?")), completion=assistant("5 + 5 = 10\n#### 10"))
BIRD = Record(prompt=user("Which is a bird: (a) a cat, (b) a crow?"), completion=assistant("Answer: B"))


def run(record: Record, *answers: Any, **fields: Any) -> tuple[list[Record], list[Discarded], Scripted]:
    generate = Scripted(in_turn(*answers))
    made = asyncio.run(STaR(**fields)([record], generate, Random(0)))
    return [m for m in made if isinstance(m, Record)], [m for m in made if isinstance(m, Discarded)], generate


def test_a_right_answer_is_kept_and_never_rationalised() -> None:
    (kept,), discarded, generate = run(SUM, "Five and five.\nAnswer: **10.**")
    assert kept.prompt == SUM.prompt and kept.by == "star/reason" and kept.kind == "completion" and not discarded
    assert text_of(kept.completion) == "Five and five.\nAnswer: **10.**"
    (call,) = generate.calls
    assert call.role == "student" and call.messages[0] == SUM.prompt[0]
    assert call.sampling == {"temperature": 0.01, "top_p": 0.9, "max_tokens": 512}
    assert [m.role for m in call.messages[1:]] == ["user", "assistant"] * 4 + ["user"]


def test_a_failure_is_rationalised_with_a_hint_that_is_nowhere_stored() -> None:
    (kept,), (failed,), generate = run(SUM, "Answer: 11", "I count ten fingers.\nAnswer: 10")
    assert kept.by == "star/rationalise" and kept.prompt == SUM.prompt
    assert failed.drop.reason == "star:wrong" and failed.drop.detail["answer"] == "11"
    plain, hinted = (call.messages[-1].content for call in generate.calls)
    assert "[10]" in hinted and "10" not in plain
    assert all("[" in m.content for m in generate.calls[1].messages if m.role == "user")  # the examples as well
    assert "[10]" not in text_of(kept.prompt) and "[10]" not in text_of(kept.completion)
    assert failed.record.prompt == SUM.prompt


@pytest.mark.parametrize(
    "reply", ["As the hint says, it is ten.\nAnswer: 10", "The correct answer is given: ten.\nAnswer: 10"]
)
def test_a_rationale_that_speaks_of_its_hint_is_dropped(reply: str) -> None:
    kept, discarded, _ = run(SUM, "Answer: 11", reply)
    assert not kept and [d.drop.reason for d in discarded] == ["star:hint", "star:wrong"]


def test_a_rationale_that_copies_a_worked_example_is_dropped() -> None:
    kept, (copied,), _ = run(SUM, "After the gift she has 14 - 5 = 9 stamps.\nAnswer: 10", rationalise=False)
    assert not kept and copied.drop.reason == "star:leak" and copied.drop.detail["source"] == "example 1"


def test_what_is_wrong_twice_is_two_drops() -> None:
    kept, discarded, _ = run(SUM, "Answer: 11", Completion("Answer: 1", finish_reason="length"))
    assert not kept and [d.drop.reason for d in discarded] == ["star:cut", "star:wrong"]


def test_without_rationalisation_one_call_is_all() -> None:
    kept, discarded, generate = run(SUM, "Answer: 11", rationalise=False)
    assert not kept and len(discarded) == 1 and len(generate.calls) == 1


def test_an_option_counts_in_either_case() -> None:
    (kept,), _, _ = run(BIRD, "Crows fly.\nAnswer: (b)")
    assert text_of(kept.completion).startswith("Crows")


def test_without_a_reference_nobody_is_asked() -> None:
    kept, (lost,), generate = run(Record(prompt=user("Why?")))
    assert not kept and lost.drop.reason == "star:no_reference" and not generate.calls


def test_a_teachers_failure_is_the_engines() -> None:
    with pytest.raises(RateLimited):
        run(SUM, RateLimited("slow down"))


def test_the_toy_world_keeps_what_probability_says() -> None:
    """1,000 tasks, right with p = 0.3, rationalised with p = 0.5: 300 and 350, within five standard deviations."""
    rng, kept = Random(3), {"star/reason": 0, "star/rationalise": 0}

    def student(role: str, prompt: str, sampling: dict[str, Any]) -> str:
        task = prompt.rpartition("What is")[2]
        a, b, hint = re.findall(r"(\d+) \+ (\d+)\?( \[)?", task)[0]
        right = rng.random() < (0.5 if hint else 0.3)
        return f"Adding up.\nAnswer: {int(a) + int(b) + (not right)}"

    async def world() -> None:
        for n in range(1000):
            record = Record(prompt=user(f"What is {n} + 5?"), completion=assistant(str(n + 5)))
            for made in await STaR()([record], Scripted(student), Random(0)):
                if isinstance(made, Record):
                    kept[made.by] += 1
                    assert made.prompt == record.prompt

    asyncio.run(world())
    assert abs(kept["star/reason"] - 300) < 5 * math.sqrt(1000 * 0.3 * 0.7)
    assert abs(kept["star/rationalise"] - 350) < 5 * math.sqrt(700 * 0.5 * 0.5) + 5 * math.sqrt(210) * 0.5
