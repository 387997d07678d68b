"""A training's state as one file, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kdaug.errors import ConfigError, TrainError, shorten

LOCK = "training.lock"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Nobody else trains into the folder meanwhile. One that was made for this and stayed empty goes again.

    Raises ConfigError where another process does, or the folder cannot be made.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        lock.acquire(timeout=0)
    except Timeout as e:
        raise ConfigError(f"another training is writing to {folder}: wait for it, or choose another folder") from e
    except OSError as e:
        raise ConfigError(f"{folder} cannot be written to: {e.strerror}") from e
    try:
        yield
    finally:
        if not (folder / "training.json").is_file():
            (folder / LOCK).unlink(missing_ok=True)
            with suppress(OSError):  # something is in it
                folder.rmdir()
        lock.release()


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A temporary name to write to, which then takes the file's place: a kill leaves the old one whole.

    Each of several processes that torchrun started has a temporary name of its own.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    tmp = file.with_name(f"{file.name}{os.environ.get('RANK', '')}.tmp")
    yield tmp
    with tmp.open("rb+") as f:
        os.fsync(f.fileno())
    tmp.replace(file)


def write_state(file: Path, facts: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """`facts` say of which training it is."""
    import torch

    with replacing(file) as tmp:
        torch.save({"facts": dict(facts), **state}, tmp)


def read_state(file: Path, facts: Mapping[str, Any], device: str) -> dict[str, Any]:
    """What `write_state` wrote, or nothing where there is no file.

    Raises ConfigError for the state of another training, TrainError for a file that cannot be read.
    """
    import pickle

    import torch

    if not file.is_file():
        return {}
    try:
        state: dict[str, Any] = torch.load(file, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as e:
        raise TrainError(f"{file} cannot be read ({shorten(str(e), 60)}): delete it, and training begins anew") from e
    check_facts(file, state.pop("facts", {}), facts)
    return state


def check_facts(file: Path, found: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Raises ConfigError where a checkpoint is not of the training that `facts` describe."""
    differ = [f"{n}: {found.get(n)} there, {facts.get(n)} now" for n in facts if found.get(n) != facts.get(n)]
    if differ:
        raise ConfigError(f"{file} is the checkpoint of another training ({'; '.join(differ)}): choose another folder")
