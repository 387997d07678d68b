"""GGUF files: their metadata, and their way into a folder that transformers loads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from kdaug.device import quiet
from kdaug.errors import ConfigError, require, shorten

CONVERTER = 1  # raise it when a converted folder comes out different: older ones are then not used any more
NUMBERS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a number, by its type
TEXT = 8


def read_text(path: Path, wanted: str) -> str | None:
    """A text of a GGUF file's metadata, where it stands before the first list (the general texts come first).

    The format: magic, version u32, tensors u64, entries u64; an entry is key, type u32, value; a text is length u64 and
    UTF-8 (ggml, docs/gguf.md).
    """
    with path.open("rb") as file:
        head = file.read(1 << 16)
    if head[:4] != b"GGUF":
        raise ConfigError(f"{path} is no GGUF file: it does not start with GGUF")

    def text(at: int) -> tuple[str, int]:
        size = int.from_bytes(head[at : at + 8], "little")
        return head[at + 8 : at + 8 + size].decode("utf-8", "replace"), at + 8 + size

    at = 24
    for _ in range(int.from_bytes(head[16:24], "little")):
        key, at = text(at)
        kind = int.from_bytes(head[at : at + 4], "little")
        if kind == TEXT:
            value, at = text(at + 4)
            if key == wanted:
                return value
        elif kind in NUMBERS:
            at += 4 + NUMBERS[kind]
        else:
            return None
        if at >= len(head):
            return None
    return None


@contextmanager
def _read_once() -> Iterator[None]:
    """Within, one reading of a file serves all who ask: it takes seconds, and transformers reads it for the
    configuration, the tokenizer and the weights, and makes the table of names anew for each module."""
    import gguf

    before = gguf.GGUFReader, gguf.get_tensor_name_map
    gguf.GGUFReader, gguf.get_tensor_name_map = (cache(function) for function in before)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = before


def convert(file: Path, folder: Path) -> None:
    """Writes the model of a GGUF file as transformers saves one: safetensors in bfloat16, tokenizer, chat template.

    Raises ConfigError where transformers cannot read the file, or an optional library is missing.
    """
    for module in ("torch", "transformers", "gguf", "accelerate"):
        require(module, "local", f"the model {file.name}")
    import gguf
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with quiet(), _read_once():
        try:
            fields = {key: field.contents() for key, field in gguf.GGUFReader(str(file)).fields.items()}
            tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
            model = AutoModelForCausalLM.from_pretrained(
                str(file.parent),
                gguf_file=file.name,
                dtype=torch.bfloat16,
                quantization_config=GgufConfig(dequantize=True),
            )
        except (ValueError, NotImplementedError, KeyError, RuntimeError) as e:
            raise ConfigError(f"{file}: transformers cannot read this GGUF file: {shorten(str(e), 300)}") from e
        _complete_tokenizer(tokenizer, fields)
        _complete_model(model, tokenizer, fields)
        if wrong := _differing(tokenizer, fields["tokenizer.ggml.tokens"], model):
            raise ConfigError(f"{file}: its tokenizer came out wrong: {wrong}")
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    licence = fields.get("general.license")
    front = yaml.safe_dump({"license": licence}) if licence else ""
    (folder / "README.md").write_text(f"---\n{front}---\n\nConverted by kdaug from {file.name}.\n", encoding="utf-8")


def _complete_tokenizer(tokenizer: Any, fields: dict[str, Any]) -> None:
    """What the loader may leave out: the special tokens' roles and flags, the chat template, the context's length."""
    tokens = fields["tokenizer.ggml.tokens"]
    for role, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        number = fields.get(f"tokenizer.ggml.{key}_token_id")
        if number is not None:
            setattr(tokenizer, f"{role}_token", tokens[int(number)])
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    kinds = fields.get("tokenizer.ggml.token_type", ())
    special = set(tokenizer.all_special_tokens)
    control = [token for token, kind in zip(tokens, kinds, strict=False) if int(kind) == 3 and token not in special]
    tokenizer.add_special_tokens({"additional_special_tokens": control}, replace_extra_special_tokens=False)
    tokenizer.chat_template = fields.get("tokenizer.chat_template") or tokenizer.chat_template
    context = fields.get(f"{fields['general.architecture']}.context_length")
    if context:
        tokenizer.model_max_length = int(context)


def _complete_model(model: Any, tokenizer: Any, fields: dict[str, Any]) -> None:
    """The special tokens' ids and where a reply ends; and no trace of the quantization, for these are plain weights."""
    from transformers import GenerationConfig

    config = model.config
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    ends = [tokenizer.eos_token_id, fields.get("tokenizer.ggml.eot_token_id")]
    known = sorted({int(end) for end in ends if end is not None})
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=known if len(known) > 1 else known[0],
        pad_token_id=tokenizer.pad_token_id,
    )
    config.__dict__.pop("quantization_config", None)
    model.is_quantized, model.hf_quantizer = False, None


def _differing(tokenizer: Any, tokens: list[str], model: Any) -> str:
    """How the tokenizer differs from the file's list of tokens, or ""."""
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        return f"{len(tokenizer)} tokens for {rows} rows of the embedding"
    ours = tokenizer.convert_ids_to_tokens(range(len(tokens)))
    for number, (mine, theirs) in enumerate(zip(ours, tokens, strict=True)):
        if mine != theirs:
            return f"token {number} is {mine!r} instead of {theirs!r}"
    return ""
