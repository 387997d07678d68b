"""The stored view of a run's answers: which records have one, of which tokens, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kdaug as kd
from kdaug.chat import Chat
from kdaug.errors import ConfigError
from kdaug.record import Record, assistant, user
from kdaug.teacher import Completion, Request, TokenLogprobs
from kdaug.teachers.fake import Fake
from kdaug.train.batching import encode
from kdaug.train.lesson import Lesson, lessons_of
from kdaug.train.sft import SFT
from kdaug.train.stored import ASKED_OTHERWISE, NO_REPLY, REWRITTEN, Coverage, Stored

THINGS = ("sea", "moon", "tea", "rain", "chess", "bread")
TOP = 20


@pytest.fixture(scope="module")
def tutor(tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., Path]) -> Path:
    """A tiny model that has learnt to answer in words and to end."""
    folder = tmp_path_factory.mktemp("tutor")
    records = [
        Record(
            prompt=user(f"Say something about the {thing}, number {n}."), completion=assistant(f"The {thing} is deep.")
        )
        for thing in THINGS
        for n in range(3)
    ]
    student = make_model(folder / "untrained")
    return SFT(epochs=25, lr=1e-2, length=128, accumulate=1).fit(records, student=student, out=folder / "tutor")


def answered(tutor: Path, out: Path, **how: Any) -> Path:
    prompts = [Record(prompt=user(f"Say something about the {thing}, number {n}.")) for thing in THINGS for n in (0, 7)]
    respond = kd.Respond(**{"logprobs": TOP, "max_tokens": 24, "temperature": 0.3, **how})
    kd.run(kd.Recipe(kd.Each(prompts), [kd.Stage(respond)]), out, teacher=kd.Local(str(tutor)), quiet=True)
    return out


@pytest.fixture(scope="module")
def run(tutor: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return answered(tutor, tmp_path_factory.mktemp("runs") / "plain")


def teach(run: Path, records: list[Record], chat: Chat) -> tuple[list[Lesson], Coverage]:
    lessons, kept, _ = lessons_of(records, chat, 128)
    return Stored(run, chat).teach(kept, lessons)


def test_every_trained_token_of_a_verbatim_answer_has_its_view(run: Path, tutor: Path) -> None:
    chat, records = Chat.load(tutor), list(kd.Dataset(run))
    taught, coverage = teach(run, records, chat)
    assert (coverage.records, coverage.taught, coverage.guided) == (len(records), len(records), 0)
    assert coverage.covered == coverage.tokens == sum(t.document.trained for t in taught)
    assert coverage.top_k == TOP


def test_the_view_is_what_the_teacher_itself_gives_these_tokens(run: Path, tutor: Path) -> None:
    from transformers import AutoModelForCausalLM

    chat, records = Chat.load(tutor), list(kd.Dataset(run))[:3]
    taught, _ = teach(run, records, chat)
    tops = Stored(run, chat).tops(taught, TOP)
    assert tops.known.all() and tops.ids.shape == tops.logprobs.shape == (len(tops.known), TOP)
    model = AutoModelForCausalLM.from_pretrained(tutor)
    rows = []
    for t in taught:
        with torch.no_grad():
            logits = model(torch.tensor([t.document.ids.tolist()])).logits[0].log_softmax(-1)
        rows.append(logits[-t.document.trained - 1 : -1])
    full = torch.cat(rows)
    torch.testing.assert_close(full.gather(1, tops.ids), tops.logprobs, atol=5e-3, rtol=5e-3)  # kept as float16
    assert (tops.logprobs[:, :-1] >= tops.logprobs[:, 1:]).all()
    few = Stored(run, chat).tops(taught, 3)
    assert torch.equal(few.ids, tops.ids[:, :3])
    rest = 1 - full.exp().gather(1, few.ids).sum(-1)
    torch.testing.assert_close(few.residual, rest, atol=2e-3, rtol=1e-2)


def test_only_what_the_teacher_said_itself_has_a_view(run: Path, tutor: Path) -> None:
    chat, (first, second, third, *rest) = Chat.load(tutor), list(kd.Dataset(run))
    text, other = (r.completion[0].content if r.completion else "" for r in (first, second))
    edited = replace(first, completion=assistant("Quite another answer."))
    continued = replace(second, completion=assistant(f"{other} And more."))
    moved = replace(third, prompt=user("Another question?"))
    foreign = Record(prompt=user("Who are you?"), completion=assistant(text))
    taught, coverage = teach(run, [edited, continued, moved, foreign, *rest], chat)
    assert [t.view is None for t in taught[:4]] == [True, False, True, True]
    assert taught[1].view is not None and taught[1].view.tokens < taught[1].document.trained
    assert dict(coverage.without) == {REWRITTEN: 1, ASKED_OTHERWISE: 1, NO_REPLY: 1}
    tops = Stored(run, chat).tops(taught[:4], TOP)
    assert int(tops.known.sum()) == taught[1].view.tokens == len(tops.ids) == len(tops.residual)
    assert f"{coverage.taught} of {coverage.records} records" in str(coverage)


def test_a_guided_teacher_teaches_a_student_that_is_not_told(tutor: Path, tmp_path: Path) -> None:
    run = answered(tutor, tmp_path / "guided", system="careful", keep_cut=True)
    records = list(kd.Dataset(run))
    assert not any(m.role == "system" for r in records for m in r.prompt)
    _, coverage = teach(run, records, Chat.load(tutor))
    assert coverage.guided == coverage.taught > 0
    assert "another context" in str(coverage)


def test_an_answer_that_was_cut_at_a_stop_string_has_a_view_up_to_there(tutor: Path, tmp_path: Path) -> None:
    run = answered(tutor, tmp_path / "stopped", stop=(" is",))
    taught, coverage = teach(run, list(kd.Dataset(run)), Chat.load(tutor))
    assert 0 < coverage.covered < coverage.tokens
    assert all(t.view is None or t.view.tokens < t.document.trained for t in taught)


def test_the_tokens_that_were_said_go_before_those_of_the_text(tiny: Path, out: Path) -> None:
    """A model may spell a word otherwise than its tokenizer would."""
    chat = Chat.load(tiny)
    letters = chat.tokenizer.convert_tokens_to_ids(list("deep"))
    said = np.array([*letters, *chat.ends])
    few = np.zeros((len(said), 2))

    def spell(request: Request) -> Completion:
        view = TokenLogprobs(said, few[:, 0], few.astype(int), few - 1, few[:, 0])
        return Completion("deep", logprobs=view.after(chat.ask(request.messages), chat.digest))

    recipe = kd.Recipe(kd.Each([Record(prompt=user("How is the sea?"))]), [kd.Stage(kd.Respond(logprobs=2))])
    records = list(kd.run(recipe, out, teacher=Fake(spell), quiet=True))
    ((document,),) = encode(records, "completion", chat, 128).documents
    ((taught,), coverage) = teach(out, records, chat)
    assert len(document) < len(taught.document)  # the tokenizer knows the whole word
    assert taught.document.ids[-5:].tolist() == said.tolist() == taught.document.targets[-6:-1].tolist()
    assert chat.tokenizer.decode(taught.document.ids) == chat.tokenizer.decode(document.ids)
    assert coverage.covered == coverage.tokens == 5


def test_another_vocabulary_is_refused(
    run: Path, tutor: Path, tmp_path: Path, make_tokenizer: Callable[..., Any]
) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<one more>"])
    with pytest.raises(ConfigError, match="another vocabulary"):
        teach(run, list(kd.Dataset(run)), Chat.of("other", tokenizer))


def test_a_run_without_log_probabilities_is_an_error_that_says_how_to_get_them(tutor: Path, tmp_path: Path) -> None:
    chat, bare = Chat.load(tutor), answered(tutor, tmp_path / "bare", logprobs=0)
    with pytest.raises(ConfigError, match="--logprobs 20"):
        Stored(bare, chat)
    with pytest.raises(ConfigError, match="keeps no log-probabilities"):
        Stored(tmp_path / "nowhere", chat)


def test_records_of_another_run_are_refused_with_their_number(run: Path, tutor: Path, answers: list[Record]) -> None:
    with pytest.raises(ConfigError, match=f"24: {NO_REPLY}"):
        teach(run, answers, Chat.load(tutor))
