"""A student's folder while it is trained: which training it holds, what is told of it, and what is left at its end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from kdaug.errors import ConfigError
from kdaug.train.batching import Encoded, check_truncated
from kdaug.train.checkpoint import LOCK, held, replacing
from kdaug.train.distributed import all_parts
from kdaug.train.settings import described
from kdaug.train.student import Teaching, digest

ASIDE = "bad_batches.jsonl"  # batches whose step was not taken
EARLY = ("reference.json", "reference.json.tmp", LOCK)  # what a kill may leave of a training before training.json


class Folder:
    """A student's folder while it is trained. `facts` make this training this one and no other; `about` is for people.

    Raises ConfigError where the folder holds another training, or a model of other making, and TrainError where more
    records are cut than `how` allows.
    """

    def __init__(
        self, path: Path, how: Any, name: str | Path, source: Path, data: Encoded, teacher: Teaching | None = None
    ) -> None:
        check_truncated(data, how.length, how.max_truncated)
        self.path = path
        self.checkpoint, self.best = path / "checkpoint.pt", path / "best.pt"
        about = described(type(how))
        settings = {name: value for name, value in asdict(how).items() if not about[name]["free"]}
        self.facts = {"method": type(how).__name__, **settings, "student": digest(source), "data": data.digest}
        if teacher is not None:
            self.facts["teacher"] = digest(teacher.folder)
        self.about: dict[str, Any] = {
            "student": str(name),
            "data": data.origin,
            "records": len(data.records),
            "tokens": data.tokens,
            "trained_tokens": data.trained,
            "truncated": list(data.truncated),
            "dropped": [*data.dropped, *data.alike],
            "teachers": list(dict.fromkeys([*data.teachers, *([teacher.name] if teacher is not None else [])])),
        }
        if teacher is not None and teacher.licence:
            self.about["licences"] = {teacher.name: teacher.licence}
        before = self._before()
        self.finished = before.get("status") == "finished"
        self.threads = int(before.get("threads", 0))  # that it was begun with; 0: not begun

    def _before(self) -> dict[str, Any]:
        file = self.path / "training.json"
        if not file.is_file():
            check_free(self.path, EARLY)
            return {}
        before: dict[str, Any] = orjson.loads(file.read_bytes())
        old = before["facts"]
        changed = [
            f"{n}: {old.get(n)} before, {self.facts.get(n)} now"
            for n in {**old, **self.facts}
            if old.get(n) != self.facts.get(n)
        ]
        if changed:
            raise ConfigError(f"{self.path} holds another training ({'; '.join(changed)}): choose another folder")
        return before

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else trains here meanwhile. Raises ConfigError where another process does, or just has."""
        with held(self.path):
            if self._before().get("status") == "finished":
                raise ConfigError(f"another process has just finished the training of {self.path}")
            yield

    def told(self, **more: Any) -> dict[str, Any]:
        """What training.json holds."""
        return {"facts": self.facts, **self.about, **more}

    def tell(self, status: str, **results: Any) -> None:
        body = {"status": status, "threads": self.threads, **self.told(**results)}
        try:
            with replacing(self.path / "training.json") as tmp:
                tmp.write_bytes(orjson.dumps(body, option=orjson.OPT_INDENT_2))
        except OSError as e:
            raise ConfigError(f"{self.path} cannot be written to: {e.strerror}") from e

    def metrics(self) -> list[dict[str, Any]]:
        return read_lines(self.path / "metrics.jsonl")

    def rewind(self, step: int) -> None:
        """Forget what was told of steps after the checkpoint: these are taken again."""
        for name in ("metrics.jsonl", ASIDE):
            if lines := read_lines(self.path / name):
                with replacing(self.path / name) as tmp:
                    tmp.write_bytes(b"".join(orjson.dumps(m) + b"\n" for m in lines if m["step"] <= step))

    def clear(self) -> None:
        """Remove what only an unfinished training needs."""
        for left in (
            self.path / LOCK,
            self.checkpoint,
            self.best,
            *all_parts(self.checkpoint),
            *self.path.glob("*.tmp"),
        ):
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink(missing_ok=True)


def check_free(folder: Path, but: Collection[str] = ()) -> None:
    """Raises ConfigError unless a model may be written there: it is not there yet, or empty `but` for these files."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file: choose a folder to write the model to")
    above = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise ConfigError(f"{folder} cannot be made: {above} is not to be written to")
    if folder.is_dir() and any(file.name not in but for file in folder.iterdir()):
        raise ConfigError(f"{folder} holds other files: choose another folder to write the model to")


def read_lines(file: Path) -> list[dict[str, Any]]:
    """JSON lines; a last line that a kill tore is none."""
    if not file.is_file():
        return []
    whole, _, _ = file.read_bytes().rpartition(b"\n")
    return [orjson.loads(line) for line in whole.splitlines()]
