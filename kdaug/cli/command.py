"""What every command needs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

Command = Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """Whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        say(f"{self.prog}: {message} (see {self.prog} --help)")
        raise SystemExit(2)


def add(commands: Any, name: str, command: Command, summary: str, example: str) -> argparse.ArgumentParser:
    """`summary` is a sentence; `example` a command that a user may type."""
    made: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary[0].lower() + summary[1:].rstrip("."),
        description=summary,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.set_defaults(command=command)
    return made


def say(line: str) -> None:
    """On stderr: stdout is for results."""
    print(line, file=sys.stderr, flush=True)


def folder(text: str) -> Path:
    """An option's folder; the empty name, which a variable that is not set leaves behind, is none."""
    if not text.strip():
        raise argparse.ArgumentTypeError("an empty name")
    return Path(text)
