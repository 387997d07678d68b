"""A gate for answers that must be JSON of a given form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from kdaug.errors import ConfigError
from kdaug.gate import Gate, Prepared
from kdaug.record import Drop, text_of
from kdaug.structured import form_of
from kdaug.teacher import Completion


@dataclass(frozen=True)
class JsonSchema(Gate):
    """Drops records whose answer is not JSON, and nothing but JSON, valid under a JSON schema.

    The schema is the record's own, in `meta[meta]`, or else `schema`. Reasons: `json_schema:invalid` with what is
    wrong, `json_schema:no_schema`, and `json_schema:bad_schema` for a record's own that is none.
    """

    schema: Mapping[str, Any] = field(default_factory=dict)  # Any: JSON
    meta: str = "schema"

    name: ClassVar[str] = "json_schema"

    def __post_init__(self) -> None:
        if self.schema:
            form_of({"json": dict(self.schema)})

    def decide(self, prepared: Prepared) -> Drop | None:
        record = prepared.record
        own = record.meta.get(self.meta)
        schema = own if isinstance(own, dict) else dict(self.schema)
        if not schema:
            return Drop("json_schema:no_schema")
        try:
            reading = form_of({"json": schema}).read(Completion(text_of(record.completion)))
        except ConfigError as e:
            return Drop("json_schema:bad_schema", {"problem": str(e)})
        if reading.fit == "valid":
            return None
        problem = reading.problem or "there is something around the JSON value"
        return Drop("json_schema:invalid", {"problem": problem})
