"""Where a student's training records came from: what training.json says of it, and reading them again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from kdaug.dataset import Dataset
from kdaug.read import stream
from kdaug.record import Record
from kdaug.seeds import Seeds
from kdaug.terms import Terms, terms_of

# What the run that made a dataset says of itself, and a student's card repeats.
_OF_THE_RUN = ("recipe", "fingerprint", "command", "kdaug")


def origin_of(data: Any, split: str) -> dict[str, Any]:
    """`source` (file, folder or Hub id) and `split`, and of a run's dataset the run's recipe; empty where the records
    were handed in one by one, so that nobody knows where they are from."""
    if isinstance(data, Dataset):
        source = str(data.path)
    elif isinstance(data, Seeds):
        source, split = data.source, data.split
    else:
        return {}
    return {"source": source, "split": split, **_run_of(Path(source))}


def _run_of(source: Path) -> dict[str, Any]:
    for folder in (source, source.parent):
        if (folder / "run.json").is_file() and source.is_dir():
            told: dict[str, Any] = orjson.loads((folder / "run.json").read_bytes())
            return {name: told[name] for name in _OF_THE_RUN if told.get(name)}
    return {}


def records_again(origin: dict[str, Any]) -> Iterator[Record]:
    """The records that `origin_of` told of. Raises ConfigError where they are no longer there."""
    return stream(origin["source"], split=origin["split"])


def terms_by(about: Mapping[str, Any], teacher: str) -> Terms:
    """The terms of a teacher of the training that training.json is `about`: those that its folder states, else those
    that are known of its name."""
    stated = about.get("licences", {}).get(teacher)
    return Terms(stated) if stated else terms_of(teacher)


def short_name(source: str) -> str:
    """A folder or file by its own name (a run's dataset by the run's), without the path here; a Hub id as it is."""
    plain = source.replace("\\", "/").rstrip("/")
    if not Path(source).exists() and plain.count("/") <= 1:
        return plain
    return plain.removesuffix("/dataset").rsplit("/", 1)[-1]


def trainings(folder: Path) -> Iterator[dict[str, Any]]:
    """What the training.json says of a student, then of the student that it was trained from, and so on."""
    seen = set[Path]()
    while (file := folder / "training.json").is_file() and file.resolve() not in seen:
        seen.add(file.resolve())
        about: dict[str, Any] = orjson.loads(file.read_bytes())
        yield about
        folder = Path(about["student"])
