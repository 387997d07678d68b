"""The methods as pages: the list and one method's page for a terminal, and docs/methods.md."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdaug.methods import FAMILIES, NEEDS, Method, settings
from kdaug.recipe import parts

WIDTH = 100
RENEW = "kdaug methods --markdown > docs/methods.md"


def listing(methods: Sequence[Method]) -> Iterator[str]:
    """All by family, in columns."""
    rows = {m.name: (m.name, ", ".join(m.skills), m.algorithm, _asks(m), ", ".join(m.needs)) for m in methods}
    head = ("method", "skill", "trains by", "asks", "needs")
    widths = [max(len(row[i]) for row in (head, *rows.values())) for i in range(len(head))]
    yield _columns(head, widths)
    for family, what in FAMILIES.items():
        own = [rows[m.name] for m in methods if m.family == family]
        if own:
            yield ""
            yield f"{family}: {what}"
            yield from (_columns(row, widths) for row in own)
    yield ""
    yield "one method's page: kdaug methods NAME; a folder to begin with: kdaug init --method NAME DIR"


def page(method: Method) -> Iterator[str]:
    """All there is to know of one method before it is run."""
    yield f"{method.name}: {method.family}, for {' and '.join(method.skills)}, trained by {method.algorithm}"
    yield ""
    yield from textwrap.wrap(method.description, WIDTH)
    yield ""
    yield from _item("paper", method.paper)
    yield from _item("faithful", method.faithful)
    if method.departs:
        yield from _item("departs", method.departs)
    yield from _item("asks", _asks(method) or "nobody")
    for need in method.needs:
        yield from _item("needs", f"{need}: {NEEDS[need]}")
    yield from _item(
        "seeds", f"{method.seeds}; yours with --seeds PATH" if method.seeds else "yours, with --seeds PATH"
    )
    for name, fields in method.source.items():
        yield ""
        yield f"source: {name}"
        yield from (f"  source.{name}.{field}={_value(value)}" for field, value in (fields or {}).items())
    for number, stage in enumerate(method.stages):
        yield ""
        yield f"stage {number}: {stage.generator.name}"
        for part in parts(stage):
            if part is not stage.generator:
                yield f"  gate {part.name}"
            indent = "    " if part is not stage.generator else "  "
            yield from (f"{indent}{part.name}.{name}={_value(value)}" for name, value in settings(part))
    if method.loop:
        yield ""
        yield "between the rounds"
        yield from (f"  loop.{name}={_value(value)}" for name, value in method.loop.items())
    yield ""
    prompts = "" if method.file else f"; prompts: kdaug init --method {method.name} DIR"
    yield f"change any of them with --set PART.FIELD=VALUE{prompts}"
    yield ""
    yield method.command


def markdown(methods: Sequence[Method]) -> str:
    """The text of docs/methods.md."""
    lines = [
        "# Methods",
        "",
        f"{len(methods)} methods by how they elicit knowledge, as the survey (arXiv 2402.13116) orders them. Each is a "
        "recipe in `templates/recipes/` and a generator of about a page. `kdaug methods NAME` prints its settings, "
        "`kdaug init --method NAME DIR` writes its recipe, seeds and prompts out for you, and "
        "[extending.md](extending.md) adds another.",
        "",
        f"This page is printed from the recipes' `method:` blocks: `{RENEW}`.",
    ]
    for family, what in FAMILIES.items():
        own = [m for m in methods if m.family == family]
        if own:
            lines += ["", f"## {family.capitalize()}", "", f"{what.capitalize()}.", ""]
            lines += ["| method | algorithm | skill | paper | faithful | departs, and why | asks | made by | command |"]
            lines += ["|---|---|---|---|---|---|---|---|---|"]
            lines += [_row(method) for method in own]
    return "\n".join(lines) + "\n"


def _row(method: Method) -> str:
    asks = ", ".join(filter(None, (_asks(method), *method.needs)))
    cells = (
        f"`{method.name}`",
        method.algorithm,
        ", ".join(method.skills),
        re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[\1](https://arxiv.org/abs/\1)", method.paper),
        method.faithful,
        method.departs,
        asks,
        ", ".join(f"`{name}`" for name in method.generators),
        f"`{method.command}`",
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _asks(method: Method) -> str:
    return ", ".join(method.roles)


def _columns(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  " + "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _item(name: str, text: str) -> Iterator[str]:
    indent = " " * 10
    yield from textwrap.wrap(f"{name:<10}{text}", WIDTH, subsequent_indent=indent, break_long_words=False)


def _value(value: Any) -> str:
    """As `--set` takes it, shortened."""
    written = json.dumps(value, ensure_ascii=False, default=_plain) if not isinstance(value, str) else value
    return textwrap.shorten(written.replace("\n", "\\n"), WIDTH - 40, placeholder=" …")


def _plain(value: object) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)
