"""The scripted teacher."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from kdaug.answers import ballot
from kdaug.dialogue import alternates, parse_transcript
from kdaug.errors import BadRequest, Refused, ServerError
from kdaug.parsing import labelled
from kdaug.prompts import render
from kdaug.record import Message, assistant, user
from kdaug.teacher import Completion, Request, ScoringTeacher
from kdaug.teachers.fake import Fake, WhiteBoxFake


def ask(fake: Fake, text: str, nonce: int = 0) -> Completion:
    return asyncio.run(fake.generate(Request(user(text), nonce=nonce)))


def test_a_function_writes_the_replies() -> None:
    fake = Fake(lambda request: request.messages[-1].content.upper())
    assert ask(fake, "hello there").text == "HELLO THERE"
    assert ask(fake, "hello there").usage.completion_tokens == 2
    assert [call.messages[0].content for call in fake.calls] == ["hello there"] * 2


def test_a_mapping_is_searched_in_its_order() -> None:
    fake = Fake({"^Rate": "Score: 4", "(?i)story|poem": Completion("Once.", "length"), "": lambda r: str(r.nonce)})
    assert ask(fake, "Rate this story").text == "Score: 4"
    assert ask(fake, "A Story, please").cut
    assert ask(fake, "Anything else", nonce=7).text == "7"


def test_the_last_user_message_counts() -> None:
    talk = (Message("user", "first"), Message("assistant", "reply"), Message("user", "second"))
    fake = Fake({"first": "1", "second": "2"})
    assert asyncio.run(fake.generate(Request(talk))).text == "2"


def test_a_prompt_that_is_not_in_the_script_is_named() -> None:
    with pytest.raises(BadRequest, match="'What now\\?'"):
        ask(Fake({"^Rate": "4"}), "What now?")


def test_scripted_errors_are_raised_each_with_its_request() -> None:
    fake = Fake({"bad": Refused("no", retry_after=2.0)}, name="fake:strict")
    with pytest.raises(Refused) as first:
        ask(fake, "bad 1")
    with pytest.raises(Refused) as second:
        ask(fake, "bad 2")
    assert first.value is not second.value
    assert first.value.request is fake.calls[0]
    assert second.value.request is fake.calls[1]
    assert (str(first.value), first.value.teacher, first.value.retry_after) == ("no", "fake:strict", 2.0)


def test_default_replies_depend_on_request_and_nonce_in_every_process() -> None:
    text = ask(Fake(latency=0.001, jitter=0.001), "Hello.", nonce=3).text
    assert text == ask(Fake(name="other"), "Hello.", nonce=3).text
    assert len({ask(Fake(), "Hello.", nonce=n).text for n in range(50)} | {ask(Fake(), "Hi.").text}) == 51
    program = (
        "import asyncio; from kdaug.record import user; from kdaug.teacher import Request; "
        "from kdaug.teachers.fake import Fake; "
        "print(asyncio.run(Fake().generate(Request(user('Hello.'), nonce=3))).text)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == text


def test_a_text_is_likelier_after_a_longer_one() -> None:
    fake, said = WhiteBoxFake(), assistant("one two three")
    alone, given = (asyncio.run(fake.logprobs(user(text), said, 0)) for text in ("", "What comes after zero?"))
    assert len(alone.token_logprobs) == 4  # the end of the turn too
    assert (given.token_logprobs > alone.token_logprobs).all() and isinstance(fake, ScoringTeacher)
    assert not isinstance(Fake(), ScoringTeacher)


def test_it_can_do_sums() -> None:
    prompt = render("rest_em/solve", prompt="What is 12 * 6?")
    assert ask(Fake(), prompt).text.endswith("\nAnswer: 72")


def test_replies_do_not_depend_on_the_order_of_their_arrival() -> None:
    async def run(jitter: float) -> tuple[list[str], list[int]]:
        fake, ended = Fake(jitter=jitter), list[int]()

        async def one(number: int) -> str:
            completion = await fake.generate(Request(user(f"Question {number}")))
            ended.append(number)
            return completion.text

        return list(await asyncio.gather(*(one(n) for n in range(40)))), ended

    calm, in_order = asyncio.run(run(0.0))
    shuffled, order = asyncio.run(run(0.05))
    assert calm == shuffled
    assert in_order == list(range(40)) != order


def test_the_peak_is_the_most_at_once() -> None:
    async def run() -> Fake:
        fake = Fake(lambda r: ServerError("x") if "3" in r.messages[0].content else "fine", latency=0.01)
        for count in (5, 9, 2):
            asked = (fake.generate(Request(user(f"{n}"))) for n in range(count))
            await asyncio.gather(*asked, return_exceptions=True)
        return fake

    assert asyncio.run(run()).peak == 9


def test_words_that_are_weighed_have_probabilities_where_one_of_them_is_said() -> None:
    request = Request(user("Which one?"), weigh=("A", "B"))
    reply = asyncio.run(Fake().generate(request))
    assert reply.text in ("A", "B")
    assert reply.weights == {reply.text: 0.75, "AB".replace(reply.text, ""): 0.25}
    assert asyncio.run(Fake(lambda request: "neither").generate(request)).weights == {}


def test_forms_that_a_prompt_asks_for() -> None:
    assert ask(Fake(), "End with a line:\nVerdict: revise or accept").text.split("\n")[-1] in (
        "Verdict: revise",
        "Verdict: accept",
    )
    parts = labelled(ask(Fake(), "Reply in this form:\nThoughts: <yours>\nAnswer: <it>").text, "Thoughts", "Answer")
    assert parts is not None and all(parts)
    assert ballot(ask(Fake(), "End with one line in this form:\nAnswer: <your final answer>").text) in ("1", "2", "3")
    assert alternates(parse_transcript(ask(Fake(), "Turns begin with [Human] and [AI].").text))
