"""GLAN: a curriculum of subjects, sessions and key concepts, and homework on them (arXiv 2402.13064)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from random import Random
from typing import Any, ClassVar, TypeAlias

from kdaug.errors import ConfigError, ParseError, TeacherError
from kdaug.generator import Generate, settled
from kdaug.parsing import numbered_list
from kdaug.prompts import render
from kdaug.record import Discarded, Drop, Record, text_of, user
from kdaug.words import words

Syllabus: TypeAlias = Sequence[tuple[str, Sequence[str]]]  # sessions, each with its key concepts
Choice: TypeAlias = tuple[tuple[int, int], ...]  # (session, concept), in order
MOST = 5  # concepts of one question; paper, §2.4
_TEXTS = {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "maxItems": 30}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "sessions": {
            "type": "array",
            "minItems": 1,
            "maxItems": 30,
            "items": {
                "type": "object",
                "properties": {"title": {"type": "string", "minLength": 1}, "concepts": _TEXTS},
                "required": ["title", "concepts"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["sessions"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class GlanSubjects:
    """Lists the subjects of a discipline in `queries` replies, each subject once (`glan_subjects:duplicate`)."""

    queries: int = 10  # paper, §2.2
    count: int = 20
    temperature: float = 1.0  # paper
    top_p: float = 0.95  # paper
    max_tokens: int = 2048

    name: ClassVar[str] = "glan_subjects"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    def __post_init__(self) -> None:
        if min(self.queries, self.count) < 1:
            raise ConfigError("glan_subjects: queries and count must be at least 1")

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (discipline,) = parents
        name = text_of(discipline.prompt).strip()
        asked = render("glan/subjects", discipline=name, count=self.count)
        how = {"temperature": self.temperature, "top_p": self.top_p}
        replies = await settled(
            [generate.branch(n)(asked, max_tokens=self.max_tokens, **how) for n in range(self.queries)]  # type: ignore[arg-type] # floats
        )
        made: list[Record | Discarded] = []
        seen: set[str] = set()
        for reply in replies:
            if isinstance(reply, TeacherError | ParseError):
                made.append(Discarded(discipline, Drop(reply.reason, {"error": str(reply)})))
                continue
            items = numbered_list(reply.text)
            for subject in items[:-1] if reply.cut else items:
                key = " ".join(words(subject))
                child = discipline.child(
                    by=self.name,
                    replies=[reply],
                    prompt=user(subject),
                    completion=None,
                    meta={"attributes": {"discipline": name, "subject": subject}},
                )
                made.append(Discarded(child, Drop("glan_subjects:duplicate")) if key in seen else child)
                seen.add(key)
        if not seen:
            raise ParseError("list", "\n".join(r.text for r in replies if not isinstance(r, Exception)))
        return made


@dataclass(frozen=True)
class Glan:
    """Writes the syllabus of a subject, and `questions` homework questions on what is drawn from it.

    A question is about one session or two, and one to five of their key concepts; with two sessions both have one at
    least. No choice of concepts is drawn twice, whatever their order. The strong `teacher` asks; answer in a stage of
    `respond`, with a cheaper model if you like (`role`). Raises ParseError for a syllabus without the form.
    """

    questions: int = 5
    sessions: int = 10  # paper, §2.3: 10 to 30
    temperature: float = 1.0  # paper
    top_p: float = 0.95  # paper
    max_tokens: int = 4096

    name: ClassVar[str] = "glan"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    def __post_init__(self) -> None:
        if min(self.questions, self.sessions) < 1:
            raise ConfigError("glan: questions and sessions must be at least 1")

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (subject,) = parents
        name = text_of(subject.prompt).strip()
        reply = await generate(
            render(f"{self.name}/syllabus", subject=name, sessions=self.sessions),
            schema=SCHEMA,
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
        )
        syllabus = sessions_of(reply.parsed)
        made: list[Record | Discarded] = []
        drawn = draw_choices([len(concepts) for _, concepts in syllabus], self.questions, rng)
        asked = [_question(name, syllabus, choice) for choice in drawn]
        how = {"temperature": self.temperature, "top_p": self.top_p}
        results = await settled(
            [generate.branch(n)(text, max_tokens=self.max_tokens, **how) for n, text in enumerate(asked)]  # type: ignore[arg-type] # floats
        )
        for result in results:
            if isinstance(result, TeacherError | ParseError):
                made.append(Discarded(subject, Drop(result.reason, {"error": str(result)})))
                continue
            record = subject.child(
                by=self.name, replies=[reply, result], prompt=user(result.text.strip()), completion=None
            )
            flaw = "cut" if result.cut else "" if result.text.strip() else "empty"
            made.append(Discarded(record, Drop(f"glan:{flaw}")) if flaw else record)
        return made


def sessions_of(parsed: dict[str, Any]) -> Syllabus:
    """The sessions of a reply, each concept of a session once."""
    return [
        (session["title"].strip(), list(dict.fromkeys(concept.strip() for concept in session["concepts"])))
        for session in parsed["sessions"]
    ]


def choices_of(sizes: Sequence[int]) -> Iterator[Choice]:
    """Every choice from sessions with so many concepts: of one session, or of two with concepts of both (§2.4)."""
    for session, size in enumerate(sizes):
        for count in range(1, min(MOST, size) + 1):
            for concepts in combinations(range(size), count):
                yield tuple((session, concept) for concept in concepts)
    for one, other in combinations(range(len(sizes)), 2):
        both = [*((one, n) for n in range(sizes[one])), *((other, n) for n in range(sizes[other]))]
        for count in range(2, MOST + 1):
            for choice in combinations(both, count):
                if choice[0][0] != choice[-1][0]:
                    yield choice


def count_choices(sizes: Sequence[int]) -> int:
    """How many `choices_of` gives, by the paper's formulas."""
    alone = sum(comb(m, i) for m in sizes for i in range(1, MOST + 1))
    pairs = combinations(sizes, 2)
    return alone + sum(comb(m + n, i) - comb(m, i) - comb(n, i) for m, n in pairs for i in range(2, MOST + 1))


def draw_choices(sizes: Sequence[int], count: int, rng: Random) -> list[Choice]:
    """So many different choices, or all: first the number of sessions is drawn, then which, then the concepts."""
    wanted = min(count, count_choices(sizes))
    if 2 * wanted >= count_choices(sizes):
        return rng.sample(list(choices_of(sizes)), wanted)
    drawn: dict[Choice, None] = {}
    while len(drawn) < wanted:
        several = len(sizes) > 1 and rng.random() < 0.5
        sessions = sorted(rng.sample(range(len(sizes)), 2 if several else 1))
        both = [(session, n) for session in sessions for n in range(sizes[session])]
        choice = tuple(sorted(rng.sample(both, min(len(both), rng.randint(len(sessions), MOST)))))
        if {session for session, _ in choice} == set(sessions):
            drawn[choice] = None
    return list(drawn)


def _question(subject: str, syllabus: Syllabus, choice: Choice) -> str:
    sessions = [syllabus[n] for n in dict.fromkeys(session for session, _ in choice)]
    concepts = [syllabus[session][1][n] for session, n in choice]
    return render("glan/question", subject=subject, sessions=[title for title, _ in sessions], concepts=concepts)
