"""Self-Align: a model answers by written principles, thinking aloud, and learns to do so without them (Dromedary, arXiv
2305.03047)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kdaug.erasure import PromptEraser
from kdaug.errors import ConfigError
from kdaug.generator import Generate
from kdaug.parsing import labelled
from kdaug.prompts import converse, listed
from kdaug.record import Discarded, Drop, Record, assistant, text_of
from kdaug.samples import answered

COPIED = 16  # authors' code: a longer instruction that stands in the answer is copied
SHORTEST = 160  # authors' code: characters that an answer must have that was cut at the next turn of the user
_NEXT_TURN = re.compile(r"^\W*(?:user|human)\W*:", re.IGNORECASE | re.MULTILINE)
_MARKERS = re.compile(r"\bmy thoughts\b|^\W*thoughts?\W*:|\bprinciples? \d+|\(principle", re.IGNORECASE | re.MULTILINE)
_SENTENCE = re.compile(r"[^.!?。！？\n]+[.!?。！？\n]*")


@dataclass(frozen=True)
class SelfAlign:
    """Answers under principles and exemplars with internal thoughts; the record holds neither: the plain prompt, and
    what follows the thoughts (principle engraving, §3.3).

    Principles are `templates/prompts/self_align/principles.j2` (`name | text` a line), exemplars `exemplars.j2`
    (`request | thoughts | answer`). All that is done to the answer afterwards is code: it must open with its thoughts
    and an answer must follow (`self_align:form`); it ends before a next turn of the user, and is discarded if short
    then (`:short`), or, when it was cut, before its last word; it ends at its first repeated sentence; it may not hold
    the request (`:copied`), nor principles, thoughts or exemplars (`:leak`, `:thoughts`).
    """

    temperature: float = 0.7  # Dromedary-2
    top_p: float = 0.95
    max_tokens: int = 512
    role: str = "teacher"

    name: ClassVar[str] = "self_align"

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        prompt = text_of(record.prompt)
        principles = listed(f"{self.name}/principles")
        exemplars = [exemplar(line) for line in listed(f"{self.name}/exemplars")]
        asked = converse(f"{self.name}/respond", principles=principles, exemplars=exemplars, prompt=prompt)
        reply = await generate(
            asked, role=self.role, temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens
        )
        parts = labelled(reply.text, "Thoughts", "Answer")
        if parts is None or _HEAD.match(reply.text) is None or not parts[1]:
            return [Discarded(answered(record, reply, by=self.name), Drop("self_align:form"))]
        answer, drop = trimmed(parts[1], reply.cut)
        child = answered(record, reply, by=self.name, completion=assistant(answer))
        hidden = dict(principles) | {f"exemplar {n}": " ".join(one) for n, one in enumerate(exemplars, 1)}
        drop = drop or flaw(answer, prompt) or PromptEraser(hidden).drop(self.name, child, given=record.prompt)
        return [Discarded(child, drop) if drop else child]


_HEAD = re.compile(r"^[\s>#*_`-]*thoughts\b", re.IGNORECASE)


def exemplar(line: tuple[str, str]) -> tuple[str, str, str]:
    """Request, thoughts and answer of a line. Raises ConfigError for a line without the three."""
    thoughts, bar, answer = line[1].partition("|")
    if not bar:
        raise ConfigError("template prompts/self_align/exemplars.j2: expected lines of `request | thoughts | answer`")
    return line[0], thoughts.strip(), answer.strip()


def trimmed(answer: str, cut: bool) -> tuple[str, Drop | None]:
    """The answer alone: before the next turn of the user; else, where it was cut, without its last word, which may be
    half of one; and before the first sentence that stands there twice."""
    if turn := _NEXT_TURN.search(answer):
        answer = answer[: turn.start()].rstrip()
        if len(answer) < SHORTEST:
            return answer, Drop("self_align:short", {"characters": len(answer)})
    elif cut:
        answer = re.sub(r"\s*\S+\Z", "", answer)
    seen: set[str] = set()
    for sentence in _SENTENCE.finditer(answer):
        said = " ".join(sentence[0].split()).casefold()
        if said and said in seen:
            answer = answer[: sentence.start()].rstrip()
            break
        seen.add(said)
    return answer, None if answer.strip() else Drop("self_align:empty")


def flaw(answer: str, prompt: str) -> Drop | None:
    """A request that is copied into its answer, or thoughts in it."""
    if len(prompt) > COPIED and prompt.casefold() in answer.casefold():
        return Drop("self_align:copied")
    found = _MARKERS.search(answer)
    return Drop("self_align:thoughts", {"text": found[0].strip()}) if found and found[0] not in prompt else None
