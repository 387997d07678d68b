"""Tokens that an API names by their text become ids where that is exact, and are refused where it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from servers.run import FakeOpenAI

import kdaug as kd
from kdaug.chat import Chat
from kdaug.errors import AccessDenied, BadReply, BadRequest
from kdaug.journal import Journal
from kdaug.models import find_model
from kdaug.record import user
from kdaug.teacher import Completion, Teacher
from kdaug.teachers.token_ids import Vocabulary, read_logprobs

ASKED = user("Hi.")


def entry(token: str, logprob: float, *others: dict[str, Any], raw: bytes | None = None) -> dict[str, Any]:
    plain: dict[str, Any] = {"token": token, "logprob": logprob, "bytes": None if raw is None else list(raw)}
    return {**plain, "top_logprobs": [plain, *others]}


def reply(*content: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"choices": [{"logprobs": {"content": list(content)}}], **more}


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(Chat.load(find_model().path))


def test_ids_that_the_server_says_are_taken() -> None:
    other = {"token": "token_id:7", "logprob": -2.0}
    view = read_logprobs(reply(entry("token_id:42", -0.5, other), prompt_token_ids=[1, 2]), ASKED, 2, None)
    assert view.token_ids.tolist() == [42]
    assert view.top_ids.tolist() == [[42, 7]]
    assert view.top_logprobs.tolist() == [[-0.5, -2.0]]
    assert view.context_ids.tolist() == [1, 2]
    assert view.residual[0] == pytest.approx(1 - 2.718281828**-0.5 - 2.718281828**-2)


def test_every_token_of_a_text_is_found_by_its_bytes(vocabulary: Vocabulary) -> None:
    tokenizer = vocabulary.chat.tokenizer
    text = "Hello, été 海 🌊!\n\n  1234 <|im_end|>"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    of = {id: raw for raw, all_ids in vocabulary._ids.items() for id in all_ids}
    assert b"".join(of[id] for id in ids).decode() == text
    said = [entry(of[id].decode("utf-8", "replace"), -1.0, raw=of[id]) for id in ids]
    view = read_logprobs(reply(*said), ASKED, 1, vocabulary)
    assert view.token_ids.tolist() == ids
    assert view.context_ids.tolist() == vocabulary.chat.ask(ASKED)
    assert view.tokenizer == vocabulary.chat.digest


def test_without_a_tokenizer_text_is_refused_with_the_way_out() -> None:
    with pytest.raises(AccessDenied, match="give tokenizer=FOLDER"):
        read_logprobs(reply(entry("Hi", -1.0)), ASKED, 1, None)


def test_what_is_no_token_and_what_is_too_few_is_refused(vocabulary: Vocabulary) -> None:
    with pytest.raises(BadRequest, match="is no token of the tokenizer"):
        read_logprobs(reply(entry("no such token at all", -1.0)), ASKED, 1, vocabulary)
    with pytest.raises(AccessDenied, match="gives 1 alternatives a token, not 5"):
        read_logprobs(reply(entry("token_id:3", -1.0)), ASKED, 5, None)
    with pytest.raises(BadReply, match="no logprobs"):
        read_logprobs({"choices": [{"logprobs": None}]}, ASKED, 5, None)


def test_two_tokens_of_the_same_bytes_are_not_told_apart(vocabulary: Vocabulary) -> None:
    twice = Vocabulary(vocabulary.chat)
    twice.__dict__["_ids"] = {b"a": [1, 2]}
    with pytest.raises(BadRequest, match="is 2 tokens of the tokenizer"):
        twice.id_of(b"a")


def run(out: Path, teacher: Teacher) -> kd.Dataset:
    recipe = kd.Recipe(kd.Each([kd.Record(prompt=ASKED)]), [kd.Stage(kd.Respond(logprobs=3))], max_failure_rate=1.0)
    return kd.run(recipe, out, teacher=teacher, quiet=True)


def test_a_run_over_an_api_that_names_tokens_by_text_keeps_their_ids(vocabulary: Vocabulary, tmp_path: Path) -> None:
    with FakeOpenAI(resp_chars=60) as server:
        data = run(tmp_path / "run", kd.OpenAI("m", base_url=server.url, tokenizer="smollm2"))
        answered = server.stats()["ok_distinct"]
        with pytest.raises(AccessDenied, match="give tokenizer=FOLDER"):  # what one reply lacks they all lack
            run(tmp_path / "blind", kd.OpenAI("m", base_url=server.url))
        assert server.stats()["ok_distinct"] - answered <= 1
    (record,) = data.records()
    journal = Journal.read_only(tmp_path / "run")
    reply = journal.replies(0, 0)[record.replies[0]]
    journal.close()
    assert isinstance(reply, Completion) and reply.logprobs is not None
    assert vocabulary.chat.tokenizer.decode(reply.logprobs.token_ids) == reply.text
    assert reply.logprobs.top_ids.shape == (60, 3)
    assert reply.logprobs.context_ids.tolist() == vocabulary.chat.ask(ASKED)
    assert reply.logprobs.tokenizer == vocabulary.chat.digest
