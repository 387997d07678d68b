"""From what a recipe or a teacher's name says to what the part's types want."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdaug.declared import fit, told

if TYPE_CHECKING:
    from kdaug.recipe_file import RecipeFile


def coerced(file: RecipeFile, value: object, hint: Any, *at: str | int) -> Any:
    """`value` as the declared type wants it (a list becomes a tuple, an int a float), or an error that says so."""
    fits, found = fit(value, hint)
    if not fits:
        raise file.error(f"expected {told(hint)}, found {value!r}", *at)
    return found
