"""A scripted teacher: for tests, and for `kdaug check`, which runs a recipe without a model."""

from __future__ import annotations

import asyncio
import copy
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from operator import add, mul, sub
from pathlib import Path
from random import Random
from typing import Any, ClassVar, TypeAlias

from kdaug.errors import BadRequest, TeacherError, shorten
from kdaug.record import Json, Messages, text_of
from kdaug.teacher import Completion, Request, TokenLogprobs, Usage

SCRIPT = "CREATE TABLE word (id INTEGER, text TEXT);\nINSERT INTO word VALUES (1, 'ba'), (2, 'be');"
QUERY = "SELECT name FROM sqlite_master"  # of any database

Answer: TypeAlias = str | Completion | TeacherError
Scripted: TypeAlias = Callable[[Request], Answer]

_ARITHMETIC = {"+": add, "-": sub, "*": mul}
SYLLABLES = (
    "ba be bi bo da de di do fa fe fi ka ke ki ko la le li lo ma me mi mo na ne no pa pe ra re ri sa se ta te to"
)


@dataclass(eq=False)
class Fake:
    """A teacher that answers as it is told.

    `reply` is a function of the request; or a mapping from regular expressions to answers (or functions), where the
    first that is found in the last user message counts and a prompt that none fits is a BadRequest; or None: made-up
    words in the form that a prompt of the shipped templates or a schema asks for, which depend on the request and its
    nonce alone, in every process. An answer is a text, a Completion, or a
    TeacherError, which is raised. `latency` seconds pass before each, and up to `jitter` more, by chance.

    `calls` lists the requests in the order of their arrival, `peak` is the most that were in flight at once.
    """

    reply: Scripted | Mapping[str, Answer | Scripted] | None = None
    _: KW_ONLY
    latency: float = 0.0
    jitter: float = 0.0
    name: str = "fake"
    concurrency: int = 64
    calls: list[Request] = field(default_factory=list, init=False, repr=False)
    raw_prompt: ClassVar[bool] = True
    peak: int = field(default=0, init=False)
    _flying: int = field(default=0, init=False, repr=False)
    _random: Random = field(default_factory=Random, init=False, repr=False)

    async def open(self, state: Path) -> None:
        pass

    async def generate(self, request: Request) -> Completion:
        self.calls.append(request)
        self._flying += 1
        self.peak = max(self.peak, self._flying)
        try:
            await asyncio.sleep(self.latency + self._random.uniform(0, self.jitter))
            answer = self._answer(request)
        finally:
            self._flying -= 1
        if isinstance(answer, TeacherError):
            error = copy.copy(answer)  # one script may raise it many times
            error.request, error.teacher = request, self.name
            raise error
        return answer if isinstance(answer, Completion) else _completion(request, answer)

    async def flush(self) -> None:
        pass

    async def aclose(self) -> None:
        pass

    def _answer(self, request: Request) -> Answer:
        if self.reply is None:
            return _plausible(request)
        if callable(self.reply):
            return self.reply(request)
        asked = next((m.content for m in reversed(request.messages) if m.role == "user"), "")
        for pattern, answer in self.reply.items():
            if re.search(pattern, asked):
                return answer(request) if callable(answer) else answer
        return BadRequest(f"the fake teacher has no reply to {shorten(asked)!r}")


class WhiteBoxFake(Fake):
    """A scripted teacher that can be looked into as well: a text is likelier after a longer one, and each word of it as
    likely as the others."""

    async def logprobs(self, prompt: Messages, completion: Messages, top_k: int) -> TokenLogprobs:
        import numpy as np

        before, tokens = len(text_of(prompt).split()), len(text_of(completion).split()) + 1
        each: np.ndarray[Any, Any] = np.full(tokens, -4.0 / (1.0 + 0.01 * before), dtype=np.float32)
        none = np.empty((tokens, 0))
        return TokenLogprobs(np.zeros(tokens, dtype=np.int64), each, none, none, np.ones(tokens))


def _completion(request: Request, text: str) -> Completion:
    """Words stand for tokens in its usage. Words that are to be weighed have probabilities where one is said."""
    asked = sum(len(m.content.split()) for m in request.messages)
    weights = {word: 0.75 if word == text else 0.25 / max(1, len(request.weigh) - 1) for word in request.weigh}
    return Completion(text, usage=Usage(asked, len(text.split())), weights=weights if text in weights else {})


