"""A student that is real but tiny: a Llama of random weights with a byte-level tokenizer made here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdaug.device import quiet
from kdaug.record import Record, assistant, user

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def build_tokenizer(template: str | None = TEMPLATE, **special: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(["the sea is deep and the moon is far away"] * 4, trainer)
    special = special or {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, chat_template=template, **special)


def build_model(folder: Path, *, seed: int = 0, layers: int = 2, **config: Any) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    shape = LlamaConfig(
        vocab_size=len(tokenizer) + 3,  # a head padded beyond the vocabulary, as many real ones are
        num_hidden_layers=layers,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.1,
        tie_word_embeddings=True,
        **(sizes | config),
    )
    with quiet():
        LlamaForCausalLM(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., Any]:
    return build_tokenizer


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Path]:
    return build_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny student, in float32."""
    return build_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def answers() -> list[Record]:
    """24 completion records of different lengths."""
    things = ["sea", "moon", "tea", "rain", "chess", "bread"]
    return [
        Record(
            prompt=user(f"Say something about the {thing}, number {n}."),
            completion=assistant(f"The {thing} is {'very ' * n}deep and far away."),
            teachers=("fake:echo",),
        )
        for n in range(4)
        for thing in things
    ]


@pytest.fixture
def pairs(answers: list[Record]) -> list[Record]:
    """The same as preferences: the rejected answer is another thing's."""
    return [
        Record(prompt=a.prompt, completion=a.completion, rejected=assistant("No idea at all, sorry."))
        for a in answers[:12]
    ]
