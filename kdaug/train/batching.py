"""From records to batches: the chat template, the mask of what is trained, packing without leaks.

A model is trained and judged on exactly the tokens it will be asked for: its own chat template, the prompt seen but not
trained, the end of the turn trained.
"""

from __future__ import annotations

import hashlib
import logging
from array import array
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from kdaug.chat import Chat, Spoken
from kdaug.dataset import Dataset, Split, is_dataset
from kdaug.errors import BadRequest, ConfigError, TrainError
from kdaug.record import Messages, Record
from kdaug.seeds import Seeds
from kdaug.train.document import IGNORE as IGNORE
from kdaug.train.document import Document as Document
from kdaug.train.origin import origin_of
from kdaug.train.settings import Settings
from kdaug.train.shelf import Shelf

if TYPE_CHECKING:
    from torch import Tensor

NAMED = 3  # records that a message names
_log = logging.getLogger(__name__)
Trainable: TypeAlias = Literal["completion", "preference", "unpaired"]

_WAY_OUT = {
    "prompt": "a prompt has no answer yet: generate answers first",
    "preference": "pairs are for `train reward`, and for `train preference` with --loss dpo, simpo or another of "
    'pairs; for SFT on the better answers call "chosen" "completion" and leave "rejected" out',
    "unpaired": "answers labelled good or bad are for `train preference --loss kto`; for SFT keep the good ones and "
    'leave "label" out',
    "completion": "single answers are for SFT and distillation, or with a score for `train preference --loss rrhf` "
    "and pro; pairs have a rejected one as well, and kto wants a label",
}


_Cut: TypeAlias = tuple[Document, bool]
# Of records, an answer each and a length: the documents, and whether each was cut to it.
Documents: TypeAlias = Callable[[Chat, Sequence[Record], Sequence[Messages], int], list[_Cut]]


@dataclass(frozen=True, slots=True)
class Encoded:
    """Records as documents: one a record, or two (chosen, rejected) for a preference.

    `truncated` and `dropped` are ids of records that were cut to `length`, and of those with nothing left to train;
    `alike` of pairs that are left out because both answers are the same.
    `origin`: where they were read from, as `origin_of` has it.
    `beside`: of each record what was asked for besides its tokens.
    """

    records: tuple[str, ...]
    documents: list[tuple[Document, ...]]
    truncated: tuple[str, ...]
    dropped: tuple[str, ...]
    teachers: tuple[str, ...]
    origin: dict[str, Any] = field(default_factory=dict)
    beside: tuple[Any, ...] = ()
    alike: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        return sum(len(d) for d in chain.from_iterable(self.documents))

    @property
    def trained(self) -> int:
        return sum(d.trained for d in chain.from_iterable(self.documents))

    @property
    def digest(self) -> str:
        return hashlib.blake2b("\n".join(self.records).encode(), digest_size=8).hexdigest()


def encode(
    data: Any,
    kind: Trainable,
    chat: Chat,
    length: int,
    split: Split = "train",
    *,
    documents: Documents | None = None,
    beside: Callable[[Record], Any] = lambda record: None,
) -> Encoded:
    """The one way from records to documents, for training and for evaluation.

    `data`: records, something with `.records()`, or a Dataset, of which the split's records of this kind are taken. A
    document is cut to `length` tokens. `documents`: how they are made of records, if not as here; `beside`: what else
    to keep of a record. Raises ConfigError for records of another kind or none at all, and TrainError when nothing or
    everything of them would be trained.
    """
    if length < 2:
        raise ConfigError(f"length must be at least 2 tokens, not {length}")
    records: list[str] = []
    make, made = documents or _documents, list[tuple[Document, ...]]()
    truncated: list[str] = []
    dropped: list[str] = []
    alike: list[str] = []
    teachers: dict[str, None] = {}
    besides: list[Any] = []
    shelf = Shelf()
    for block in _blocks(of_kind(data, kind, split), 1000):
        sides = [make(chat, block, [r.completion or () for r in block], length)]
        if kind == "preference":
            sides.append(make(chat, block, [r.rejected or () for r in block], length))
        shelved = iter(shelf.put([document for side in sides for document, _ in side]))
        sides = [[(next(shelved), cut) for _, cut in side] for side in sides]
        for record, *answers in zip(block, *sides, strict=True):
            if any(cut for _, cut in answers):
                truncated.append(record.id)
            if not all(document.trained for document, _ in answers):
                dropped.append(record.id)
                continue
            if len(answers) > 1 and len({document.ids.tobytes() for document, _ in answers}) == 1:
                alike.append(record.id)  # there is nothing to prefer: a margin of 0, whatever is learnt
                continue
            records.append(record.id)
            made.append(tuple(document for document, _ in answers))
            besides.append(beside(record))
            teachers.update(dict.fromkeys(record.teachers))
    kept = (tuple(records), made, tuple(truncated), tuple(dropped), tuple(teachers))
    encoded = Encoded(*kept, origin_of(data, split), tuple(besides), tuple(alike))
    _check_trained(encoded, length)
    return encoded


def encode_held_out(
    data: Any,
    chat: Chat,
    how: Settings,
    *,
    documents: Documents | None = None,
    beside: Callable[[Record], Any] = lambda record: None,
) -> Encoded | None:
    """The records of `held_out_of`, encoded."""
    judged = held_out_of(data, how)
    if judged is None:
        return None
    return encode(judged, how.kind, chat, how.length, "test", documents=documents, beside=beside)


