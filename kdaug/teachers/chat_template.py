"""A model's own chat template: from messages to the text it continues, and from what it wrote to the answer."""

from __future__ import annotations

import re
from typing import Any

import orjson

from kdaug.errors import BadRequest, ConfigError
from kdaug.record import Message, Messages

# Qwen3, DeepSeek-R1 and others; the opening tag may be part of the prompt.
THOUGHT = re.compile(r"\s*(?:<think>)?(.*?)</think>\s*", re.S)


def check_template(tokenizer: Any, name: str) -> None:
    """Raises ConfigError for a model that knows no conversations."""
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(f"{name} has no chat template: it is no chat model; use its instruct version")


def render(tokenizer: Any, messages: Messages, *, ask: bool) -> str:
    """The text of a conversation; with `ask`, up to where the model's answer begins.

    Raises BadRequest where the template rejects it (a system message, two turns of one role).
    """
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template([_plain(m) for m in messages], tokenize=False, add_generation_prompt=ask)
    except TemplateError as e:
        raise BadRequest(f"the model's chat template rejects this conversation: {e}") from e
    return str(text)


def encode(tokenizer: Any, text: str) -> list[int]:
    """Its token ids; the template has written every special token itself."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def encode_answer(tokenizer: Any, ends: frozenset[int], prompt: Messages, answer: Messages) -> tuple[list[int], int]:
    """The token ids of a conversation up to the end of the answer's turn, and the first that belongs to the answer.

    The whole is encoded at once, as the model saw it in training, and the answer is found by its place in the text.
    Raises BadRequest for an answer that is not one message of the assistant, or that the template changes.
    """
    if len(answer) != 1 or answer[0].role != "assistant":
        raise BadRequest("only one message of the assistant can be scored")
    text, asked = render(tokenizer, prompt + answer, ask=False), render(tokenizer, prompt, ask=True)
    start = len(asked) if text.startswith(asked) else _common(text, asked)
    if answer[0].content not in text[start:]:
        raise BadRequest("the model's chat template rewrites a conversation, so the answer cannot be told apart")
    # What a template writes after its end-of-turn token (a newline) is never generated.
    stop = len(text.rstrip())
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    inside = [i for i, (a, b) in enumerate(encoded["offset_mapping"]) if b > a and start <= a < stop]
    if not inside:
        raise BadRequest("the answer is empty")
    ids: list[int] = encoded["input_ids"][: inside[-1] + 1]
    if ids[-1] not in ends:  # a template that ends a turn with nothing
        ids.append(min(ends))
    return ids, inside[0]


def split_thought(text: str) -> tuple[str, str]:
    """(reasoning, answer): what a model wrote between its think tags, and the rest."""
    if found := THOUGHT.match(text):
        return found[1].strip(), text[found.end() :]
    if text.lstrip().startswith("<think>"):  # cut off while it thought
        return text.lstrip().removeprefix("<think>").strip(), ""
    return "", text


def _common(text: str, asked: str) -> int:
    """Some templates open an answer with more when they ask for one: what both share is the prompt."""
    return next((i for i, (a, b) in enumerate(zip(text, asked, strict=False)) if a != b), min(len(text), len(asked)))


def _plain(message: Message) -> dict[str, Any]:
    """A message as chat templates expect it: a call's arguments as an object where they are JSON."""
    plain: dict[str, Any] = message.to_json()
    if message.tool_calls:
        plain["tool_calls"] = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": _arguments(c.arguments)}}
            for c in message.tool_calls
        ]
    return plain


def _arguments(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
