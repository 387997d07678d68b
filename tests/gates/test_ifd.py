"""IFD: the two ratios by hand, what is dropped, and a real model's own numbers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from math import exp
from pathlib import Path

import pytest
from scripted import Scripted, in_turn

from kdaug.calls import Calls
from kdaug.errors import ConfigError
from kdaug.gates.ifd import Ifd, scores
from kdaug.record import Drop, Message, Record, assistant, system, user
from kdaug.scope import Scope
from kdaug.teachers.local import Local

RECORD = Record(
    prompt=(*system("Be brief."), *user("What is the capital of Italy?")),
    completion=assistant("The capital of Italy is Rome."),
)


def test_by_hand() -> None:
    """methods.md: losses 1.2 and 1.5 are 0.8, and e^-0.3 = 0.7408182207 as perplexities; 1 where they are equal."""
    assert scores(1.2, 1.5) == pytest.approx({"ifd_loss": 0.8, "ifd_ppl": 0.7408182207}, abs=1e-6)
    assert scores(1.5, 1.5) == {"ifd_loss": 1.0, "ifd_ppl": 1.0}


def judged(gate: Ifd, given: Sequence[float], alone: Sequence[float]) -> tuple[dict[str, float], Drop | None]:
    def view(prompt: Sequence[Message], completion: Sequence[Message]) -> Sequence[float]:
        assert prompt[0] == Message("system", "Be brief.") and completion == RECORD.completion
        return given if prompt[-1].content else alone

    prepared = asyncio.run(gate.prepare(RECORD, Scripted(in_turn(), view=view)))
    return dict(prepared.record.scores), gate.decide(prepared)


def test_means_over_tokens_not_sums() -> None:
    found, drop = judged(Ifd(), [-1.0, -1.4], [-1.0, -2.0])
    assert found == pytest.approx({"ifd_loss": 0.8, "ifd_ppl": exp(-0.3)}, abs=1e-6) and drop is None


def test_an_answer_that_its_request_hinders_is_dropped_and_one_at_the_bound_is_kept() -> None:
    _, drop = judged(Ifd(), [-1.5], [-1.2])
    assert drop == Drop("ifd:above", {"score": 1.25, "max": 1.0, "by": "loss"})
    assert judged(Ifd(), [-1.5], [-1.5])[1] is None
    assert judged(Ifd(max=None), [-1.5], [-1.2])[1] is None


def test_the_ratios_order_differently_so_the_bound_says_of_which() -> None:
    assert judged(Ifd(min=0.75, by="loss"), [-1.2], [-1.5])[1] is None
    _, drop = judged(Ifd(min=0.75, by="ppl"), [-1.2], [-1.5])
    assert drop is not None and drop.reason == "ifd:low"


@pytest.mark.parametrize(("given", "alone"), [([0.0], [0.0]), ([float("-inf")], [-1.0]), ([float("nan")], [-1.0])])
def test_a_likelihood_of_nothing_or_all_is_undefined(given: list[float], alone: list[float]) -> None:
    found, drop = judged(Ifd(), given, alone)
    assert found == {} and drop is not None and drop.reason == "ifd:undefined"


def test_no_answer_no_score() -> None:
    prepared = asyncio.run(Ifd().prepare(Record(prompt=user("Hi")), Scripted(in_turn())))
    assert Ifd().decide(prepared) == Drop("ifd:no_answer")


def test_fields_are_checked_and_the_role_is_its_own() -> None:
    with pytest.raises(ConfigError):
        Ifd(min=2)
    assert Ifd(role="scorer").roles == ("scorer",)


@pytest.mark.slow
def test_a_real_model_gives_what_transformers_computes(tmp_path: Path) -> None:
    import torch

    teacher = Local(dtype="float32")
    asked = Record(prompt=user("What is the capital of Italy?"), completion=RECORD.completion)
    losses = []

    async def score() -> Record:
        calls = Calls({"student": teacher}, None, tmp_path, asyncio.Event())
        prepared = await Ifd().prepare(asked, Scope(calls, 0, 0, {}))
        loaded = teacher._ready()
        for question in ("What is the capital of Italy?", ""):
            turns = [{"role": "user", "content": question}]
            before = loaded.chat.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            start = len(loaded.chat.tokenizer(before, add_special_tokens=False)["input_ids"])
            whole = f"{before}The capital of Italy is Rome.<|im_end|>"
            ids = torch.tensor([loaded.chat.tokenizer(whole, add_special_tokens=False)["input_ids"]])
            labels = ids.clone()
            labels[:, :start] = -100
            with torch.inference_mode():
                losses.append(float(loaded.model(ids, labels=labels).loss))
        await calls.aclose()
        return prepared.record

    record = asyncio.run(score())
    assert record.scores == pytest.approx(scores(*losses), abs=1e-4)
    assert record.scores["ifd_loss"] < 0.7  # the question helps
