"""`kdaug check`: every built-in recipe runs through on made-up words."""

from __future__ import annotations

import asyncio
import re

import pytest

from kdaug import recipes
from kdaug.check import check
from kdaug.methods import methods
from kdaug.prompts import shipped
from kdaug.read import read
from kdaug.recipe_file import builtin_names, load
from kdaug.structured import form_of
from kdaug.teacher import Request, Sampling, as_messages
from kdaug.teachers.fake import Fake

SEEDS = str(shipped() / "seeds" / "seeds.jsonl")


# Every method goes through on the same teacher in test_every_method.py; here is what is none, and one of each kind:
# several stages, a growing pool, documents, a second role, log-probabilities.
OTHERS = sorted({*builtin_names()} - {method.name for method in methods()})
KINDS = ["self-instruct", "evol-math", "raft", "feedback", "selective-reflection"]


@pytest.mark.parametrize("name", [*OTHERS, *KINDS])
def test_a_built_in_recipe_keeps_records_in_every_stage(name: str) -> None:
    file = load(name)
    recipe = recipes.build(file, read(recipes.seeds_of(file, None if file.values.get("seeds") else SEEDS)))
    lines = list(check(recipe))
    kept = [int(n) for line in lines for n in re.findall(r"jobs, kept (\d+)", line)]
    assert len(kept) == len(recipe.stages)
    assert all(kept)
    assert "none on a real one" in lines[-1]


NODE = {
    "$defs": {
        "Tag": {"enum": ["a", "b"]},
        "Node": {
            "type": "object",
            "properties": {"tags": {"type": "array", "items": {"$ref": "#/$defs/Tag"}, "minItems": 2}},
            "required": ["tags"],
        },
    },
    "type": "object",
    "properties": {"node": {"$ref": "#/$defs/Node"}, "more": {"anyOf": [{"type": "integer"}, {"type": "null"}]}},
    "required": ["node", "more"],
}


@pytest.mark.parametrize("schema", [{"json": NODE}, {"choice": ["yes", "no"]}])
def test_a_scripted_reply_keeps_to_a_schema(schema: dict[str, object]) -> None:
    reply = asyncio.run(Fake().generate(Request(as_messages("Go."), Sampling(schema=schema))))
    assert asyncio.run(form_of(schema).read(reply)).fit == "valid"