def held_out_of(data: Any, how: Settings) -> Dataset | None:
    """The dataset that `data` is or was read from, where `how` wants to look at its held-out records.

    Raises ConfigError where it has none.
    """
    if not how.eval_every:
        return None
    if isinstance(data, Seeds) and data.split == "train" and _is_dataset(Path(data.source)):
        data = Dataset(data.source)
    if not (isinstance(data, Dataset) and "test" in data.counts.get(how.kind, {})):
        raise ConfigError(
            f"eval_every={how.eval_every} needs held-out {how.kind} records: a dataset with a test split (a run with "
            "--holdout 0.1 makes one)"
        )
    return data


def check_truncated(data: Encoded, length: int, allowed: float) -> None:
    """Say how many records were cut to `length` tokens, and how many pairs are left out as their answers are the same.
    Raises TrainError where more than the share `allowed` is cut."""
    cut, everything = len(data.truncated), len(data.records) + len(data.dropped) + len(data.alike)
    if data.alike:
        says = "%d of %d pairs are left out: their chosen and rejected answers are the same (%s)"
        _log.warning(says, len(data.alike), everything, _names(data.alike))
    if not cut:
        return
    names = _names(data.truncated)
    says = f"{cut} of {everything} records are cut to length={length} tokens, {len(data.dropped)} of them to nothing"
    if cut > allowed * everything:
        raise TrainError(f"{says} ({names}): raise length, or max_truncated (now {allowed:g}) to train on the rest")
    _log.warning("%s (%s)", says, names)


def _names(records: Sequence[str]) -> str:
    return ", ".join(records[:NAMED]) + (", …" if len(records) > NAMED else "")


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

    Positions restart in every document, the padding being one more: that is what keeps documents apart. `sizes` are
    the documents' lengths, row by row.
    """

    ids: Tensor
    positions: Tensor
    targets: Tensor
    owner: Tensor
    sizes: tuple[tuple[int, ...], ...]

    def to(self, device: Any) -> Batch:
        return self._each(lambda t: t.to(device, non_blocking=True))

    def in_one_row(self) -> Batch:
        """All documents in their order, without padding: [1, N]."""
        import torch

        lengths = [sum(row) for row in self.sizes]
        flat = self._each(lambda t: torch.cat([t[i, :n] for i, n in enumerate(lengths)])[None])
        return replace(flat, sizes=(tuple(chain.from_iterable(self.sizes)),))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(change(self.ids), change(self.positions), change(self.targets), change(self.owner), self.sizes)


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
            ids[r, span] = torch.tensor(document.ids.tolist())
            targets[r, span] = torch.tensor(document.targets.tolist())
            positions[r, span] = torch.arange(len(document))
            owner[r, span] = number
            at, number = at + len(document), number + 1
        positions[r, at:] = torch.arange(longest - at)
    return Batch(ids, positions, targets, owner, tuple(tuple(map(len, row)) for row in rows))


def _documents(chat: Chat, records: Sequence[Record], answers: Sequence[Messages], length: int) -> list[_Cut]:
    """Each record's prompt with an answer, and whether it was cut to `length` tokens."""
    spoken = [_speak(chat, record, answer) for record, answer in zip(records, answers, strict=True)]
    encoded = zip(chat.encode(spoken), records, strict=True)
    return [_document(ids, said, length, record.id) for (ids, said), record in encoded]


def _speak(chat: Chat, record: Record, answer: Messages) -> Spoken:
    try:
        return chat.speak(record.prompt, answer, record.tools)
    except BadRequest as e:
        raise TrainError(f"record {record.id}: {e}") from e


def _document(ids: list[int], said: list[bool], length: int, record: str) -> _Cut:
    kept = ids[:length]
    follows = [t if mine else IGNORE for t, mine in zip(kept, said, strict=False)]
    targets = array("i", [*follows[1:], *[IGNORE] * bool(kept)])
    return Document(array("i", kept), targets, record), len(ids) > length


def of_kind(data: Any, kind: Trainable, split: Split) -> Iterator[Record]:
    """The records of `data`, as `encode` takes them. Raises ConfigError for one of another kind."""
    for record in _records(data, kind, split):
        if not isinstance(record, Record):
            raise ConfigError(
                f"training data are kdaug records, not {type(record).__name__}: read files with kdaug.read"
            )
        if record.kind != kind:
            raise ConfigError(f"record {record.id} is of kind {record.kind!r}, not {kind!r}: {_WAY_OUT[record.kind]}")
        if not record.prompt:
            raise ConfigError(f"record {record.id} has an empty prompt: there is nothing that it answers")
        if any(_empty(answer) for answer in (record.completion, record.rejected) if answer is not None):
            raise ConfigError(
                f"record {record.id} has an empty answer, which would teach to say nothing: leave it out (the gate "
                "heuristics drops such records)"
            )
        yield record


def _is_dataset(path: Path) -> bool:
    return is_dataset(path) or is_dataset(path / "dataset")


def _empty(answer: Messages) -> bool:
    return not any(m.content.strip() or m.tool_calls for m in answer if m.role == "assistant")


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
    if not encoded.records and encoded.alike:
        raise ConfigError(
            f"all {len(encoded.alike)} pairs have the same answer as chosen and as rejected ({_names(encoded.alike)}), "
            "so there is nothing to prefer"
        )
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
