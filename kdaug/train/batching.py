"""From records to batches: the chat template, the mask of what is trained, packing without leaks.

A model is trained and judged on exactly the tokens it will be asked for: its own chat template, the prompt seen but not
trained, the end of the turn trained.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import orjson

from kdaug.dataset import Dataset, Split
from kdaug.errors import ConfigError, TrainError
from kdaug.record import Message, Messages, Record

if TYPE_CHECKING:
    from torch import Tensor

IGNORE = -100  # the target of a position that is not trained: torch's own convention
Trainable: TypeAlias = Literal["completion", "preference"]
Render: TypeAlias = Callable[..., str]

_WAY_OUT = {
    "prompt": "a prompt has no answer yet: generate answers first",
    "preference": "pairs are for DPO; for SFT on the better answer use record.child(by=…, rejected=None)",
    "unpaired": "answers labelled good or bad: keep the good ones as record.child(by=…, label=None)",
    "completion": "single answers are for SFT; DPO needs a rejected one as well",
}


@dataclass(frozen=True, slots=True)
class Document:
    """One prompt with one answer: `ids` [T], and `targets` [T]: the token that follows, or IGNORE."""

    ids: array[int]
    targets: array[int]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def trained(self) -> int:
        return len(self.targets) - self.targets.count(IGNORE)


@dataclass(frozen=True, slots=True)
class Encoded:
    """Records as documents: one a record, or two (chosen, rejected) for a preference.

    `truncated` and `dropped` are ids of records that were cut to `length`, and of those with nothing left to train.
    """

    records: tuple[str, ...]
    documents: list[tuple[Document, ...]]
    truncated: tuple[str, ...]
    dropped: tuple[str, ...]
    teachers: tuple[str, ...]

    @property
    def tokens(self) -> int:
        return sum(len(d) for d in chain.from_iterable(self.documents))

    @property
    def trained(self) -> int:
        return sum(d.trained for d in chain.from_iterable(self.documents))

    @property
    def digest(self) -> str:
        return hashlib.blake2b("\n".join(self.records).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Chat:
    """A model's tokenizer with its chat template; `ends` are the tokens that end its turn."""

    name: str
    tokenizer: Any  # of transformers, whose types are not followed
    ends: tuple[int, ...]

    @classmethod
    def of(cls, folder: Path) -> Chat:
        """Raises TrainError where conversations cannot be told from text by this tokenizer."""
        from transformers import AutoTokenizer, GenerationConfig

        tokenizer = AutoTokenizer.from_pretrained(folder)
        if not tokenizer.chat_template:
            raise TrainError(f"{folder} has no chat template: put one into {folder / 'chat_template.jinja'}")
        if not tokenizer.is_fast:
            raise TrainError(f"{folder} has no tokenizer.json, so no character offsets: convert its tokenizer first")
        ends = [tokenizer.eos_token_id]
        if (folder / "generation_config.json").is_file():
            more = GenerationConfig.from_pretrained(folder).eos_token_id
            ends += more if isinstance(more, list) else [more]
        known = tuple(dict.fromkeys(e for e in ends if e is not None))
        if not known:
            raise TrainError(f"{folder} has no end-of-text token: set eos_token in {folder / 'tokenizer_config.json'}")
        return cls(str(folder), tokenizer, known)

    @property
    def pad(self) -> int:
        """Padding is neither seen nor trained, so any token serves where the tokenizer names none."""
        pad = self.tokenizer.pad_token_id
        return self.ends[0] if pad is None else int(pad)

    def render(self, messages: Messages, *, tools: Sequence[Any], ask: bool = False) -> str:
        """The text of a conversation; with `ask`, up to where the model's answer begins."""
        from jinja2 import TemplateError

        plain = [_as_chat(m) for m in messages]
        offered = list(tools) or None
        try:
            text = self.tokenizer.apply_chat_template(plain, tools=offered, tokenize=False, add_generation_prompt=ask)
        except TemplateError as e:
            raise TrainError(f"the chat template of {self.name} rejects a conversation: {e}") from e
        return str(text)

    def documents(self, conversations: Sequence[tuple[Record, Messages]], length: int) -> list[tuple[Document, bool]]:
        """Each record's prompt with an answer, and whether it was cut to `length` tokens."""
        rendered = [self._spans(record, answer) for record, answer in conversations]
        encoded = self.tokenizer(
            [text for text, _ in rendered],
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
        )
        rows = zip(encoded["input_ids"], encoded["offset_mapping"], rendered, strict=True)
        return [self._document(ids, offsets, spans, length) for ids, offsets, (_, spans) in rows]

    def _spans(self, record: Record, answer: Messages) -> tuple[str, list[tuple[int, int]]]:
        """The whole text, to be encoded as one, and the character range of each of the assistant's turns in the answer,
        from where it begins to speak to the end of the turn."""
        render = partial(self.render, tools=record.tools)
        messages = record.prompt + answer
        text, spans = render(messages), []
        for i in range(len(record.prompt), len(messages)):
            if messages[i].role != "assistant":
                continue
            start = _answer_start(text, messages[:i], render)
            upto = text if i + 1 == len(messages) else render(messages[: i + 1])
            if start is None or not text.startswith(upto):
                raise TrainError(
                    f"record {record.id}: the chat template of {self.name} rewrites a conversation when an answer "
                    "follows, so the answer cannot be told apart: use a template that only appends"
                )
            # What a template writes after its end-of-turn token (a newline) is never generated.
            spans.append((start, len(upto.rstrip())))
        return text, spans

    def _document(
        self, ids: list[int], offsets: list[tuple[int, int]], spans: list[tuple[int, int]], length: int
    ) -> tuple[Document, bool]:
        trained = [end > start and any(a <= start < b for a, b in spans) for start, end in offsets]
        last = max((i for i, wanted in enumerate(trained) if wanted), default=-1)
        ids, trained = ids[: last + 1], trained[: last + 1]
        if ids and ids[-1] not in self.ends and ids[-1] not in self.tokenizer.all_special_ids:
            # The template ends a turn with nothing, but the model must learn to stop.
            ids, trained = [*ids, self.ends[0]], [*trained, True]
        kept = ids[:length]
        follows = [t if wanted else IGNORE for t, wanted in zip(kept, trained, strict=False)]
        return Document(array("i", kept), array("i", [*follows[1:], *[IGNORE] * bool(kept)])), len(ids) > length


