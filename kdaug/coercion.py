"""From what a recipe or a teacher's name says to what the part's types want."""

from __future__ import annotations

import importlib
import sys
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdaug.errors import ConfigError
from kdaug.recipe_file import RecipeFile


def coerced(file: RecipeFile, value: object, hint: Any, *at: str | int) -> Any:
    """`value` as the declared type wants it (a list becomes a tuple, an int a float), or an error that says so."""
    fits, found = _fit(value, hint)
    if not fits:
        wanted = getattr(hint, "__name__", str(hint)).replace("typing.", "")
        raise file.error(f"expected {wanted if not typing.get_args(hint) else str(hint)}, found {value!r}", *at)
    return found


def _fit(value: object, hint: Any) -> tuple[bool, Any]:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return next((fit for a in args if (fit := _fit(value, a))[0]), (False, value))
    if origin is typing.Literal:
        return value in args, value
    if origin in (tuple, list, Sequence):
        if not isinstance(value, (list, tuple)):
            return False, value
        fits = [_fit(item, args[0] if args else Any) for item in value]
        return all(ok for ok, _ in fits), tuple(item for _, item in fits)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return True, float(value)
    if hint in (int, float):
        return isinstance(value, hint) and not isinstance(value, bool), value
    if hint in (str, bool):
        return isinstance(value, hint), value
    if hint is type(None):
        return value is None, value
    if hint is Path:
        return isinstance(value, str), Path(value) if isinstance(value, str) else value
    return True, value


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
