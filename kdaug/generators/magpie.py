"""Magpie: an aligned model makes up its own instructions, from its chat template alone (arXiv 2406.08464)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kdaug.errors import ConfigError, ParseError, TeacherError
from kdaug.generator import Generate, settled
from kdaug.prompts import render
from kdaug.record import Discarded, Drop, Messages, Record, assistant, system, user
from kdaug.teacher import Completion

# What opens a turn in the templates of common models: where a model writes one, its instruction is over.
HEADERS = ("<|im_start|>", "<|start_header_id|>", "<|user|>", "<|assistant|>", "[INST]", "### Response", "\nassistant")
_LABEL = re.compile(
    r"\A\s*(?:\*\*)?(?:task|question|problem|instruction|query)\s*#?\d*\s*[:.)](?:\*\*)?\s*", re.IGNORECASE
)
_ANSWER = re.compile(r"^\s*(?:\*\*)?(?:answer|solution|response|step 1)\b.*", re.IGNORECASE | re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Magpie:
    """Lets the teacher write the user's first turn, `samples` times a job; answer it in a stage of `respond`.

    The model is given its own template up to and including the user's header, with no text, no system message and no
    header of the assistant: what it goes on with is an instruction. Nothing of the seed is shown, but for its system
    message, which steers what is made and is not kept; a seed only says where the records belong.

    With `one_line` an instruction ends at its first line break. `sanitize` strips a label before it, and cuts what
    begins to answer it and what follows its first question mark. With `turns` above 1 the model answers itself and
    writes a further turn of the user, under a system message that is told for that turn alone.

    Discards `magpie:empty`, `magpie:cut` and `magpie:trailing_colon`. A teacher that is reached by chat messages alone
    is refused before the run.
    """

    samples: int = 8
    turns: int = 1
    one_line: bool = True  # authors' code: early stop, on by default
    sanitize: bool = False
    temperature: float = 1.0  # paper, §2.1
    top_p: float = 1.0  # paper, §2.1
    max_tokens: int = 2048  # authors' code
    answer_tokens: int = 4096  # authors' code, for the answers between two turns

    name: ClassVar[str] = "magpie"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)
    raw_roles: ClassVar[tuple[str, ...]] = ("teacher",)

    def __post_init__(self) -> None:
        if self.samples < 1 or self.turns < 1:
            raise ConfigError("magpie: samples and turns must be at least 1")

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (seed,) = parents
        results = await settled([self._conversation(seed, generate.branch(n)) for n in range(self.samples)])
        made: list[Record | Discarded] = []
        for result in results:
            if isinstance(result, TeacherError | ParseError):
                made.append(Discarded(seed, Drop(result.reason, {"error": str(result)})))
            else:
                made.append(result)
        return made

    async def _conversation(self, seed: Record, generate: Generate) -> Record | Discarded:
        steering = tuple(m for m in seed.prompt if m.role == "system")
        said: Messages = ()
        replies: list[Completion] = []
        for turn in range(self.turns):
            before = steering if turn == 0 else system(render(f"{self.name}/next_turn"))
            reply = await generate(
                (*before, *said),
                continues="user",
                temperature=self.temperature,
                top_p=self.top_p,
                max_tokens=self.max_tokens,
                stop=(*HEADERS, *(("\n",) if self.one_line else ())),
            )
            replies.append(reply)
            instruction = sanitized(reply.text) if self.sanitize else reply.text.strip()
            said = (*said, *user(instruction))
            if drop := flaw_of_turn(instruction, cut=reply.cut):
                return Discarded(self._child(seed, said, replies), drop)
            if turn + 1 < self.turns:
                answer = await generate(said, temperature=0.0, max_tokens=self.answer_tokens)
                replies.append(answer)
                said = (*said, *assistant(answer.text))
                if answer.cut or not answer.text.strip():
                    what = "cut" if answer.cut else "empty"
                    return Discarded(self._child(seed, said, replies), Drop(f"magpie:{what}"))
        return self._child(seed, said, replies)

    def _child(self, seed: Record, said: Messages, replies: Sequence[Completion]) -> Record:
        return seed.child(
            by=self.name, replies=replies, prompt=said, completion=None, rejected=None, label=None, meta={}
        )


def flaw_of_turn(instruction: str, *, cut: bool) -> Drop | None:
    if cut:
        return Drop("magpie:cut")
    if not instruction:
        return Drop("magpie:empty")
    return Drop("magpie:trailing_colon") if instruction.endswith(":") else None


def sanitized(text: str) -> str:
    """The instruction without a label before it, without what answers it, and up to its first question mark. What it
    gives, it leaves as it is."""
    before = None
    while text != before:
        before = text
        text = _ANSWER.sub("", _LABEL.sub("", text)).strip()
        text = text[: text.index("?") + 1] if "?" in text else text
    return text
