"""Whether values are of the types that were declared for them."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from kdaug.errors import ConfigError, shorten


def fit(value: object, hint: Any) -> tuple[bool, Any]:
    """Whether a value is what the type says, and the value as it wants it (a list becomes a tuple, an int a float)."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return next((found for a in args if (found := fit(value, a))[0]), (False, value))
    if origin is typing.Literal:
        return value in args, value
    if origin in (tuple, list, Sequence):
        if not isinstance(value, (list, tuple)):
            return False, value
        fits = [fit(item, args[0] if args else Any) for item in value]
        return all(ok for ok, _ in fits), tuple(item for _, item in fits)
    if origin in (dict, Mapping):
        return isinstance(value, Mapping), value
    if hint in (int, float):
        number = isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool)
        return number, float(value) if number and hint is float else value  # type: ignore[arg-type] # a number
    if hint in (str, bool):
        return isinstance(value, hint), value
    if hint is type(None):
        return value is None, value
    if hint is Path:
        return isinstance(value, (str, Path)), Path(value) if isinstance(value, str) else value
    return True, value


def told(hint: Any) -> str:
    """A type in words: `float`, `str | None`, `a mapping`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(told, args))
    if origin in (dict, Mapping):
        return "a mapping"
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, args))}"
    if args:
        return str(hint).replace("typing.", "")
    return "None" if hint is type(None) else getattr(hint, "__name__", str(hint)).replace("typing.", "")


def check(who: str, name: str, value: object, hint: Any) -> None:
    """Raises ConfigError, which names the argument, for a value of another type."""
    if not fit(value, hint)[0]:
        raise ConfigError(f"{who}: {name} is {shorten(repr(value), 60)}: expected {told(hint)}")


def check_fields(made: Any) -> None:
    """`check` for every field of a dataclass's object."""
    kind = type(made)
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(made):
        if field.init:
            check(kind.__name__, field.name, getattr(made, field.name), hints[field.name])
