"""Prompt templates: plain Jinja2 files in `templates/`, rendered in a sandbox; a user's own folder goes first."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.resources import files
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from kdaug.errors import ConfigError
from kdaug.record import Message, Messages, Role

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

# The folder of this run's user, seen by the run's own tasks only.
_overlay: ContextVar[Path | None] = ContextVar("templates", default=None)

SECTIONS = ("prompts", "card")  # what a user's folder may replace
_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}


@cache
def shipped() -> Path:
    """`kdaug/templates` in a wheel, `templates/` beside the package in a checkout."""
    inside = Path(str(files("kdaug"))) / "templates"
    return inside if inside.is_dir() else inside.parents[1] / "templates"


@contextmanager
def overlay(folder: Path | None) -> Iterator[None]:
    """Within it, templates of `folder` (laid out as `templates/`) replace the shipped ones of the same name."""
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"no folder of templates at {folder}")
    if folder is not None and not any(path for kind in SECTIONS for path in folder.glob(f"{kind}/**/*.j2")):
        raise ConfigError(f"{folder} holds no template: a prompt's is {folder}/prompts/GENERATOR/NAME.j2 (kdaug init)")
    token = _overlay.set(folder)
    try:
        yield
    finally:
        _overlay.reset(token)


def folders() -> tuple[Path, ...]:
    mine = _overlay.get()
    return (shipped(),) if mine is None else (mine, shipped())


def render(name: str, *, section: str = "prompts", **values: Any) -> str:
    """The text of `templates/<section>/<name>.j2`, stripped.

    Raises ConfigError when there is no such template, when it uses a value that it was not given, or when it is wrong.
    """
    with _guarded(name, section):
        return _environment(folders(), section).get_template(f"{name}.j2").render(**values).strip()


def check(name: str, *, section: str = "prompts") -> None:
    """Raises ConfigError when there is no such template, or when it is wrong."""
    with _guarded(name, section):
        _environment(folders(), section).get_template(f"{name}.j2")


@contextmanager
def _guarded(name: str, section: str) -> Iterator[None]:
    from jinja2 import TemplateError, TemplateNotFound, TemplateSyntaxError

    try:
        yield
    except TemplateNotFound as e:
        raise ConfigError(f"no template {section}/{e.name} in {' or '.join(map(str, folders()))}") from e
    except TemplateError as e:
        where = f", line {e.lineno}" if isinstance(e, TemplateSyntaxError) else ""
        raise ConfigError(f"template {section}/{name}.j2{where}: {e}") from e
    except UnicodeDecodeError as e:
        raise ConfigError(f"template {section}/{name}.j2 is no UTF-8 text: save it as UTF-8") from e


def listed(name: str, **values: Any) -> tuple[tuple[str, str], ...]:
    """The lines of a template that is a list: `name | text` each; a text may be empty, and so may a line.

    Raises ConfigError as `render` does, and for a line without a name.
    """
    found = []
    for line in render(name, **values).splitlines():
        head, bar, text = line.partition("|")
        if line.strip() and not (bar and head.strip()):
            raise ConfigError(f"template prompts/{name}.j2: expected lines of `name | text`, found {line!r}")
        if bar:
            found.append((head.strip(), text.strip()))
    if not found:
        raise ConfigError(f"template prompts/{name}.j2 is an empty list")
    return tuple(found)


def converse(name: str, **values: Any) -> Messages:
    """The messages of a template in which `{{ system }}`, `{{ user }}` and `{{ assistant }}` begin one each; one that
    has none of them is one message of the user.

    Raises ConfigError as `render` does, and for text before the first of them.
    """
    mark = token_hex(8)  # new each time, so that no text that is shown can open a turn
    text = render(name, **{role: f"{mark}{role}{mark}" for role in _ROLES}, **values)
    before, *turns = re.split(f"{mark}({'|'.join(_ROLES)}){mark}", text)
    if not turns:
        return (Message("user", before.strip()),)
    if before:
        raise ConfigError(f"template prompts/{name}.j2 must begin with {{{{ system }}}} or {{{{ user }}}}")
    return tuple(Message(_ROLES[role], content.strip()) for role, content in zip(turns[::2], turns[1::2], strict=True))


def digest(name: str) -> str:
    """A hash of every template that a component of this name renders (`templates/prompts/<name>/`), or ""."""
    found: dict[str, Path] = {}
    for folder in reversed(folders()):
        found.update({p.name: p for p in sorted((folder / "prompts" / name).glob("*.j2"))})
    if not found:
        return ""
    body = hashlib.blake2b(digest_size=8)
    for file in sorted(found):
        body.update(file.encode() + b"\0" + found[file].read_bytes() + b"\0")
    return body.hexdigest()


@cache
def _environment(roots: tuple[Path, ...], section: str) -> ImmutableSandboxedEnvironment:
    from jinja2 import FileSystemLoader, StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    # A prompt is plain text for a model, not HTML: nothing is escaped.
    return ImmutableSandboxedEnvironment(
        loader=FileSystemLoader([root / section for root in roots]),
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )
