"""Whether a value is valid under a JSON schema, and a text under a regular expression, neither of them ours.

What may take for ever (`^(a+)+$`, a `$ref` that leads twice to the next) is asked of a process of its own, which is
ended at its limits; a schema that holds nothing of the kind is applied here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from kdaug.errors import ConfigError, shorten
from kdaug.teacher import Until, patiently
from kdaug.worker import Worker, serve

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

SLOW = "it cannot be checked within the limits of time and memory"
_MAY_BE_SLOW = re.compile(r'"(?:pattern|patternProperties|uniqueItems|\$(?:dynamic|recursive)?ref)":', re.IGNORECASE)
# What a schema is that only jsonschema's code finds out: a URL that is none, a $schema that is no text.
_NO_SCHEMA = (re.error, RecursionError, OverflowError, ValueError, TypeError, AttributeError)

_FLAT = 20  # levels of a value: a schema that goes on takes a dozen calls for each

_worker = Worker("kdaug.schemas", cpu=1, memory=512)


async def flaw(schema: str, value: Any, until: Until = patiently) -> str | None:
    """What a JSON schema, as JSON, finds wrong with a JSON value, in a line; `SLOW` where that is not told within the
    limits. Raises ConfigError for a schema that cannot be applied."""
    if not _may_be_slow(schema):
        return find_flaw(schema, value)
    said = await _worker.ask({"schema": schema, "value": value}, until)
    if said is None:
        return SLOW
    if "refused" in said:
        raise ConfigError(said["refused"])
    wrong: str | None = said["flaw"]
    return wrong


@lru_cache(maxsize=256)
def _may_be_slow(schema: str) -> bool:
    return _MAY_BE_SLOW.search(schema) is not None


async def matching(pattern: str, texts: Sequence[str]) -> list[bool] | None:
    """Which texts match a regular expression as a whole; None where that is not told within the limits."""
    said: list[bool] | None = await _worker.ask({"pattern": pattern, "texts": texts})
    return said


@lru_cache(maxsize=256)
def validator(schema: str) -> Validator:
    """Raises ConfigError for what is no JSON schema."""
    from jsonschema import Draft202012Validator, SchemaError
    from jsonschema.validators import validator_for
    from referencing import Registry

    wanted = json.loads(schema)
    try:
        kind = validator_for(wanted, default=Draft202012Validator)
        kind.check_schema(wanted)
    except SchemaError as e:
        raise ConfigError(f"schema: not a JSON schema: {shorten(e.message)} (at {e.json_path})") from e
    except _NO_SCHEMA as e:
        raise ConfigError(f"schema: not a JSON schema: {shorten(str(e))}") from e
    made: Validator = kind(wanted, registry=Registry())  # an empty one: a $ref is never fetched
    return made


def find_flaw(schema: str, value: Any) -> str | None:
    from jsonschema.exceptions import best_match
    from referencing.exceptions import Unresolvable

    try:
        error = best_match(validator(schema).iter_errors(value))
    except RecursionError as e:
        if _flat(value):
            raise ConfigError("schema: cannot be applied: a $ref leads round in a circle") from e
        return "it is nested too deeply"
    except (Unresolvable, *_NO_SCHEMA) as e:
        raise ConfigError(f"schema: cannot be applied: {shorten(str(e))}") from e
    return None if error is None else f"{shorten(error.message, 300)} (at {error.json_path})"


def _flat(value: Any) -> bool:
    """Whether a value is so flat that only the schema can be to blame for a depth of a thousand calls."""
    level = [value]
    for _ in range(_FLAT):
        inner = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        level = [part for parts in inner for part in parts]
        if not level:
            return True
    return False


def answer(question: dict[str, Any]) -> Any:
    """The worker's side of `flaw` and `matching`."""
    if "pattern" in question:
        return [re.fullmatch(question["pattern"], text) is not None for text in question["texts"]]
    try:
        return {"flaw": find_flaw(question["schema"], question["value"])}
    except ConfigError as e:
        return {"refused": str(e)}


if __name__ == "__main__":
    serve(answer)
