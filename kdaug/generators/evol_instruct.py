"""Evol-Instruct: instructions evolved round by round, failed evolutions eliminated (WizardLM, arXiv 2304.12244)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kdaug.errors import ConfigError, ParseError, TeacherError, shorten
from kdaug.generator import Generate
from kdaug.judging import leaked, parse_choice
from kdaug.prompts import converse, render
from kdaug.record import Discarded, Drop, Messages, Record, assistant, user
from kdaug.teacher import Completion

IN_DEPTH = ("constrain", "deepen", "concretize", "reason", "complicate")
IN_BREADTH = ("breadth",)

# What `complicate` brings in; the forms that the paper demonstrates.
FORMS = ("XML", "SQL", "Python", "HTML", "shell", "JSON")

# Words of an operator's prompt that have no place in an instruction: the paper's, then those of our templates.
META_PHRASES = (
    "given prompt",
    "rewritten prompt",
    "created prompt",
    "original instruction",
    "new instruction",
    "rewritten instruction",
    "revised instruction",
    "given instruction",
    "created instruction",
)

# Function words: a reply of these alone says nothing. "yes", "no" and "not" are left out, for they can be an answer.
_FUNCTION_WORDS = """
    a about above after again all also am an and any are as at be because been before being below between both but by
    can could did do does doing down during each few for from further had has have having he her here hers him his how i
    if in into is it its just may me might more most must my of off on once only or other our ours out over own same
    shall she should so some such than that the their theirs them then there these they this those through to too under
    until up us very was we were what when where which while who whom why will with would you your yours"""
STOP_WORDS = frozenset(_FUNCTION_WORDS.split())


@dataclass(frozen=True)
class EvolInstruct:
    """Rewrites a prompt for some rounds and answers each rewrite; what fails the elimination test is discarded.

    Each round draws one operator evenly: five make the instruction harder (in depth), one makes another instruction of
    the same domain (in breadth). A survivor, with its answer, is a completion record and the next round's parent; after
    a failed evolution the same parent is tried again. The paper's output is seeds and survivors: the seeds are yours
    already, so only survivors come out.

    An evolution is eliminated when the judge finds it equal to its parent, when its answer is a short apology or only
    function words, or when it copies words of the operator's prompt. One such finding is enough, so the order is free
    and goes by price: what needs no call, then the verdict of one line, then the answer.

    A call that fails in a later round ends the evolution, and what survived before is kept.
    """

    rounds: int = 4  # paper, §4.1: M = 4
    operators: tuple[str, ...] = IN_DEPTH + IN_BREADTH  # paper, §3.2: one of six, evenly
    temperature: float = 1.0  # paper, §4.1
    top_p: float = 0.9  # paper, §4.1 (the released code: 0.95)
    max_tokens: int = 2048  # paper, §4.1

    name: ClassVar[str] = "evol_instruct"
    roles: ClassVar[tuple[str, ...]] = ("teacher", "judge")

    def __post_init__(self) -> None:
        if self.rounds < 1 or not self.operators:
            raise ConfigError("evol_instruct needs at least one round and one operator")

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (parent,) = parents
        made: list[Record | Discarded] = []
        for turn in range(self.rounds):
            operator, form = rng.choice(self.operators), rng.choice(FORMS)
            try:
                child = await self._evolve(parent, operator, form, generate)
            except TeacherError as e:
                if e.fatal or turn == 0:
                    raise
                failed = Drop(e.reason, {"operator": operator, "error": str(e)})
                return [*made, Discarded(parent, failed)]
            made.append(child)
            if isinstance(child, Record):
                parent = child
        return made

    async def _evolve(self, parent: Record, operator: str, form: str, generate: Generate) -> Record | Discarded:
        """One round: the child with its answer, or what was made of it when the round failed."""
        given = parent.prompt[-1].content
        asked = render(f"{self.name}/{operator}", instruction=given, form=form)
        reply = await self._ask(asked, generate)
        evolved = unwrapped(reply.text)
        child = evolution(parent, f"{self.name}/{operator}", evolved, [reply])
        if drop := flaw_of_instruction(evolved, given, asked, cut=reply.cut):
            return Discarded(child, drop)

        try:
            question = converse("evol_instruct/equal", first=given, second=evolved)
            verdict = await generate(question, role="judge", temperature=0.0, max_tokens=self.max_tokens)
            if parse_choice(verdict.text, ("equal", "not equal")) == "equal":
                return Discarded(child, Drop("evol_instruct:no_gain", {"verdict": verdict.text}))
        except ParseError as e:
            return Discarded(child, Drop(e.reason, {"verdict": e.text}))

        answer = await self._ask(child.prompt, generate)
        child = evolution(parent, f"{self.name}/{operator}", evolved, [reply, answer], answer.text)
        drop = flaw_of_answer(answer.text, cut=answer.cut)
        return Discarded(child, drop) if drop else child

    async def _ask(self, prompt: str | Messages, generate: Generate) -> Completion:
        return await generate(prompt, temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens)


def unwrapped(text: str) -> str:
    """The instruction alone: without the cue that our templates end with, and without quotes round the whole."""
    text = re.sub(r"^[\W_]*new instruction[*_]*:[*_]*", "", text.strip(), flags=re.IGNORECASE).strip()
    quoted = re.fullmatch(r'["“]([^"“”]+)["”]', text)
    return quoted[1].strip() if quoted else text


def evolution(
    parent: Record, by: str, instruction: str, replies: Sequence[Completion], answer: str | None = None
) -> Record:
    """The parent's prompt with another instruction at its end; the two halves of the old one go from `meta`."""
    return parent.child(
        by=by,
        replies=replies,
        prompt=(*parent.prompt[:-1], *user(instruction)),
        completion=None if answer is None else assistant(answer),
        rejected=None,
        label=None,
        meta={name: value for name, value in parent.meta.items() if name not in ("instruction", "input")},
    )


def flaw_of_instruction(evolved: str, given: str, asked: str, *, cut: bool) -> Drop | None:
    """What eliminates an evolved instruction without asking anybody."""
    if cut:
        return Drop("evol_instruct:cut", {"text": "instruction"})
    if not evolved:
        return Drop("evol_instruct:empty")
    if phrase := leaked(evolved, META_PHRASES, given):
        return Drop("evol_instruct:meta", {"phrase": phrase})
    if evolved.split() == given.split():
        return Drop("evol_instruct:no_gain", {"verdict": "a copy of its parent"})
    if " ".join(evolved.split()) in " ".join(asked.split()):  # a part of it: an example, a rule, half of the parent
        return Drop("evol_instruct:meta", {"phrase": shorten(evolved)})
    return None


def flaw_of_answer(answer: str, *, cut: bool) -> Drop | None:
    """What eliminates an evolution by its answer (paper, §3.3): an apology shorter than 80 words, or nothing said."""
    if cut:
        return Drop("evol_instruct:cut", {"text": "answer"})
    words = len(answer.split())
    if "sorry" in answer.lower() and words < 80:
        return Drop("evol_instruct:refusal", {"words": words})
    if all(word in STOP_WORDS for word in re.findall(r"\w+", answer.lower())):
        return Drop("evol_instruct:stop_words", {"words": words})
    return None
