"""Talking with a model: its own words, turn by turn, as they come; piped in as well as typed."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kdaug.chat import Chat
from kdaug.cli import main
from kdaug.record import Message, system, user
from kdaug.train.talk import Conversation, Talker


def greedy(folder: Path, *messages: Message, tokens: int) -> str:
    """By the plainest loop: the whole conversation anew for every token."""
    from transformers import AutoModelForCausalLM

    model, chat = AutoModelForCausalLM.from_pretrained(folder), Chat.load(folder)
    ids = chat.ask(messages)
    start = len(ids)
    with torch.no_grad():
        while len(ids) - start < tokens:
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] in chat.ends:
                break
    return chat.decode(ids[start:])


def test_every_turn_sees_those_before_it(tiny: Path) -> None:
    talk = Conversation(Talker.load(str(tiny), "cpu"), system("Be brief."), max_tokens=12)
    heard: list[str] = []
    talk.say("What is the sea?", heard.append)
    first = greedy(tiny, *system("Be brief."), *user("What is the sea?"), tokens=12)
    assert "".join(heard) == first
    assert len(heard) > 3  # piece by piece
    talk.say("And the moon?", heard.append)
    turns = (*system("Be brief."), *user("What is the sea?"), Message("assistant", first), *user("And the moon?"))
    assert "".join(heard) == first + greedy(tiny, *turns, tokens=12)
    talk.reset()
    heard.clear()
    talk.say("What is the sea?", heard.append)
    assert "".join(heard) == first


def test_a_reply_that_is_cut_short_counts_as_far_as_it_went(tiny: Path) -> None:
    talk = Conversation(Talker.load(str(tiny), "cpu"), max_tokens=40)
    heard: list[str] = []

    def impatient(words: str) -> None:
        heard.append(words)
        if len(heard) == 3:
            raise KeyboardInterrupt

    talk.say("What is the sea?", impatient)
    assert talk.turns[1].content == "".join(heard)


def chat(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: str, *arguments: str
) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    code = main(["chat", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_talk_can_be_piped_in(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = "What is the sea?\n\n/reset\nWhat is the sea?\n/help\n/quit\nnever asked\n"
    code, out, err = chat(monkeypatch, capsys, typed, str(tiny), "--max-tokens", "8")
    reply = greedy(tiny, *user("What is the sea?"), tokens=8)
    assert (code, out) == (0, f"{reply}\n{reply}\n")
    assert err.splitlines() == ["a new conversation", "no command /help: there are /reset and /quit"]


def test_two_models_answer_side_by_side_each_with_its_own_history(
    tiny: Path,
    tmp_path: Path,
    make_model: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base = make_model(tmp_path / "base", seed=1)
    _, out, _ = chat(
        monkeypatch, capsys, "Hello\nMore\n", str(tiny), "--beside", str(base), "--system", "Hm.", "--max-tokens", "6"
    )
    expected = ""
    history: dict[Path, list[Message]] = {tiny: [*system("Hm.")], base: [*system("Hm.")]}
    for text in ("Hello", "More"):
        for model, before in history.items():
            reply = greedy(model, *before, *user(text), tokens=6)
            before += [*user(text), Message("assistant", reply)]
            expected += f"{model}: {reply}\n"
    assert out == expected
    _, out, _ = chat(monkeypatch, capsys, "Hello\n", str(tiny), "--beside", str(tiny), "--max-tokens", "6")
    reply = greedy(tiny, *user("Hello"), tokens=6)
    assert out == f"1: {tiny}: {reply}\n2: {tiny}: {reply}\n"


def test_what_goes_wrong_is_one_line_and_the_talk_goes_on(
    tmp_path: Path,
    make_model: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = make_model(tmp_path / "small", max_position_embeddings=60)
    config = small / "tokenizer_config.json"  # where a tokenizer knows the limit too, transformers warns by itself
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_max_length": 60}))
    long = "a very long question " * 10
    code, out, err = chat(monkeypatch, capsys, f"{long}\nHello\n", str(small), "--max-tokens", "4")
    assert code == 0 and out == f"\n{greedy(small, *user('Hello'), tokens=4)}\n"
    (line,) = err.splitlines()
    assert "and" in line and "sees 60: start anew with /reset" in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["no/such/model"], "no model 'no/such/model'"),
        (["fake"], "fake is a teacher without weights here"),
        (["{tiny}", "--beside", "openai:gpt-x"], "openai:gpt-x is a teacher without weights here"),
        (["{tiny}", "--top-p", "2"], "top_p 2.0"),
    ],
)
def test_wrong_arguments_are_one_line(
    tiny: Path,
    arguments: list[str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = chat(monkeypatch, capsys, "Hello\n", *(a.format(tiny=tiny) for a in arguments))
    assert (code, out) == (2, "")
    assert says in err and len(err.strip().splitlines()) == 1


def test_a_template_without_system_messages_says_so_before_the_talk(
    tmp_path: Path,
    make_model: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = make_model(tmp_path / "strict")
    template = (model / "chat_template.jinja").read_text()
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    (model / "chat_template.jinja").write_text(refusal + template)
    code, _, err = chat(monkeypatch, capsys, "Hello\n", str(model), "--system", "Be brief.")
    assert code == 2 and "no system role; leave out --system" in err
