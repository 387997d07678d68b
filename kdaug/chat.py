"""A model's own chat: from a conversation to the tokens that it continues, is scored by or is trained on, and back.

Teachers and trainer share it, so a student is trained on exactly the tokens that it will be asked with.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import orjson

from kdaug.errors import BadRequest, ConfigError, shorten
from kdaug.record import Json, Message, Messages
from kdaug.teacher import Continues

MARK, SYSTEM_MARK = "KDAUG-7c1f-USER", "KDAUG-7c1f-SYSTEM"  # stand for a turn's words where a template is taken apart
JOINER = "\u2060"  # of no width, and at which no line breaks
OPENING = 8  # tokens at the end of a prompt in which an opened tag stands, also where it is no token of its own
# Qwen3, DeepSeek-R1 and others; the opening tag may be part of the prompt.
THOUGHT = re.compile(r"\s*(?:<think>)?(.*?)</think>\s*", re.S)


@dataclass(frozen=True, slots=True)
class Spoken:
    """The whole text of a conversation, to be encoded as one, and the character range of each of the assistant's turns
    in its answer: from where it begins to speak to the end of the turn."""

    text: str
    spans: list[tuple[int, int]]


@dataclass(frozen=True)
class Chat:
    """A model's tokenizer with its chat template; `ends` are the tokens that end its turn.

    A special token that a message spells out (`<|im_start|>`) is text and no token: it gets a character without width
    after its first, so that what somebody wrote cannot end a turn or open one.
    """

    name: str
    tokenizer: Any  # of transformers, whose types are not followed
    ends: tuple[int, ...]

    @classmethod
    def load(cls, folder: str | Path) -> Chat:
        """The chat of a model's folder. Raises ConfigError as `of` does, and for a tokenizer that cannot be read."""
        from transformers import AutoTokenizer, GenerationConfig

        more = None
        try:
            if (Path(folder) / "generation_config.json").is_file():
                more = GenerationConfig.from_pretrained(folder).eos_token_id
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError, KeyError) as e:
            raise ConfigError(f"the tokenizer in {folder} cannot be read: {shorten(str(e), 300)}") from e
        return cls.of(str(folder), tokenizer, more)

    @classmethod
    def of(cls, name: str, tokenizer: Any, more_ends: int | list[int] | None = None) -> Chat:
        """`more_ends`: those that the generation config names besides the tokenizer's own (Llama 3 names two).

        Raises ConfigError for a model that knows no conversations, or no end of them.
        """
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError(
                f"{name} has no chat template: it is no chat model; use its instruct version, or put a template into "
                "its chat_template.jinja"
            )
        if not tokenizer.is_fast:
            raise ConfigError(f"{name} has no tokenizer.json, so no character offsets: convert its tokenizer first")
        ends = [tokenizer.eos_token_id, *(more_ends if isinstance(more_ends, list) else [more_ends])]
        known = tuple(dict.fromkeys(end for end in ends if end is not None))
        if not known:
            raise ConfigError(f"{name} has no end-of-text token: set eos_token in its tokenizer_config.json")
        return cls(name, tokenizer, known)

    @cached_property
    def digest(self) -> str:
        """A hash of the vocabulary: ids of two models mean the same where it is the same."""
        entries = sorted(self.tokenizer.get_vocab().items())
        return hashlib.blake2b(orjson.dumps(entries), digest_size=8).hexdigest()

    @property
    def pad(self) -> int:
        """Padding is neither seen nor trained, so any token serves where the tokenizer names none."""
        pad = self.tokenizer.pad_token_id
        return self.ends[0] if pad is None else int(pad)

    def render(self, messages: Messages, *, tools: Sequence[Json] = (), ask: bool = False) -> str:
        """The text of a conversation; with `ask`, up to where the model's answer begins.

        Raises BadRequest where the template rejects it (a system message, two turns of one role).
        """
        from jinja2 import TemplateError

        plain, offered = [_plain(self._quiet(m)) for m in messages], list(tools) or None
        try:
            text = self.tokenizer.apply_chat_template(plain, tools=offered, tokenize=False, add_generation_prompt=ask)
        except TemplateError as e:
            raise BadRequest(f"the chat template of {self.name} rejects this conversation: {e}") from e
        return str(text)

    @cached_property
    def _special(self) -> re.Pattern[str]:
        added = getattr(self.tokenizer, "added_tokens_decoder", {}).values()
        words = sorted((t.content for t in added if t.special and len(t.content) > 1), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, words)) or r"(?!)")

    def _quiet(self, message: Message) -> Message:
        said = (message.content, *(call.arguments for call in message.tool_calls))
        if not any(map(self._special.search, said)):
            return message
        calls = tuple(replace(call, arguments=self._split(call.arguments)) for call in message.tool_calls)
        return replace(message, content=self._split(message.content), tool_calls=calls)

    def _split(self, text: str) -> str:
        return self._special.sub(lambda found: f"{found[0][0]}{JOINER}{found[0][1:]}", text)

    def ask(self, messages: Messages) -> list[int]:
        """The token ids that the model continues with its answer; the template has written every special token."""
        text = self.render(messages, ask=True)
        # Not verbose: of a text that is too long whoever asks has something better to say.
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def open_user(self, messages: Messages = ()) -> str:
        """The text up to and including the header of a further turn of the user: what a model goes on from that is to
        write the user's words (Magpie, arXiv 2406.08464, §2.1). Byte for byte what the template writes.

        A system message that the template makes up by itself, where the conversation has none, is left out: it would
        steer what is to come out of nothing. Raises BadRequest where the template rejects it.
        """
        text = _before(self.render((*messages, Message("user", MARK))))
        if any(m.role == "system" for m in messages):
            return text
        return self._without_own_system(text, messages)

    def _without_own_system(self, text: str, messages: Messages) -> str:
        """`text` less the system turn that the template writes without being told; as it is where there is none."""
        try:
            told = self.render((Message("system", SYSTEM_MARK), *messages, Message("user", MARK)))
            alone = self.render((Message("user", MARK),))
        except BadRequest:
            return text  # it knows no system messages, so it makes none up
        opening, _, rest = _before(told).partition(SYSTEM_MARK)
        ending = alone.partition(MARK)[2]  # how a turn ends
        own = len(text) - len(opening) - len(rest)
        if not rest.startswith(ending) or own <= 0 or not (text.startswith(opening) and text.endswith(rest)):
            return text
        begin, turn = self.tokenizer.bos_token or "", rest[len(ending) :]
        # SmolLM2's first token is also the one that opens every turn: there it stands twice, or not by itself.
        written = begin * 2 if turn.startswith(begin) else begin
        return (begin if opening.startswith(written) else "") + turn

    def tokens_of(self, messages: Messages, continues: Continues) -> list[int]:
        """The token ids that a reply goes on from: see `Request.continues`."""
        if continues == "assistant":
            return self.ask(messages)
        if continues == "user":
            ids: list[int] = self.tokenizer(self.open_user(messages), add_special_tokens=False)["input_ids"]
            return ids
        if len(messages) != 1:
            raise BadRequest("a bare text to go on from is one message")
        bare: list[int] = self.tokenizer(messages[0].content)["input_ids"]
        return bare

    def opens_thought(self, ids: Sequence[int]) -> bool:
        """Whether a prompt ends in an opened think tag (DeepSeek-R1, QwQ): the reply begins within the thought."""
        return str(self.tokenizer.decode(ids[-OPENING:])).rstrip().endswith("<think>")

    def decode(self, ids: Sequence[int]) -> str:
        """The text of what the model wrote, without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def speak(self, prompt: Messages, answer: Messages, tools: Sequence[Json] = ()) -> Spoken:
        """A conversation and its answer as the model saw such text in training.

        Raises BadRequest where the template rejects it, or rewrites it when an answer follows.
        """
        render = partial(self.render, tools=tools)
        messages = prompt + answer
        text, spans = render(messages), []
        for i in range(len(prompt), len(messages)):
            if messages[i].role != "assistant":
                continue
            start = _answer_start(text, render(messages[:i]), render(messages[:i], ask=True))
            upto = text if i + 1 == len(messages) else render(messages[: i + 1])
            if start is None or not text.startswith(upto):
                raise BadRequest(
                    f"the chat template of {self.name} rewrites a conversation when an answer follows, so the answer "
                    "cannot be told apart: use a template that only appends"
                )
            # What a template writes after its end-of-turn token (a newline) is never generated.
            spans.append((start, len(upto.rstrip())))
        return Spoken(text, spans)

    def encode(self, spoken: Sequence[Spoken]) -> list[tuple[list[int], list[bool]]]:
        """Each one's token ids up to the end of its answer, and which of them the assistant says in it."""
        encoded = self.tokenizer(
            [s.text for s in spoken],
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
        )
        rows = zip(encoded["input_ids"], encoded["offset_mapping"], spoken, strict=True)
        return [self._marked(ids, offsets, s.spans) for ids, offsets, s in rows]

    def score(self, prompt: Messages, answer: Messages) -> tuple[list[int], int]:
        """The token ids of a conversation up to the end of the answer's turn, and the first that belongs to the answer.

        Raises BadRequest for an answer that is not one message of the assistant, or that the template changes.
        """
        if len(answer) != 1 or answer[0].role != "assistant":
            raise BadRequest("only one message of the assistant can be scored")
        spoken = self.speak(prompt, answer)
        if self._split(answer[0].content) not in spoken.text[spoken.spans[0][0] :]:
            raise BadRequest(f"the chat template of {self.name} rewrites the answer, so it cannot be scored as it is")
        ((ids, said),) = self.encode([spoken])
        if True not in said:
            raise BadRequest("the answer is empty")
        return ids, said.index(True)

    def _marked(
        self, ids: list[int], offsets: list[tuple[int, int]], spans: list[tuple[int, int]]
    ) -> tuple[list[int], list[bool]]:
        said = [end > start and any(a <= start < b for a, b in spans) for start, end in offsets]
        last = max((i for i, mine in enumerate(said) if mine), default=-1)
        ids, said = ids[: last + 1], said[: last + 1]
        if ids and ids[-1] not in self.ends and ids[-1] not in self.tokenizer.all_special_ids:
            # The template ends a turn with nothing, but the model must stop.
            ids, said = [*ids, self.ends[0]], [*said, True]
        return ids, said


def split_thought(text: str, opened: bool = False) -> tuple[str, str]:
    """(reasoning, answer): what a model wrote between its think tags, and the rest. `opened`: by its prompt already."""
    if "</think>" in text and (found := THOUGHT.match(text)):
        return found[1].strip(), text[found.end() :]
    if opened or text.lstrip().startswith("<think>"):  # cut off while it thought
        return text.lstrip().removeprefix("<think>").strip(), ""
    return "", text


def _before(text: str) -> str:
    """What stands before the last mark of the user's words."""
    return text[: text.rindex(MARK)]


def _answer_start(text: str, before: str, asked: str) -> int | None:
    """Where in `text` the answer to `before` begins; None where the template rewrote what came before.

    Some templates open the answer with more when they ask for one (an empty thought); what both share is the prompt.
    """
    if text.startswith(asked):
        return len(asked)
    if not (text.startswith(before) and asked.startswith(before)):
        return None
    return next((i for i, (a, b) in enumerate(zip(text, asked, strict=False)) if a != b), len(text))


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
