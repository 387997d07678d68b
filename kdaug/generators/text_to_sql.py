"""Text to SQL: questions about a database, and the queries that answer them, each of which has been run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar, NamedTuple

from kdaug.errors import ConfigError
from kdaug.generator import Generate, settled
from kdaug.programs import code_block
from kdaug.prompts import render
from kdaug.queries import Rows, run_query, same_rows
from kdaug.record import Discarded, Drop, Json, Record, assistant, text_of, user
from kdaug.samples import list_items, unusable
from kdaug.teacher import Completion
from kdaug.voting import majority

LANGUAGES = ("sql", "sqlite")
TABLES = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid"


@dataclass(frozen=True)
class TextToSql:
    """A teacher writes questions about a database and, for each, `samples` queries; the query whose rows most of them
    give is kept, with the tables and the question as its prompt.

    The database is made by the script in `meta[schema]`; of a seed without one the teacher writes it for the prompt's
    topic. Queries run on SQLite, in memory and read only. Drops: `text_to_sql:schema` (the script fails), and of a
    question `text_to_sql:failed` (no query runs), `text_to_sql:split` (the best rows have less than `min` of the
    votes), `text_to_sql:tie` (others have as many), `text_to_sql:empty` (it gives nothing, so nothing shows that it is
    right). A vote shows that a query is what the teacher means, not that it is what the question asks.

    Raises ParseError("list") for a reply without questions.
    """

    count: int = 5
    samples: int = 3
    min: float = 0.5
    schema: str = "schema"
    temperature: float = 0.7
    max_tokens: int = 1024

    name: ClassVar[str] = "text_to_sql"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    def __post_init__(self) -> None:
        if self.count < 1 or self.samples < 1 or not 0 < self.min <= 1:
            raise ConfigError("text_to_sql: count and samples are positive, and min is above 0 and at most 1")

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        schema, replies = await self._database(record, generate)
        tables = await run_query(schema, TABLES, generate.until)
        if tables.wrong or not tables.rows:
            return [Discarded(record, Drop("text_to_sql:schema", {"error": tables.error, "script": schema[:2000]}))]
        shown = "\n\n".join(f"{row[0]};" for row in tables.rows)
        reply = await self._ask(render(f"{self.name}/questions", tables=shown, count=self.count), generate)
        found = list_items(reply, self.count)
        questions = list(dict.fromkeys(question for question, flaw in found if not flaw))
        database = Database(record, schema, shown, [*replies, reply])
        made = await asyncio.gather(
            *(self._answered(database, question, generate.branch(n)) for n, question in enumerate(questions))
        )
        left = [(question, flaw) for question, flaw in found if flaw]
        return [*made, *(Discarded(record, Drop(f"{self.name}:{flaw}", {"question": q})) for q, flaw in left)]

    async def _database(self, record: Record, generate: Generate) -> tuple[str, list[Completion]]:
        given = record.meta.get(self.schema)
        if isinstance(given, str) and given.strip():
            return given, []
        reply = await self._ask(render(f"{self.name}/database", topic=text_of(record.prompt)), generate)
        return code_block(reply.text, LANGUAGES), [reply]

    async def _answered(self, database: Database, question: str, generate: Generate) -> Record | Discarded:
        """The question with the query that won, or what came of it."""
        asked = render(f"{self.name}/query", tables=database.tables, question=question)
        said = await settled([self._ask(asked, generate) for _ in range(self.samples)])
        usable = [reply for reply in said if isinstance(reply, Completion) and not unusable(reply, self.name)]
        queries = [code_block(reply.text, LANGUAGES).strip() for reply in usable]
        results = await asyncio.gather(*(run_query(database.schema, query, generate.until) for query in queries))
        vote = majority([*ballots(results), *[None] * (self.samples - len(results))])
        if vote is None:
            errors: list[Json] = [result.error for result in results]
            return Discarded(self._child(database, asked, usable), Drop("text_to_sql:failed", {"errors": errors}))
        child = self._child(database, asked, [usable[vote.winner]], queries[vote.winner])
        if vote.confidence < self.min:
            return Discarded(child, Drop("text_to_sql:split", {"share": vote.confidence, "min": self.min}))
        if vote.tied:
            return Discarded(child, Drop("text_to_sql:tie", {"share": vote.confidence}))
        if not any(cell is not None for row in results[vote.winner].rows for cell in row):
            return Discarded(child, Drop("text_to_sql:empty"))
        return child.scored(votes=vote.confidence)

    def _child(self, database: Database, asked: str, replies: Sequence[Completion], query: str = "") -> Record:
        return database.record.child(
            by=self.name,
            replies=[*database.replies, *replies],
            prompt=user(asked),
            completion=assistant(f"```sql\n{query}\n```") if query else None,
            rejected=None,
            label=None,
            meta={**database.record.meta, self.schema: database.schema},
        )

    async def _ask(self, prompt: str, generate: Generate) -> Completion:
        return await generate(prompt, temperature=self.temperature, max_tokens=self.max_tokens)


class Database(NamedTuple):
    """What a seed's questions are about: its script, its tables as they are shown, and the replies that it is from."""

    record: Record
    schema: str
    tables: str
    replies: list[Completion]


def ballots(results: Sequence[Rows]) -> list[int | None]:
    """For each query that ran the place of the first with the same rows, in whatever order."""
    return [
        None
        if result.wrong
        else next(i for i, other in enumerate(results) if not other.wrong and same_rows(result, other, ordered=False))
        for result in results
    ]
