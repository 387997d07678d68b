"""From what a recipe or a teacher's name says to what the part's types want."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdaug.declared import fit, told
from kdaug.errors import ConfigError

if TYPE_CHECKING:
    from kdaug.recipe_file import RecipeFile


def coerced(file: RecipeFile, value: object, hint: Any, *at: str | int) -> Any:
    """`value` as the declared type wants it (a list becomes a tuple, an int a float), or an error that says so."""
    fits, found = fit(value, hint)
    if not fits:
        raise file.error(f"expected {told(hint)}, found {value!r}", *at)
    return found


def load_class(address: str, folder: Path | None = None) -> Any:
    """`package.module:Class`; the module may also lie in `folder`, beside the recipe that names it."""
    module, _, name = address.partition(":")
    if folder is not None and str(folder) not in sys.path:
        sys.path.append(str(folder))  # last, so that it hides nothing that is installed
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, SyntaxError, ValueError) as e:
        raise ConfigError(f"cannot import {module} for {address} ({e})") from e
    except AttributeError as e:
        raise ConfigError(f"{module} has no {name}") from e
