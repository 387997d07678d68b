"""`kdaug chat`: a talk with a student, beside its base model if wanted."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any

from kdaug.cli.command import add, say
from kdaug.cli.evaluating import kind_of, white_box
from kdaug.errors import BadRequest, ConfigError

if TYPE_CHECKING:
    from kdaug.train.talk import Conversation


def add_chat(commands: Any) -> None:
    sub = add(
        commands,
        "chat",
        _chat,
        "Talk with a model in the terminal, in the chat template that it was trained in.",
        "kdaug chat models/alpaca --beside smollm2 --system 'You answer in one sentence.'",
    )
    sub.add_argument("model", help="a folder, a Hub id, or smollm2")
    sub.add_argument("--beside", metavar="MODEL", help="another model that answers the same, such as its base")
    sub.add_argument("--system", metavar="TEXT", help="a system message before the first turn")
    sub.add_argument("--temperature", type=float, default=0.0, metavar="X", help="0: always the likeliest word (0)")
    sub.add_argument("--top-p", type=float, default=1.0, metavar="X", help="of the likeliest words, this share (1)")
    sub.add_argument("--max-tokens", type=int, default=512, metavar="N", help="of one reply (512)")
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (auto)")


def _chat(given: argparse.Namespace) -> int:
    from kdaug.record import system
    from kdaug.teacher import Sampling
    from kdaug.train.talk import Conversation, Talker

    Sampling(given.temperature, given.top_p, given.max_tokens)  # refuses what makes no sense
    for name in filter(None, (given.model, given.beside)):
        if (kind := kind_of(name)) and kind != "local":
            raise ConfigError(f"{name} is a teacher without weights here: chat loads a folder, a Hub id or smollm2")
    opening = system(given.system) if given.system else ()
    talks = []
    for name in [given.model, *([given.beside] if given.beside else [])]:
        talker = Talker.load(white_box(name), given.device)
        try:
            talks.append(Conversation(talker, opening, given.temperature, given.top_p, given.max_tokens))
        except BadRequest as e:
            raise ConfigError(f"{e}; leave out --system") from e
    if sys.stdin.isatty():
        say("/reset starts anew, /quit ends; Ctrl-C cuts a reply short")
    for line in _lines():
        if line == "/quit":
            break
        if line == "/reset":
            for talk in talks:
                talk.reset()
            say("a new conversation")
        elif line.startswith("/"):
            say(f"no command {line.split()[0]}: there are /reset and /quit")
        elif line:
            _answer(talks, line)
    return 0


def _answer(talks: list[Conversation], line: str) -> None:
    """What each says, under its name where there are several, and its number where they have one name."""
    alike = len({talk.talker.name for talk in talks}) < len(talks)
    for number, talk in enumerate(talks, 1):
        if len(talks) > 1:
            print(f"{number}: " * alike + f"{talk.talker.name}: ", end="", flush=True)
        try:
            talk.say(line, lambda words: print(words, end="", flush=True))
        except BadRequest as e:
            say(f"kdaug: {e}")
        print(flush=True)


def _lines() -> Iterator[str]:
    """What is typed, or piped in, line by line, until it ends."""
    shown = "> " if sys.stdin.isatty() else ""
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    while True:
        try:
            yield input(shown).strip()
        except EOFError:
            return
