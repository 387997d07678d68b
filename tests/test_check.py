"""`kdaug check`: every built-in recipe runs through on made-up words."""

from __future__ import annotations

import re

import pytest

from kdaug import recipes
from kdaug.check import check
from kdaug.prompts import shipped
from kdaug.read import read


@pytest.mark.parametrize("name", recipes.builtin_names())
def test_every_built_in_recipe_keeps_records_in_every_stage(name: str) -> None:
    recipe = recipes.build(recipes.load(name), read(shipped() / "seeds" / "seeds.jsonl"))
    lines = list(check(recipe))
    kept = [int(n) for line in lines for n in re.findall(r"jobs, kept (\d+)", line)]
    assert len(kept) == len(recipe.stages)
    assert all(kept)
    assert "none on a real one" in lines[-1]
