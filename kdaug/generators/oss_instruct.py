"""OSS-Instruct: programming problems inspired by snippets of real code (Magicoder, arXiv 2312.02120)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kdaug.documents import about
from kdaug.errors import ParseError
from kdaug.generator import Generate
from kdaug.parsing import sections
from kdaug.prompts import render
from kdaug.record import Discarded, Drop, Record, assistant, text_of, user

HEADINGS = ("Problem description", "Solution")


@dataclass(frozen=True)
class OssInstruct:
    """Shows a snippet as inspiration and asks for a problem that stands by itself, and its solution.

    Take the snippets from the source of that name. Only a reply that ended by itself counts, with both headings in
    their order and text below each (`parse:problem_and_solution`). A problem or solution that is the snippet, white
    space aside, is discarded as `oss_instruct:snippet`; the gate `same_text` drops those that were there before. No
    solution is run: the paper keeps noisy ones on purpose.
    """

    temperature: float = 0.0  # paper, §2.1: greedy
    max_tokens: int = 2500  # authors' code

    name: ClassVar[str] = "oss_instruct"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (snippet,) = parents
        code = text_of(snippet.prompt)
        asked = render(f"{self.name}/invent", snippet=code, language=about(snippet).get("language", ""))
        reply = await generate(asked, temperature=self.temperature, max_tokens=self.max_tokens)
        found = sections(reply.text, HEADINGS)
        if found is None:
            raise ParseError("problem_and_solution", reply.text)
        problem, solution = found
        record = snippet.child(by=self.name, replies=[reply], prompt=user(problem), completion=assistant(solution))
        if reply.finish_reason != "stop":
            return [Discarded(record, Drop("oss_instruct:cut"))]
        if "".join(code.split()) in ("".join(problem.split()), "".join(solution.split())):
            return [Discarded(record, Drop("oss_instruct:snippet"))]
        return [record]
