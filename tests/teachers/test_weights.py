"""The weights of words: of the right place, of 1 in all, and the same from each kind of teacher."""

from __future__ import annotations

import asyncio
from math import log
from pathlib import Path

import orjson
import pytest

from kdaug.journal import Journal
from kdaug.judging import expected
from kdaug.record import user
from kdaug.teacher import Completion, Request, Sampling
from kdaug.teachers.chat_api import read_completion
from kdaug.teachers.local import Local
from kdaug.teachers.weights import weights_of

SCALE = ("1", "2", "3", "4", "5", "6")


def token(said: str, *alternatives: tuple[str, float]) -> tuple[str, list[tuple[str, float]]]:
    return said, list(alternatives)


def test_equal_weights_are_the_middle_of_the_scale() -> None:
    """methods.md, DEITA's expectation: equal logits over 1..6 are 3.5; (0, 0, 0, 0, 0, ln 5) are 4.5."""
    assert expected(weights_of([token("3", *((n, 0.0) for n in SCALE))], SCALE)) == pytest.approx(3.5)
    uneven = [*((n, 0.0) for n in SCALE[:-1]), ("6", log(5))]
    assert expected(weights_of([token("6", *uneven)], SCALE)) == pytest.approx(4.5)


def test_they_are_of_the_first_token_that_is_a_word_and_not_of_a_thought() -> None:
    thought = [token("2", ("2", 0.0)), token("</think>", ("</think>", 0.0))]
    mark = token(" 4", (" 4", log(0.5)), ("4", log(0.25)), ("5", log(0.25)), ("good", log(0.9)))
    reply = [
        *thought,
        token("Score", ("Score", 0.0)),
        token(":", (":", 0.0)),
        mark,
        token("/", ()),
        token("5", ("5", 0.0)),
    ]
    assert weights_of(reply, SCALE) == pytest.approx({"1": 0, "2": 0, "3": 0, "4": 0.75, "5": 0.25, "6": 0})


def test_no_token_no_weights() -> None:
    assert weights_of([token("Good", ("Good", 0.0))], SCALE) == {}
    assert weights_of([], SCALE) == {}
    assert weights_of([token("4")], SCALE) == {}


def test_an_api_says_them_by_text() -> None:
    told = {
        "token": "4",
        "logprob": log(0.75),
        "top_logprobs": [{"token": t, "logprob": log(p)} for t, p in (("4", 0.75), ("5", 0.25))],
    }
    choice = {"message": {"content": "4"}, "finish_reason": "stop", "logprobs": {"content": [told]}}
    reply = read_completion(orjson.dumps({"choices": [choice]}), {}, ("4", "5"))
    assert reply.weights == pytest.approx({"4": 0.75, "5": 0.25})
    del choice["logprobs"]  # a server that does not know the field
    assert read_completion(orjson.dumps({"choices": [choice]}), {}, ("4", "5")).weights == {}


def test_they_are_kept_in_the_journal_and_asking_for_them_is_another_request(tmp_path: Path) -> None:
    plain, weighed = Request(user("Mark it.")), Request(user("Mark it."), weigh=("1", "2"))
    assert plain.digest("m") != weighed.digest("m")
    assert Request.from_json(orjson.loads(orjson.dumps(weighed.to_json()))) == weighed

    async def write() -> None:
        journal = Journal(tmp_path)
        await journal.add_reply(0, 0, "k", "judge", "m", weighed, Completion("2", weights={"1": 0.25, "2": 0.75}))
        journal.close()

    asyncio.run(write())
    journal = Journal.read_only(tmp_path)
    (reply,) = journal.replies(0, 0).values()
    journal.close()
    assert isinstance(reply, Completion) and reply.weights == {"1": 0.25, "2": 0.75}


@pytest.mark.slow
def test_a_local_model_weighs_as_its_own_logits_say(tmp_path: Path) -> None:
    import torch

    teacher = Local(dtype="float32")
    question = user("Is ice cold? Answer with Yes or No and nothing else.")

    async def ask() -> Completion:
        await teacher.open(tmp_path)
        reply = await teacher.generate(Request(question, Sampling(temperature=0.0, max_tokens=4), weigh=("Yes", "No")))
        loaded = teacher._ready()
        with torch.inference_mode():
            logits = loaded.model(torch.tensor([loaded.chat.ask(question)])).logits[0, -1].softmax(-1)
        ids = [loaded.chat.tokenizer(word, add_special_tokens=False)["input_ids"] for word in ("Yes", "No")]
        nonlocal direct
        direct = [float(logits[i]) for (i,) in ids]
        await teacher.aclose()
        return reply

    direct: list[float] = []
    reply = asyncio.run(ask())
    assert reply.text.strip(" .") in ("Yes", "No") and reply.logprobs is None
    assert sum(reply.weights.values()) == pytest.approx(1.0)
    assert reply.weights["Yes"] == pytest.approx(direct[0] / sum(direct), abs=0.02)