def _plausible(request: Request) -> str:
    """A reply in the form that a prompt of the shipped templates asks for; otherwise a sentence of 12 to 40 made-up
    words, so that two of them are no near-duplicates."""
    asked = request.messages[-1].content if request.messages else ""
    rng = Random(f"{request.digest('fake')}/{request.nonce}")
    if request.sampling.schema is not None:
        ((kind, wanted),) = request.sampling.schema.items()
        if kind == "json":
            return json.dumps(_example(wanted, wanted, rng, asked))
        return str(rng.choice(wanted)) if isinstance(wanted, list) else _sentence(rng, 3)  # a regex is beyond it
    if passage := re.search(r"<passage>\n(.+?)\n</passage>", asked, re.DOTALL):
        return _grounded(passage[1].split(), asked, rng)
    if asked.endswith("\n#### 72"):
        return f"Question 1: {_sentence(rng, 12)}\nAnswer 1: {_sentence(rng, 12)}\n#### {rng.randint(1, 99)}"
    if "\nAnswer: <your answer>" in asked and (of := re.search(r"(\d+) ([+*-]) (\d+)", asked)):
        return f"{_sentence(rng, 12)}\nAnswer: {_ARITHMETIC[of[2]](int(of[1]), int(of[3]))}"
    if numbered := re.search(r"numbered (\d+) to (\d+)", asked):
        first, last = map(int, numbered.groups())
        return "\n".join(f"{n}. {_sentence(rng, 9)}" for n in range(first, last + 1))
    if re.search(r"\nScore: n", asked):
        return f"{_sentence(rng, 12)}\nScore: {rng.randint(1, 5)}"
    if scale := re.search(r"\nReply with one whole number from (\d+) \(.*\) to (\d+) \(", asked):
        return str(rng.randint(*map(int, scale.groups())))
    if "\nAnswer 2. Score: n" in asked:
        return "\n".join(f"Answer {n}. Score: {rng.randint(1, 10)}" for n in (1, 2))
    if sections := re.findall(r"^\[((?:New|Better) \w+)\]$", asked, re.MULTILINE):
        return "\n".join(f"[{name}]\n{_sentence(rng, 12 + 12 * (name == 'Better Answer'))}\n[End]" for name in sections)
    if request.weigh and not request.weigh[0].isdigit():
        return rng.choice(request.weigh)
    if verdict := re.search(r"\nVerdict: (\w+(?: or \w+)+)$", asked):
        return f"{_sentence(rng, 12)}\nVerdict: {rng.choice(verdict[1].split(' or '))}"
    if form := re.search(r"in this form:\n((?:[A-Z][\w ]*: <[^>]+>(?:\n|$))+)", asked):
        labels = re.findall(r"^([^:]+):", form[1], re.MULTILINE)
        alone = len(labels) == 1  # a final answer, on which several replies can agree
        return "\n".join(f"{label}: {rng.randint(1, 3) if alone else _sentence(rng, 12)}" for label in labels)
    if "[Human]" in asked and "[AI]" in asked:
        return "\n".join(f"[{'AI' if n % 2 else 'Human'}] {_sentence(rng, 9)}" for n in range(8))
    if asked.endswith("\nVerdict: A"):
        return f"{_sentence(rng, 12)}\nVerdict: {rng.choice(['A', 'B', 'tie'])}"
    if '"Verdict: not equal"' in asked:
        return "Verdict: not equal"
    if re.search(r"classification task. Answer Yes or No", asked):
        return rng.choice(["Yes", "No"])
    if "Class label:" in asked:
        return "\n".join(f"Class label: {label}\nInput: {_sentence(rng, 8)}" for label in ("first", "second"))
    if headings := re.search(r"headings, in this order[^:\n]*: (.+)", asked):
        return "\n\n".join(f"{name}\n{_sentence(rng, 12)}" for name in re.findall(r'"([^"]+)"', headings[1]))
    if begin := re.search(r'Begin your reply with "([^"\n]+:)"', asked):
        return f"{begin[1]} {_sentence(rng, 14)}"
    if triples := re.search(r'Go on with "(\d+)\. Instruction:"', asked):
        first = int(triples[1])
        made = [_triple(n, rng) for n in range(first, first + 4)]
        return "\n###\n".join(made)
    if 'Begin your reply with "Example 1"' in asked:
        return "\n".join(f"Example {n}\nInput: {_sentence(rng, 8)}\nOutput: {_sentence(rng, 8)}" for n in (1, 2))
    if "in one ```sql block" in asked:
        return f"```sql\n{SCRIPT if 'CREATE TABLE and INSERT' in asked else QUERY}\n```"
    if "in one ```python block" in asked:
        return f"```python\n{_program(asked, rng)}\n```"
    return _sentence(rng, rng.randint(12, 40))


