"""A teacher whose tokenizer is another one: its tokens are set against the student's where both end at the same byte.

ULD (arXiv 2402.12030) compares sorted probabilities; `gold` (TRL's GOLD, hybrid) compares those of the tokens that both
have as they are, and sorts only the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from kdaug.chat import Chat
from kdaug.errors import TrainError
from kdaug.record import Record
from kdaug.train.batching import Document, collate, encode
from kdaug.train.cross_vocabulary import Shared, Side, align, byte_ends, linear_aligned_divergence, uld
from kdaug.train.guide import Present
from kdaug.train.lesson import Lesson
from kdaug.train.losses import linear_logprobs
from kdaug.train.student import LAST, Student

if TYPE_CHECKING:
    from torch import Tensor

ACROSS = ("gold", "uld")  # divergences between two vocabularies
Group: TypeAlias = tuple[range, range]


@dataclass(frozen=True, slots=True)
class Pair:
    """One answer in the student's tokens (`document`) and in the teacher's (`other`); `groups` of trained tokens of the
    one and of the other that cover the same bytes."""

    document: Document
    other: Document
    groups: tuple[Group, ...]


def pairs_of(lessons: Sequence[Lesson], records: Iterable[Record], ours: Chat, theirs: Chat, length: int) -> list[Pair]:
    """`records` are gone through twice. Raises TrainError where the teacher's template takes none of the answer within
    `length` tokens."""
    encoded = encode(records, "completion", theirs, length)
    others = dict(zip(encoded.records, encoded.documents, strict=True))
    pairs = []
    for record, lesson in zip(records, lessons, strict=True):
        if record.id not in others:
            raise TrainError(f"record {record.id}: the teacher's prompt alone fills {length} tokens: raise length")
        (other,) = others[record.id]
        sides = [(ours, lesson.document), (theirs, other)]
        ends = [_answer_ends(chat, record)[: document.trained] for chat, document in sides]
        groups = [(s, t) for s, t in align(*ends) if ends[0][s[-1]] == ends[1][t[-1]]]  # not where one was cut
        pairs.append(Pair(lesson.document, other, tuple(groups)))
    return pairs


def _answer_ends(chat: Chat, record: Record) -> list[int]:
    """Where each trained token of the answer ends, in bytes of the answer; the end of the turn one behind it."""
    answer = record.completion or ()
    spoken = chat.speak(record.prompt, answer, record.tools)
    if len(spoken.spans) != 1 or not spoken.text.startswith(answer[0].content, spoken.spans[0][0]):
        raise TrainError(f"record {record.id}: its answer is not one text that {chat.name} leaves as it is")
    ((_, said),) = chat.encode([spoken])
    start, text = spoken.spans[0][0], answer[0].content
    offsets = chat.tokenizer(spoken.text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    own = [(a - start, b - start) for (a, b), mine in zip(offsets, said, strict=False) if mine]
    inside = [(a, min(b, len(text))) for a, b in own if a < len(text)]
    ends = byte_ends(text, inside)
    return [*ends, *(len(text.encode()) + 1 + i for i in range(sum(said) - len(ends)))]


@dataclass(frozen=True)
class FromForeign:
    """The divergence of each group, summed, by the number of the student's trained tokens; `alpha` as in Distill."""

    student: Student
    guide: Present
    between: Callable[[Tensor, Tensor], Tensor]
    alpha: float
    temperature: float

    @classmethod
    def of(cls, student: Student, teacher: Path, dtype: str, divergence: str, **how: float) -> FromForeign:
        """`how`: `beta` of the generalised JSD of shared tokens, `alpha`, `temperature`."""
        guide = Present.load(teacher, Chat.load(teacher), student.device, dtype)
        ours, theirs = (m.chat.tokenizer.get_vocab() for m in (student, guide.teacher))
        shared = partial(Shared.of(ours, theirs, student.device).hybrid, beta=how.pop("beta"))
        return cls(student, guide, shared if divergence == "gold" else uld, **how)

    def weight(self, unit: Sequence[Pair]) -> int:
        return sum(pair.document.trained for pair in unit)

    def documents(self, unit: Sequence[Pair]) -> Sequence[Document]:
        return [pair.document for pair in unit]

    def loss(self, units: Sequence[Sequence[Pair]]) -> tuple[Tensor, dict[str, Tensor]]:
        pairs = [pair for row in units for pair in row]
        with self.student.precision():
            ours = self._side(self.student, [[pair.document for pair in row] for row in units])
            theirs = self._side(self.guide.teacher, [[pair.other for pair in row] for row in units], self.guide)
            groups = _placed(pairs)
            apart = linear_aligned_divergence(ours, theirs, groups, self.between, temperature=self.temperature).sum()
            if self.alpha == 1:
                return apart, {}
            hard = -linear_logprobs(ours.hidden, ours.head, ours.ids).sum()
        return self.alpha * apart + (1 - self.alpha) * hard, {"divergence": apart, "nll": hard}

    def _side(self, model: Student, rows: Sequence[Sequence[Document]], guide: Present | None = None) -> Side:
        batch = collate(rows, model.chat.pad)
        states, ids, _ = model.layers(batch) if guide is None else guide.seen(batch)
        return Side(states[LAST], model.head, ids, max(model.chat.tokenizer.get_vocab().values()) + 1)


def _placed(pairs: Sequence[Pair]) -> list[Group]:
    """The groups of all pairs, by their places among all trained tokens."""
    starts = zip(
        accumulate((p.document.trained for p in pairs), initial=0),
        accumulate((p.other.trained for p in pairs), initial=0),
        strict=True,
    )
    return [
        (range(s.start + ours, s.stop + ours), range(t.start + theirs, t.stop + theirs))
        for pair, (ours, theirs) in zip(pairs, starts, strict=False)
        for s, t in pair.groups
    ]
