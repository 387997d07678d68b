"""What every command needs."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

Command = Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """Whose errors are one line, and whose options are written out: `--seed 3` is no `--seeds`."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **more})

    def error(self, message: str) -> NoReturn:
        say(f"{self.prog}: {message} (see {self.prog} --help)")
        raise SystemExit(2)


def add(commands: Any, name: str, command: Command, summary: str, example: str) -> argparse.ArgumentParser:
    """`summary` is a sentence; `example` a command that a user may type."""
    made: argparse.ArgumentParser = commands.add_parser(
        name,
        help=(summary if summary[:2].isupper() else summary[0].lower() + summary[1:]).rstrip("."),
        description=summary,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.set_defaults(command=command)
    return made


def say(line: str) -> None:
    """On stderr: stdout is for results."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def speaking() -> Iterator[None]:
    """Within, what kdaug logs is said."""
    log, handler = logging.getLogger("kdaug"), _Saying()
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(before)
        log.removeHandler(handler)


class _Saying(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def folder(text: str) -> Path:
    """An option's folder; the empty name, which a variable that is not set leaves behind, is none."""
    if not text.strip():
        raise argparse.ArgumentTypeError("an empty name")
    return Path(text)
