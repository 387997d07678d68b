"""Self-Instruct: new instructions from the pattern of a few shown ones (arXiv 2212.10560, §2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar, Literal

from kdaug.errors import ConfigError, ParseError
from kdaug.generator import Generate
from kdaug.parsing import numbered_list, one_line
from kdaug.prompts import converse
from kdaug.record import Discarded, Drop, Record, user
from kdaug.teacher import Completion


@dataclass(frozen=True)
class SelfInstruct:
    """Shows the parents' instructions as a numbered list, in random order, and asks for `per_prompt` more;
    all that come are taken.

    The list stands in the conversation as the assistant's own earlier answer, to be continued: a small model that is
    shown examples by the user copies them instead.

    The defaults are the paper's, for a model that continues text. A chat model that reasons aloud or puts blank lines
    between items needs `stop=()`, or the blank line ends its reply too early; the item after the last one asked for
    ends it in any case.

    Raises ParseError("list") when no item is found, and ParseError("complete_list") for a reply cut by `max_tokens`
    with `on_cut="void"`; "drop_last" discards only its last item.
    """

    per_prompt: int = 8  # the paper's code ends a list of 8 at item 16, so 7
    on_cut: Literal["void", "drop_last"] = "void"  # paper's code
    temperature: float = 0.7  # paper's code
    top_p: float = 0.5  # paper's code
    presence_penalty: float = 2.0  # paper's code
    max_tokens: int = 1024  # paper's code
    stop: tuple[str, ...] = ("\n\n",)  # paper's code
    sentence_case: bool = False  # paper's code: True; it also lowers the rest of an item ("Write SQL" → "Write sql")

    name: ClassVar[str] = "self_instruct"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    def __post_init__(self) -> None:
        if self.per_prompt < 1:
            raise ConfigError(f"self_instruct: per_prompt is {self.per_prompt}; it must be at least 1")
        if self.on_cut not in ("void", "drop_last"):
            raise ConfigError(f'self_instruct: on_cut is "{self.on_cut}"; it must be "void" or "drop_last"')

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        shown = [one_line(parent.instruction).rstrip(": ") for parent in parents]
        rng.shuffle(shown)
        first, last = len(shown) + 1, len(shown) + self.per_prompt
        reply = await generate(
            converse("self_instruct/tasks", shown=shown, count=self.per_prompt, first=first, last=last),
            temperature=self.temperature,
            top_p=self.top_p,
            presence_penalty=self.presence_penalty,
            max_tokens=self.max_tokens,
            stop=(*self.stop, f"\n{last + 1}."),
        )
        if reply.cut and self.on_cut == "void":
            raise ParseError("complete_list", reply.text)
        items = numbered_list(reply.text, first)
        if not items:
            raise ParseError("list", reply.text)
        made: list[Record | Discarded] = [self._child(parents, item, reply) for item in items]
        if reply.cut:
            made[-1] = Discarded(self._child(parents, items[-1], reply), Drop("self_instruct:cut"))
        return made

    def _child(self, parents: Sequence[Record], item: str, reply: Completion) -> Record:
        text = item.capitalize() if self.sentence_case else item[0].upper() + item[1:]
        return parents[0].child(
            *parents[1:],
            by=self.name,
            replies=[reply],
            prompt=user(text),
            completion=None,
            rejected=None,
            label=None,
            tools=(),
            meta={"instruction": text},
        )
