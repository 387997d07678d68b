"""Log-probabilities of chat completion APIs, which name tokens by their text: token ids where that is exact.

A vLLM server says the ids themselves when it is asked (`return_token_ids`, `return_tokens_as_token_ids`). The bytes of
any other server's tokens are looked up in the model's own tokenizer, and where two tokens have the same bytes the reply
is refused: a training target that may be another token is worse than none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import orjson

from kdaug.chat import Chat
from kdaug.errors import AccessDenied, BadReply, BadRequest
from kdaug.record import Messages
from kdaug.teacher import TokenLogprobs

BY_TEXT = {"logprobs": True}  # what a request asks for
BY_ID = {**BY_TEXT, "return_token_ids": True, "return_tokens_as_token_ids": True}
ID = "token_id:"  # how vLLM writes a token then


class Vocabulary:
    """A tokenizer's tokens by their bytes."""

    def __init__(self, chat: Chat) -> None:
        self.chat = chat

    def id_of(self, token: bytes) -> int:
        """Raises BadRequest where the bytes are those of no token, or of several."""
        ids = self._ids.get(token, [])
        if len(ids) != 1:
            what = "no token" if not ids else f"{len(ids)} tokens"
            raise BadRequest(f"{token!r} is {what} of the tokenizer of {self.chat.name}: its logprobs cannot be mapped")
        return ids[0]

    @cached_property
    def _ids(self) -> dict[bytes, list[int]]:
        found: dict[bytes, list[int]] = {}
        special = self.chat.tokenizer.get_added_vocab()
        to_bytes = self._writing()
        for token, id in self.chat.tokenizer.get_vocab().items():
            found.setdefault(token.encode() if token in special else to_bytes(token), []).append(id)
        return found

    def _writing(self) -> Any:
        """How this tokenizer writes bytes as text, by its decoder. Raises BadRequest for one that is not known."""
        decoder = orjson.loads(self.chat.tokenizer.backend_tokenizer.to_str())["decoder"] or {}
        kinds = {part["type"] for part in decoder.get("decoders", [decoder]) if "type" in part}
        if "ByteLevel" in kinds:
            letters = _byte_letters()
            return lambda token: bytes(letters[letter] for letter in token)
        if kinds & {"Metaspace", "ByteFallback"}:
            return _sentencepiece
        raise BadRequest(f"the tokenizer of {self.chat.name} writes its tokens in a way that cannot be mapped to bytes")


def read_logprobs(
    reply: Mapping[str, Any], messages: Messages, top_k: int, vocabulary: Vocabulary | None
) -> TokenLogprobs:
    """The view in a chat completion. `vocabulary`: of the model, where the server does not say ids itself.

    Raises BadRequest where tokens cannot be told, BadReply where the reply has no logprobs, and AccessDenied, which
    ends the run, for what no other reply will have either.
    """
    import numpy as np

    choice = reply["choices"][0]
    content = (choice.get("logprobs") or {}).get("content")
    if content is None:
        raise BadReply("the reply has no logprobs, though they were asked for")
    ids = [_id(entry, vocabulary) for entry in content]
    shape = (len(ids), top_k)
    best = [sorted(entry["top_logprobs"], key=lambda t: -t["logprob"])[:top_k] for entry in content]
    if any(len(row) < top_k for row in best):
        raise AccessDenied(f"the server gives {min(map(len, best))} alternatives a token, not {top_k}: ask for fewer")
    tops = np.array([[t["logprob"] for t in row] for row in best], dtype=np.float32).reshape(shape)
    context = reply.get("prompt_token_ids") or choice.get("prompt_token_ids")
    if context is None and vocabulary is not None:
        context = vocabulary.chat.ask(messages)
    return TokenLogprobs(
        np.array(ids, dtype=np.int64),
        np.array([entry["logprob"] for entry in content], dtype=np.float32),
        np.array([[_id(t, vocabulary) for t in row] for row in best], dtype=np.int64).reshape(shape),
        tops,
        np.clip(1.0 - np.exp(tops).sum(-1), 0.0, 1.0),
    ).after(context or (), "" if vocabulary is None else vocabulary.chat.digest)


def _id(entry: Mapping[str, Any], vocabulary: Vocabulary | None) -> int:
    token: str = entry["token"]
    if token.startswith(ID) and token.removeprefix(ID).isdigit():
        return int(token.removeprefix(ID))
    if vocabulary is None:
        way_out = "give tokenizer=FOLDER, the model's own, to have them as ids; or use vllm:"
        raise AccessDenied(f"this API names tokens by their text: {way_out}")
    raw: Sequence[int] | None = entry.get("bytes")
    return vocabulary.id_of(token.encode() if raw is None else bytes(raw))


def _sentencepiece(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace("\u2581", " ").encode()


def _byte_letters() -> dict[str, int]:
    """The letter that stands for each byte in a byte-level vocabulary (GPT-2): printable ones stand for themselves, the
    others are counted up from 256."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = {chr(byte): byte for byte in printable}
    hidden = [byte for byte in range(256) if byte not in printable]
    return letters | {chr(256 + place): byte for place, byte in enumerate(hidden)}
