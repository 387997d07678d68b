"""Talking with a model: turn by turn, in the chat template that it was trained in, its words as they come."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from kdaug.chat import Chat, split_thought
from kdaug.device import computes_in_half, pick_device, quiet, threads
from kdaug.errors import BadRequest
from kdaug.record import Message, Messages
from kdaug.train.student import loading, locate

Say = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Talker:
    """A model that answers; `context`: how many tokens it can see at once."""

    name: str
    model: Any  # of transformers, whose types are not followed
    chat: Chat
    context: int

    @classmethod
    def load(cls, name: str, device: str = "auto") -> Talker:
        """By a folder, a GGUF file or a Hub id. Raises ConfigError where there is no such model, or it cannot chat."""
        from transformers import AutoModelForCausalLM

        place, folder = pick_device(device), locate(name)
        dtype = "bfloat16" if computes_in_half(place) else "float32"
        with loading(name):
            chat = Chat.load(folder)
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(place).eval()
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        return cls(name, model, chat, positions or 1 << 30)

    def answer(self, messages: Messages, say: Say, *, temperature: float, top_p: float, max_tokens: int) -> str:
        """The reply, whose words `say` gets as they come. A KeyboardInterrupt ends it: what was said counts.

        Raises BadRequest for a conversation that the template rejects, or that leaves no room for a reply.
        """
        import torch

        ids = self.chat.ask(messages)
        room = min(max_tokens, self.context - len(ids))
        if room < 1:
            raise BadRequest(
                f"the conversation has {len(ids)} tokens and {self.name} sees {self.context}: start anew with /reset"
            )
        words = _Words(self.chat, say)
        how: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if temperature > 0:
            how = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
        given = torch.tensor([ids], device=self.model.device)
        with threads(), quiet(), suppress(KeyboardInterrupt):
            self.model.generate(
                given,
                attention_mask=torch.ones_like(given),
                max_new_tokens=room,
                eos_token_id=list(self.chat.ends),
                pad_token_id=self.chat.pad,
                streamer=words,
                **how,
            )
        return words.text


class _Words:
    """A streamer of transformers: says what is new of the text, once its last letter is whole."""

    def __init__(self, chat: Chat, say: Say) -> None:
        self._chat, self._say = chat, say
        self._ids: list[int] = []
        self._prompted = False
        self.text = ""

    def put(self, ids: Any) -> None:
        if not self._prompted:  # the first are the prompt's own
            self._prompted = True
            return
        self._ids += ids.tolist()
        self._tell(self._chat.decode(self._ids))

    def end(self) -> None:
        self._tell(self._chat.decode(self._ids), whole=True)

    def _tell(self, text: str, whole: bool = False) -> None:
        if len(text) > len(self.text) and (whole or not text.endswith("\ufffd")):
            new, self.text = text[len(self.text) :], text
            self._say(new)


@dataclass
class Conversation:
    """Turns with one model; several models each have their own. `opening`: what stands before the first turn."""

    talker: Talker
    opening: Messages = ()
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 512
    turns: list[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.talker.chat.render((*self.opening, Message("user", "?")), ask=True)  # a template may know no system turn

    def reset(self) -> None:
        self.turns.clear()

    def say(self, text: str, hear: Say) -> None:
        """The model's answer to `text`, which then belongs to the conversation, without its thoughts."""
        asked = Message("user", text)
        reply = self.talker.answer(
            (*self.opening, *self.turns, asked),
            hear,
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
        )
        self.turns += [asked, Message("assistant", split_thought(reply)[1])]