def encode(data: Any, kind: Trainable, chat: Chat, length: int, split: Split = "train") -> Encoded:
    """The one way from records to documents, for training and for evaluation.

    `data`: records, something with `.records()`, or a Dataset, of which the split's records of this kind are taken. A
    document is cut to `length` tokens. Raises ConfigError for records of another kind or none at all, and TrainError
    when nothing or everything of them would be trained.
    """
    if length < 2:
        raise ConfigError(f"length must be at least 2 tokens, not {length}")
    records: list[str] = []
    documents: list[tuple[Document, ...]] = []
    truncated: list[str] = []
    dropped: list[str] = []
    teachers: dict[str, None] = {}
    for block in _blocks(_of_kind(data, kind, split), 1000):
        sides = [chat.documents([(r, r.completion or ()) for r in block], length)]
        if kind == "preference":
            sides.append(chat.documents([(r, r.rejected or ()) for r in block], length))
        for record, *answers in zip(block, *sides, strict=True):
            if any(cut for _, cut in answers):
                truncated.append(record.id)
            if not all(document.trained for document, _ in answers):
                dropped.append(record.id)
                continue
            records.append(record.id)
            documents.append(tuple(document for document, _ in answers))
            teachers.update(dict.fromkeys(record.teachers))
    encoded = Encoded(tuple(records), documents, tuple(truncated), tuple(dropped), tuple(teachers))
    _check_trained(encoded, length)
    return encoded