def _grounded(passage: list[str], asked: str, rng: Random) -> str:
    """Words that stand together in the passage of a prompt: a quote, or questions of it."""

    def piece(words: int) -> str:
        start = rng.randrange(max(1, len(passage) - words))
        return " ".join(passage[start : start + words])

    if numbered := re.search(r"numbered (\d+) to (\d+)", asked):
        first, last = map(int, numbered.groups())
        return "\n".join(f"{n}. {piece(7)}?" for n in range(first, last + 1))
    if "##begin_quote##" in asked:
        return f"{_sentence(rng, 9)} ##begin_quote## {piece(7)} ##end_quote##\n<ANSWER>: {piece(4)}"
    return piece(9)


def _program(asked: str, rng: Random) -> str:
    """A function of the name that the prompt has, which returns a sentence, or a test of one."""
    named = re.search(r"`(\w+)\(", asked)
    name = named[1] if named else "solve"
    if "whose names begin with test_" in asked:
        tests = (f"def test_{name}_{n}():\n    assert isinstance({name}({n}), str)" for n in range(1, 4))
        return "\n\n".join(tests)
    return f"def {name}(*given, **named):\n    return {_sentence(rng, 5)!r}"


def _triple(number: int, rng: Random) -> str:
    given = rng.choice(["<noinput>", _sentence(rng, 8)])
    texts = {"Instruction": _sentence(rng, 9), "Input": given, "Output": _sentence(rng, 12)}
    return "\n".join(f"{number}. {label}: {text}" for label, text in texts.items())


def _example(schema: Any, root: Any, rng: Random, asked: str) -> Json:  # Any: a JSON schema, which is known to be one
    """A value that most schemas of the kind that pydantic writes allow: bounds and patterns are not looked at."""
    if "$ref" in schema:
        found = root
        for name in schema["$ref"].split("/")[1:]:
            found = found[name]
        return _example(found, root, rng, asked)
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return _example(schema[several][0], root, rng, asked)
    if "const" in schema or "enum" in schema:
        return schema["const"] if "const" in schema else rng.choice(schema["enum"])  # type: ignore[no-any-return] # JSON
    match schema.get("type", "object"):
        case "object":
            return {name: _example(inner, root, rng, asked) for name, inner in schema.get("properties", {}).items()}
        case "array":
            count = max(1, schema.get("minItems", 0), min(3, schema.get("maxItems", 1)))
            return [_example(schema.get("items", {}), root, rng, asked) for _ in range(count)]
        case "integer" | "number":
            return int(schema.get("minimum", rng.randint(1, 5)))
        case "boolean":
            return rng.choice([True, False])
        case "null":
            return None
    if re.search("copied from|own words", schema.get("description", "")):
        return _excerpt(asked, rng)
    return _sentence(rng, 3)


def _excerpt(asked: str, rng: Random) -> str:
    """Some words in a row of the document that the prompt shows."""
    shown = re.findall(r"<document>\n(.*?)\n</document>", asked, re.DOTALL)
    words = (shown[-1] if shown else asked).split()
    start = rng.randrange(max(1, len(words) - 12))
    return " ".join(words[start : start + 12])


def _sentence(rng: Random, words: int) -> str:
    syllables = SYLLABLES.split()
    return " ".join("".join(rng.choices(syllables, k=rng.randint(2, 4))) for _ in range(words)).capitalize() + "."
