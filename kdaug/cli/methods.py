"""`kdaug methods`: what methods there are, and one method's page."""

from __future__ import annotations

import argparse
from typing import Any

from kdaug.cli.command import add
from kdaug.errors import ConfigError


def add_methods(commands: Any) -> None:
    sub = add(
        commands,
        "methods",
        _methods,
        "List the methods by family, or print one method's page: what it is, what it needs, what to type.",
        "kdaug methods && kdaug methods evol-instruct",
    )
    sub.add_argument("name", nargs="?", metavar="NAME", help="a method, such as evol-instruct, or a recipe of yours")
    sub.add_argument("--markdown", action="store_true", help="print docs/methods.md")


def _methods(given: argparse.Namespace) -> int:
    from kdaug.method_pages import listing, markdown, page
    from kdaug.methods import find, methods

    if given.markdown:
        if given.name:
            raise ConfigError("--markdown is the page of all methods: leave the name out")
        print(markdown(methods()), end="")
    else:
        print("\n".join(page(find(given.name)) if given.name else listing(methods())))
    return 0
