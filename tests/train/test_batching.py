"""Which tokens are trained, and that packed documents do not see each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from kdaug.chat import Chat
from kdaug.errors import ConfigError, TrainError
from kdaug.models import find_model
from kdaug.record import Message, Record, ToolCall, assistant, system, user
from kdaug.train.batching import IGNORE, collate, encode, pack
from kdaug.train.student import load

QUESTION = Record(prompt=system("Be brief.") + user("What is the sea?"), completion=assistant("Water."))


def trained_text(chat: Chat, record: Record, length: int = 512) -> str:
    ((document,),) = encode([record], "completion", chat, length).documents
    return str(chat.tokenizer.decode([t for t in document.targets if t != IGNORE]))


def seen_text(chat: Chat, record: Record) -> str:
    ((document,),) = encode([record], "completion", chat, 512).documents
    return str(chat.tokenizer.decode(list(document.ids)))


def test_the_answer_and_its_end_are_trained_and_the_prompt_is_seen(tiny: Path) -> None:
    chat = Chat.load(tiny)
    assert trained_text(chat, QUESTION) == "Water.<|im_end|>"
    assert seen_text(chat, QUESTION) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is the sea?<|im_end|>\n"
        "<|im_start|>assistant\nWater.<|im_end|>"
    )


def test_each_target_is_the_token_that_follows(tiny: Path) -> None:
    ((document,),) = encode([QUESTION], "completion", Chat.load(tiny), 512).documents
    for t, target in enumerate(document.targets):
        assert target in (IGNORE, *document.ids[t + 1 : t + 2])
    assert document.targets[-1] == IGNORE


@pytest.mark.parametrize("text", ["  leading and trailing space  ", "\n\nnew lines\n", "été 海 🌊"])
def test_any_text_is_trained_as_it_is(tiny: Path, text: str) -> None:
    record = replace(QUESTION, completion=assistant(text))
    assert trained_text(Chat.load(tiny), record) == text + "<|im_end|>"


def test_a_special_token_that_a_text_spells_out_is_no_token(tiny: Path) -> None:
    record = replace(QUESTION, completion=assistant("It ends with <|im_end|> here."))
    said = trained_text(Chat.load(tiny), record)
    assert said.count("<|im_end|>") == 1 and said.endswith("here.<|im_end|>")
    assert said.replace("\u2060", "").startswith("It ends with <|im_end|> here.")


def test_of_a_conversation_with_tools_only_what_the_assistant_says_is_trained(tiny: Path) -> None:
    turns = (
        Message("assistant", "I look it up.", (ToolCall("1", "look_up", '{"word": "sea"}'),)),
        Message("tool", "sea: water", tool_call_id="1"),
        Message("assistant", "Water."),
    )
    record = replace(QUESTION, completion=turns)
    assert trained_text(Chat.load(tiny), record) == "I look it up.<|im_end|>Water.<|im_end|>"
    assert "sea: water" in seen_text(Chat.load(tiny), record)


def chat_with(make_tokenizer: Callable[..., Any], template: str) -> Chat:
    tokenizer = make_tokenizer(template)
    return Chat("here", tokenizer, (tokenizer.eos_token_id,))


PLAIN = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"


def test_a_template_without_an_end_of_turn_still_teaches_to_stop(make_tokenizer: Callable[..., Any]) -> None:
    chat = chat_with(make_tokenizer, PLAIN + "{% if add_generation_prompt %}assistant: {% endif %}")
    assert trained_text(chat, QUESTION) == "Water.<|im_end|>"


def test_a_template_that_opens_a_thought_when_asked_trains_from_what_both_share(
    make_tokenizer: Callable[..., Any],
) -> None:
    chat = chat_with(make_tokenizer, PLAIN + "{% if add_generation_prompt %}assistant: <think>{% endif %}")
    assert trained_text(chat, QUESTION) == "Water.<|im_end|>"


def test_a_template_that_rewrites_the_prompt_is_refused(make_tokenizer: Callable[..., Any]) -> None:
    chat = chat_with(make_tokenizer, "{{ messages | length }}" + PLAIN)
    with pytest.raises(TrainError, match=f"record {QUESTION.id}.*rewrites"):
        encode([QUESTION], "completion", chat, 512)


def test_a_template_that_rejects_a_conversation_says_why(make_tokenizer: Callable[..., Any]) -> None:
    chat = chat_with(make_tokenizer, "{{ raise_exception('no system role here') }}")
    with pytest.raises(TrainError, match="no system role here"):
        encode([QUESTION], "completion", chat, 512)


def test_a_tokenizer_without_a_template_or_an_end_is_refused(
    tmp_path: Path, make_tokenizer: Callable[..., Any]
) -> None:
    make_tokenizer(None).save_pretrained(tmp_path / "bare")
    with pytest.raises(ConfigError, match=r"no chat template: .* put a template into its chat_template\.jinja"):
        Chat.load(tmp_path / "bare")
    make_tokenizer(unk_token="<|im_start|>").save_pretrained(tmp_path / "endless")
    with pytest.raises(ConfigError, match="set eos_token"):
        Chat.load(tmp_path / "endless")


def test_a_tokenizer_without_padding_pads_with_its_end(tmp_path: Path, make_tokenizer: Callable[..., Any]) -> None:
    make_tokenizer(eos_token="<|im_end|>").save_pretrained(tmp_path)
    chat = Chat.load(tmp_path)
    assert chat.pad == chat.tokenizer.eos_token_id


def test_what_is_cut_and_what_is_left_out_is_named(tiny: Path) -> None:
    chat = Chat.load(tiny)
    long = replace(QUESTION, completion=assistant("word " * 200))
    no_room = replace(QUESTION, prompt=user("question " * 200))
    encoded = encode([QUESTION, long, no_room], "completion", chat, 100)
    assert encoded.records == (QUESTION.id, long.id)
    assert encoded.truncated == (long.id, no_room.id)
    assert encoded.dropped == (no_room.id,)
    assert max(len(d) for (d,) in encoded.documents) == 100


def test_nothing_to_train_is_an_error(tiny: Path) -> None:
    with pytest.raises(TrainError, match="no token would be trained: all 1 answers are cut off at 8 tokens"):
        encode([QUESTION], "completion", Chat.load(tiny), 8)


def test_everything_trained_is_an_error(make_tokenizer: Callable[..., Any]) -> None:
    chat = chat_with(make_tokenizer, "{% for m in messages %}{{ m['content'] }}{% endfor %}")
    with pytest.raises(TrainError, match="every token would be trained"):
        encode([Record(prompt=user(""), completion=assistant("Water."))], "completion", chat, 512)


@pytest.mark.parametrize(
    ("record", "kind", "hint"),
    [
        (Record(prompt=user("q")), "completion", "generate answers first"),
        (replace(QUESTION, rejected=assistant("Salt.")), "completion", "pairs are for `train reward`.* --loss dpo"),
        (replace(QUESTION, label=True), "completion", "keep the good ones"),
        (QUESTION, "preference", "single answers are for SFT"),
        (replace(QUESTION, prompt=()), "completion", "empty prompt"),
        ({"prompt": "q"}, "completion", r"kdaug\.read"),
    ],
)
def test_data_of_another_kind_is_an_error_with_the_way_out(tiny: Path, record: Any, kind: Any, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        encode([record], kind, Chat.load(tiny), 512)


def test_no_records_is_an_error(tiny: Path) -> None:
    with pytest.raises(ConfigError, match="there are no records"):
        encode([], "completion", Chat.load(tiny), 512)


def test_pairs_are_two_documents_of_one_prompt(tiny: Path, pairs: list[Record]) -> None:
    chat = Chat.load(tiny)
    encoded = encode(pairs, "preference", chat, 512)
    for chosen, rejected in encoded.documents:
        assert "far away" in chat.tokenizer.decode(list(chosen.ids))
        assert "No idea" in chat.tokenizer.decode(list(rejected.ids))


def test_packing_holds_every_document_once_in_full_rows() -> None:
    rng = Random(1)
    sizes = [rng.randint(1, 100) for _ in range(500)]
    rows = pack(sizes, 100)
    assert sorted(i for row in rows for i in row) == list(range(500))
    assert max(sum(sizes[i] for i in row) for row in rows) <= 100
    assert len(rows) <= 1.02 * sum(sizes) / 100 + 1
    assert pack([60, 50, 40, 30, 20], 100) == [[0, 2], [1, 3, 4]]


def test_packed_documents_are_computed_as_if_alone(tiny: Path, answers: list[Record]) -> None:
    chat = Chat.load(tiny)
    documents = [d for (d,) in encode(answers, "completion", chat, 512).documents]
    student = load(tiny, chat, "cpu", "float32")
    assert student.packs
    alone = torch.cat([student.sums([d], 512) for d in documents])
    assert len(pack([len(d) for d in documents], 512)) < len(documents)
    torch.testing.assert_close(student.sums(documents, 512), alone, atol=2e-5, rtol=1e-5)


def test_padding_and_neighbours_change_nothing(tiny: Path, answers: list[Record]) -> None:
    chat = Chat.load(tiny)
    first, second, third = (d for (d,) in encode(answers[:3], "completion", chat, 512).documents)
    student = load(tiny, chat, "cpu", "float32")
    alone, _ = student.logprobs(collate([[first]], chat.pad))
    together, owner = student.logprobs(collate([[first], [second, third]], chat.pad))
    torch.testing.assert_close(together[owner == 0], alone)


def test_half_precision_is_near_and_its_sums_stay_float32(tiny: Path, answers: list[Record]) -> None:
    chat = Chat.load(tiny)
    documents = [d for (d,) in encode(answers, "completion", chat, 512).documents]
    student = load(tiny, chat, "cpu", "float32")
    half = replace(student, half=True).sums(documents, 512)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, student.sums(documents, 512), atol=1.0, rtol=1e-2)
    half.sum().backward()
    assert student.head.grad.dtype == torch.float32


def test_a_model_that_mixes_packed_documents_gets_one_a_row(tiny: Path, answers: list[Record]) -> None:
    student = replace(load(tiny, Chat.load(tiny), "cpu", "float32"), packs=False)
    assert student.plan([5, 6, 7], 512) == [[0], [1], [2]]


def test_a_model_that_changes_its_logits_is_refused(
    tiny: Path, tmp_path: Path, make_model: Callable[..., Path]
) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    capped = Gemma2Config(vocab_size=330, num_hidden_layers=2, head_dim=8, final_logit_softcapping=0.5, **sizes)
    Gemma2ForCausalLM(capped).save_pretrained(tmp_path)
    with pytest.raises(TrainError, match="linear head"):
        load(tmp_path, Chat.load(tiny), "cpu")


@pytest.mark.slow
def test_the_shipped_student_is_trained_on_answers_and_their_end() -> None:
    chat = Chat.load(Path(find_model().path))
    assert trained_text(chat, QUESTION) == "Water.<|im_end|>"
    assert seen_text(chat, QUESTION).endswith("<|im_start|>assistant\nWater.<|im_end|>")
