"""A student on the Hub: what of its folder goes there."""

from __future__ import annotations

from pathlib import Path

import orjson

from kdaug.errors import ConfigError
from kdaug.hub import Upload, push

# The model and its tokenizer, what is said of it, and the curve; no checkpoint, nothing that is half written.
PUSHED = ("*.safetensors", "*.json", "*.jsonl", "*.jinja", "*.model", "*.txt", "*.md", "*.png")
KEPT = ("reference.json",)  # what a training computed for itself


def is_model(folder: Path) -> bool:
    """Whether this is a model's folder, finished or not, and no run or dataset."""
    return any((folder / name).is_file() for name in ("training.json", "config.json"))


def push_model(
    folder: str | Path, repo_id: str, *, private: bool = False, token: str | None = None, revision: str | None = None
) -> str:
    """Makes the Hub's model repository what this folder is, in one commit; returns the commit's address.

    Raises ConfigError for a training that has not finished or a folder without weights, and what `hub.push` raises.
    """
    folder = Path(folder)
    training = folder / "training.json"
    if training.is_file() and (status := orjson.loads(training.read_bytes()).get("status")) != "finished":
        raise ConfigError(f"{folder}: its training is {status}: the same `kdaug train` goes on with it; push it then")
    if not any(folder.glob("*.safetensors")):
        raise ConfigError(f"{folder} holds no weights (*.safetensors): give the folder of a model")
    found = {file.name for pattern in PUSHED for file in folder.glob(pattern) if file.is_file()} - set(KEPT)
    upload = Upload("model", folder, sorted(found), r"[^/]*\.safetensors(\.index\.json)?", "Model, written by kdaug")
    return push(upload, repo_id, private=private, token=token, revision=revision)