def pack(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Which documents share a row of at most `length` tokens: best-fit decreasing, as indices.

    The largest first, each into the fullest row that still has room (arXiv 2404.10830 uses it for training data).
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens free, row), sorted
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        at = bisect_left(room, (sizes[i], 0))
        if at == len(room):
            free, row = length, len(rows)
            rows.append([])
        else:
            free, row = room.pop(at)
        rows[row].append(i)
        insort(room, (free - sizes[i], row))
    return rows


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of documents. `ids`, `positions`, `targets` [B, L]; `owner` [B, L] numbers the documents in order.

    Positions restart in every document, the padding being one more: that is what keeps documents apart.
    """

    ids: Tensor
    positions: Tensor
    targets: Tensor
    owner: Tensor

    def to(self, device: Any) -> Batch:
        return Batch(*(t.to(device, non_blocking=True) for t in (self.ids, self.positions, self.targets, self.owner)))


def collate(rows: Sequence[Sequence[Document]], pad: int) -> Batch:
    """Rows of documents as tensors, padded to the longest row."""
    import torch

    longest = max(sum(map(len, row)) for row in rows)
    ids = torch.full((len(rows), longest), pad)
    targets = torch.full((len(rows), longest), IGNORE)
    positions, owner = torch.zeros_like(ids), torch.zeros_like(ids)
    number = 0
    for r, row in enumerate(rows):
        at = 0
        for document in row:
            span = slice(at, at + len(document))
            ids[r, span] = torch.tensor(document.ids, dtype=torch.long)
            targets[r, span] = torch.tensor(document.targets, dtype=torch.long)
            positions[r, span] = torch.arange(len(document))
            owner[r, span] = number
            at, number = at + len(document), number + 1
        positions[r, at:] = torch.arange(longest - at)
    return Batch(ids, positions, targets, owner)


def _answer_start(text: str, before: Messages, render: Render) -> int | None:
    """Where in `text` the answer to `before` begins; None where the template rewrote what came before.

    Some templates open the answer with more when they ask for one (an empty thought); what both share is the prompt.
    """
    asked = render(before, ask=True)
    if text.startswith(asked):
        return len(asked)
    plain = render(before)
    if not (text.startswith(plain) and asked.startswith(plain)):
        return None
    return next((i for i, (a, b) in enumerate(zip(text, asked, strict=False)) if a != b), len(text))


def _as_chat(message: Message) -> dict[str, Any]:
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


def _of_kind(data: Any, kind: Trainable, split: Split) -> Iterator[Record]:
    for record in _records(data, kind, split):
        if not isinstance(record, Record):
            raise ConfigError(
                f"training data are kdaug records, not {type(record).__name__}: read files with kdaug.read"
            )
        if record.kind != kind:
            raise ConfigError(f"record {record.id} is of kind {record.kind!r}, not {kind!r}: {_WAY_OUT[record.kind]}")
        if not record.prompt:
            raise ConfigError(f"record {record.id} has an empty prompt: there is nothing that it answers")
        yield record


def _records(data: Any, kind: Trainable, split: Split) -> Iterable[Any]:
    """Of a Dataset never the split that is held out from training; without a test split all of it is judged by."""
    if isinstance(data, Dataset):
        held_out = split == "train" or "test" in data.counts.get(kind, {})
        return data.records(kind, split if held_out else None)
    records: Iterable[Any] = data.records() if hasattr(data, "records") else data
    return records


def _blocks(records: Iterator[Record], size: int) -> Iterator[list[Record]]:
    while block := list(islice(records, size)):
        yield block


def _check_trained(encoded: Encoded, length: int) -> None:
    if not encoded.records and not encoded.dropped:
        raise ConfigError("there are no records to train on or to judge by")
    if encoded.trained == 0:
        raise TrainError(
            f"no token would be trained: all {len(encoded.dropped)} answers are cut off at {length} tokens"
        )
    # The last position of a document has nothing to predict, so all the others is everything.
    if encoded.trained == encoded.tokens - sum(len(pair) for pair in encoded.documents):
        raise TrainError(
            "every token would be trained, prompts included: the records have no prompt, or a wrong template"
        )
