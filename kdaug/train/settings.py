"""The hyper-parameters that all trainers share: a trainer's fields are its configuration, and are said here once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from kdaug.errors import ConfigError

DTYPES = ("auto", "bfloat16", "float32")


def setting(
    default: Any, says: str, low: float = -math.inf, high: float = math.inf, choices: tuple[str, ...] = ()
) -> Any:
    """A field of a trainer: its default, what it is, and what it may be. A subclass that gives another default keeps
    the rest."""
    return field(default=default, metadata={"says": says, "low": low, "high": high, "choices": choices})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the training loop and the loading of a student take; each method adds its own and has its own defaults.

    A step is `batch * accumulate` units (packed rows, pairs), `batch` of them in one forward pass. `lr` rises over the
    share `warmup` of the steps, then falls along a cosine to the share `floor` of itself. Raises ConfigError for a
    value out of its range.
    """

    epochs: int = setting(3, "passes over the data", 1)  # Alpaca
    lr: float = setting(2e-5, "the highest learning rate", 0)  # Alpaca 7B, WizardLM, Magpie
    length: int = setting(2048, "tokens in a row; longer records are cut", 2)  # WizardLM, Orca
    batch: int = setting(1, "units in a forward pass", 1)
    accumulate: int = setting(8, "forward passes in a step", 1)
    warmup: float = setting(0.1, "share of the steps in which lr rises", 0, 1)
    floor: float = setting(0.1, "share of lr at the end", 0, 1)
    weight_decay: float = setting(0.0, "of matrices, decoupled (AdamW)", 0)  # Alpaca
    clip: float = setting(1.0, "bound of the gradient's norm; 0: none", 0)
    gradient_checkpointing: bool = setting(False, "compute activations twice instead of keeping them")
    seed: int = setting(0, "of the order of the data, and of dropout")
    save_every: int = setting(100, "steps between checkpoints", 1)
    device: str = setting("auto", "auto, cpu, cuda or cuda:1")
    dtype: str = setting("auto", "to compute in; auto: bfloat16 where that is fast", choices=DTYPES)

    def __post_init__(self) -> None:
        check_settings(self)


def described(trainer: type[Any]) -> dict[str, dict[str, Any]]:
    """Of each field: `default`, `says`, `low`, `high`, `choices`; what a class leaves out is that of its bases."""
    found: dict[str, dict[str, Any]] = {}
    for part in reversed(trainer.__mro__):
        for f in fields(part) if is_dataclass(part) else ():
            found[f.name] = {"says": "", "low": -math.inf, "high": math.inf, "choices": ()} | found.get(f.name, {})
            found[f.name] |= {**f.metadata, "default": f.default}
    return found


def check_settings(how: Any) -> None:
    """Raises ConfigError for a hyper-parameter out of its range."""
    for name, about in described(type(how)).items():
        value, called = getattr(how, name), f"{type(how).__name__}({name}={getattr(how, name)!r})"
        if value is None:
            continue
        if about["choices"] and value not in about["choices"]:
            raise ConfigError(f"{called}: give one of {', '.join(about['choices'])}")
        if isinstance(value, (int, float)) and not about["low"] <= value <= about["high"]:
            low, high = about["low"], about["high"]
            allowed = f"at least {low}" if high == math.inf else f"between {low} and {high}"
            raise ConfigError(f"{called}: must be {allowed}")
