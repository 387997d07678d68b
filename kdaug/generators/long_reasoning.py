"""Long reasoning: worked traces with their doubts and checks, of which the longest right one stays (after s1,
arXiv 2501.19393)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar, NamedTuple

from kdaug.answers import final_answer, same_answer
from kdaug.errors import ConfigError, shorten
from kdaug.generator import Generate
from kdaug.prompts import converse
from kdaug.record import Discarded, Drop, Record, assistant, text_of
from kdaug.samples import sampled
from kdaug.teacher import Completion
from kdaug.words import count_words, words


@dataclass(frozen=True)
class LongReasoning:
    """Samples `samples` traces of a problem whose answer is known and keeps the longest that ends in it.

    The completion is `<think>…</think>` and the answer. The thought is what the teacher gives apart as its reasoning,
    or else all before the line of the answer. A trace that ends in another answer is `long_reasoning:wrong`, one that
    runs in circles (eight words in a row, four times) `long_reasoning:loops`, a right one that is shorter
    `long_reasoning:shorter`, of equally long ones all but the first `long_reasoning:tie`, one without a thought
    `long_reasoning:no_thought`.
    """

    samples: int = 4
    temperature: float = 0.7
    max_tokens: int = 8192

    name: ClassVar[str] = "long_reasoning"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ConfigError(f"long_reasoning: samples is {self.samples}; it must be at least 1")

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        if record.completion is None:
            return [Discarded(record, Drop("long_reasoning:no_reference"))]
        asked = (*record.prompt[:-1], *converse("long_reasoning/solve", problem=record.prompt[-1].content))
        calls = [generate(asked, temperature=self.temperature, max_tokens=self.max_tokens) for _ in range(self.samples)]
        usable, made = await sampled(record, calls, by=self.name)
        right: list[tuple[int, Record]] = []
        turned_down: list[Discarded] = [*made]
        for reply in usable:
            trace = trace_of(reply)
            told = assistant(f"<think>\n{trace.thought}\n</think>\n\n{trace.answer}")
            child = record.child(by=self.name, replies=[reply], completion=told, rejected=None, label=None)
            if flaw := _flaw(trace, text_of(record.completion)):
                turned_down.append(Discarded(child, flaw))
            else:
                right.append((count_words(trace.thought), child))
        longest = max((length for length, _ in right), default=0)
        kept: list[Record] = []
        for length, child in right:
            if length == longest and not kept:
                kept.append(child)
            else:
                why = "tie" if length == longest else "shorter"
                turned_down.append(
                    Discarded(child, Drop(f"long_reasoning:{why}", {"words": length, "longest": longest}))
                )
        return [*kept, *turned_down]


class Trace(NamedTuple):
    thought: str
    answer: str


def trace_of(reply: Completion) -> Trace:
    """The thought and the answer: apart as the teacher gives them, else parted before the last line."""
    text = reply.text.strip()
    if reply.reasoning.strip():
        return Trace(reply.reasoning.strip(), text)
    thought, _, answer = text.rpartition("\n")
    return Trace(thought.strip(), answer.strip())


def loops(text: str, run: int = 8, times: int = 4) -> bool:
    """Whether the same `run` words stand in a row `times` times: a model that goes in circles."""
    said = words(text)
    counts = Counter(tuple(said[i : i + run]) for i in range(len(said) - run + 1))
    return max(counts.values(), default=0) >= times


def _flaw(trace: Trace, reference: str) -> Drop | None:
    if not trace.thought:
        return Drop("long_reasoning:no_thought")
    if not same_answer(trace.answer, reference):
        evidence = {"answer": shorten(final_answer(trace.answer)), "reference": final_answer(reference)}
        return Drop("long_reasoning:wrong", {**evidence})
    return Drop("long_reasoning:loops") if loops(trace.thought) else None
