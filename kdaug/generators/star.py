"""STaR: a student's own reasoning, kept where its answer is right, with a second try where it was not
(arXiv 2203.14465)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kdaug.answers import final_answer, same_answer
from kdaug.erasure import PromptEraser
from kdaug.errors import shorten
from kdaug.generator import Generate
from kdaug.judging import leaked
from kdaug.prompts import converse
from kdaug.record import Discarded, Drop, Message, Record, assistant, text_of
from kdaug.teacher import Completion

# Words of a reply that tell of a hint which its reader will not see.
HINT_WORDS = (
    "the hint",
    "a hint",
    "given answer",
    "answer is given",
    "answer given",
    "provided answer",
    "correct answer",
)


@dataclass(frozen=True)
class STaR:
    """The student reasons about a prompt after worked examples; a reply that ends in the reference's answer is kept as
    a completion record of the plain prompt. Where it does not, and with `rationalise`, it is asked once more with that
    answer as a hint, and what it then reasons is kept where it ends in the answer (STaR, arXiv 2203.14465, §3.1-3.2).

    Examples, form and hint are in no record: the template's conversation is never stored, and a rationale that speaks
    of the hint, or copies an example, is dropped (`star:hint`, `star:leak`). A success is never rationalised. Examples
    are in the template `star/solve`: put some of your own task's there.

    Drops `star:no_reference`, `star:wrong`, `star:cut`, `star:hint`, `star:leak`; a failure has one drop a try.
    """

    rationalise: bool = True
    temperature: float = 0.01  # authors' code: nearly greedy; higher ones hurt (paper, §5)
    top_p: float = 0.9  # authors' code
    max_tokens: int = 512

    name: ClassVar[str] = "star"
    roles: ClassVar[tuple[str, ...]] = ("student",)
    renders: ClassVar[tuple[str, ...]] = ("star/solve",)

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        if record.completion is None:
            return [Discarded(record, Drop("star:no_reference"))]
        first = await self._reason(record, generate, hint="")
        if isinstance(first, Record) or not self.rationalise:
            return [first]
        return [await self._reason(record, generate, hint=final_answer(text_of(record.completion))), first]

    async def _reason(self, record: Record, generate: Generate, hint: str) -> Record | Discarded:
        asked = self._asked(record, hint)
        reply = await generate(
            asked, role="student", temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens
        )
        by = f"star/{'rationalise' if hint else 'reason'}"
        child = record.child(by=by, replies=[reply], completion=assistant(reply.text), rejected=None, label=None)
        drop = self._flaw(record, reply, hint) or _examples(asked).drop(self.name, child, record.prompt)
        return Discarded(child, drop) if drop else child

    def _asked(self, record: Record, hint: str) -> tuple[Message, ...]:
        """The worked examples, then the prompt in the same form; what was said before it goes first."""
        *before, last = record.prompt
        return (*before, *converse("star/solve", prompt=last.content, hint=hint))

    def _flaw(self, record: Record, reply: Completion, hint: str) -> Drop | None:
        if reply.cut:
            return Drop("star:cut", {"hint": bool(hint)})
        reference = text_of(record.completion)
        if not same_answer(reply.text, reference):
            said, wanted = shorten(final_answer(reply.text)), shorten(final_answer(reference))
            return Drop("star:wrong", {"answer": said, "reference": wanted, "hint": bool(hint)})
        if hint and (phrase := leaked(reply.text, HINT_WORDS, text_of(record.prompt))):
            return Drop("star:hint", {"phrase": phrase})
        return None


def _examples(asked: Sequence[Message]) -> PromptEraser:
    """What finds the words of the worked examples in a record."""
    told = (message.content for message in asked if message.role == "assistant")
    return PromptEraser({f"example {number}": text for number, text in enumerate(told, 1)})
