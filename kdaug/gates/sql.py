"""A gate that runs the query of an answer, and compares what it gives with a reference's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kdaug.gate import Gate, Prepared
from kdaug.generator import Generate
from kdaug.programs import code_block
from kdaug.queries import Rows, is_ordered, run_query, same_rows
from kdaug.record import Drop, Json, Record, text_of
from kdaug.teacher import Until

LANGUAGES = ("sql", "sqlite")


@dataclass(frozen=True)
class Sql(Gate):
    """Runs the SQL of a record's answer on SQLite, in memory and read only, and drops what does not run.

    `meta[schema]` is the script that makes the database (CREATE TABLE, INSERT); `meta[reference]`, where it is there, a
    query whose rows must be the same: in the same order where it says ORDER BY, as often in any case. Reasons:
    `sql:none`, `sql:no_schema`, `sql:schema` (the script fails), `sql:failed`, `sql:forbidden` (it is no mere query),
    `sql:timeout` (20 million steps of SQLite's machine), `sql:rows` (more than 10,000), `sql:empty` with `need_rows`,
    `sql:reference` (the reference fails), `sql:wrong`.
    """

    schema: str = "schema"
    reference: str = "reference"
    need_rows: bool = False

    name: ClassVar[str] = "sql"

    async def prepare(self, record: Record, generate: Generate) -> Prepared:
        return Prepared(record, await self._flaw(record, generate.until))

    async def _flaw(self, record: Record, until: Until) -> Drop | None:
        schema, reference = record.meta.get(self.schema), record.meta.get(self.reference)
        query = code_block(text_of(record.completion), LANGUAGES).strip()
        if not query:
            return Drop("sql:none")
        if not isinstance(schema, str) or not schema.strip():
            return Drop("sql:no_schema")
        given = await run_query(schema, query, until)
        if given.wrong:
            return Drop(f"sql:{given.wrong}", {"error": given.error})
        if self.need_rows and not given.rows:
            return Drop("sql:empty")
        if not isinstance(reference, str) or not reference.strip():
            return None
        wanted = await run_query(schema, reference, until)
        if wanted.wrong:
            return Drop("sql:reference", {"error": wanted.error})
        if same_rows(given, wanted, ordered=is_ordered(reference)):
            return None
        return Drop("sql:wrong", {"rows": _few(given), "reference": _few(wanted)})


def _few(found: Rows) -> list[Json]:
    return [list(row) for row in found.rows[:5]]
