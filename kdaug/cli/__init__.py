"""The command line. Every command is a thin layer over the Python API; errors are one line with the way out."""

from __future__ import annotations

import argparse
import atexit
import gc
import os
import sys
from collections.abc import Sequence

from kdaug import __version__
from kdaug.cli.chatting import add_chat
from kdaug.cli.command import Command, Parser, say
from kdaug.cli.curating import add_curate, add_mix
from kdaug.cli.evaluating import add_eval
from kdaug.cli.folders import add_batches, add_doctor, add_export, add_init, add_push, add_report, add_show
from kdaug.cli.judging import add_judge_check
from kdaug.cli.looping import add_loop
from kdaug.cli.methods import add_methods
from kdaug.cli.running import add_check, add_estimate, add_run
from kdaug.cli.student import add_prune, add_train
from kdaug.errors import Interrupted, KdaugError


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 finished, 1 failed, 2 the user's mistake, 3 ended clean with less than wanted, 130 interrupted."""
    # A call makes hundreds of short-lived objects and hardly a cycle: to look for those after every 700 takes a tenth
    # of a run's time.
    gc.set_threshold(10_000, 10, 10)
    atexit.register(_leave_quickly)
    words = sys.argv[1:] if arguments is None else arguments
    given = parser(training="train" in words).parse_args(words)
    command: Command = given.command
    try:
        return command(given)
    except KdaugError as e:
        say(f"kdaug: {e}")
        return e.exit_code
    except Interrupted as e:
        say(f"interrupted: {e}" if str(e) else "interrupted")
        return e.exit_code
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) is gone: that is no error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _leave_quickly() -> None:
    """At its exit Python looks for cycles in all that was imported, for memory that goes with the process: a tenth of
    what a short command takes. torch is let be, whose parts complain of what is left over."""
    if "torch" not in sys.modules:
        gc.freeze()


def parser(*, training: bool = True) -> argparse.ArgumentParser:
    """`training`: with the options of the trainers, which take 0.1 s to look up."""
    top = Parser(
        "kdaug",
        description="From seed tasks and a teacher model to a dataset and a small student model.",
        epilog="Start here: kdaug init first && kdaug run first/recipe.yaml --seeds first/seeds.jsonl --out runs/first",
    )
    top.add_argument("--version", action="version", version=f"kdaug {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_init(commands)
    add_methods(commands)
    add_run(commands)
    add_loop(commands)
    add_curate(commands)
    add_mix(commands)
    add_check(commands)
    add_estimate(commands)
    add_judge_check(commands)
    add_show(commands)
    add_report(commands)
    add_batches(commands)
    add_export(commands)
    add_push(commands)
    add_train(commands, training)
    add_prune(commands)
    add_eval(commands)
    add_chat(commands)
    add_doctor(commands)
    return top
