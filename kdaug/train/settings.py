"""The hyper-parameters that all trainers share: a trainer's fields are its configuration, and are said here once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any

from kdaug.declared import check_fields
from kdaug.errors import ConfigError

if TYPE_CHECKING:
    from kdaug.chat import Chat
    from kdaug.train.batching import Encoded, Trainable

DTYPES = ("auto", "bfloat16", "float32")


_PLAIN: dict[str, Any] = {"says": "", "low": -math.inf, "high": math.inf, "choices": (), "free": False}


def setting(
    default: Any,
    says: str,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    choices: tuple[str, ...] = (),
    free: bool = False,
) -> Any:
    """A field of a trainer: its default, what it is, and what it may be. A subclass that gives another default keeps
    the rest. `free`: a training may be resumed with another value."""
    return field(default=default, metadata={"says": says, "low": low, "high": high, "choices": choices, "free": free})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the training loop and the loading of a student take; each method adds its own and has its own defaults.

    A step is `batch * accumulate` units (packed rows, pairs), `batch` of them in one forward pass. `lr` rises over the
    share `warmup` of the steps, then falls along a cosine to the share `floor` of itself. Raises ConfigError for a
    value of another type or out of its range.
    """

    epochs: int = setting(3, "passes over the data", 1)  # Alpaca
    steps: int = setting(0, "steps to take, over as many passes as that is; 0: those of `epochs`", 0)  # STaR: 40
    lr: float = setting(2e-5, "the highest learning rate", 0)  # Alpaca 7B, WizardLM, Magpie
    length: int = setting(2048, "tokens in a row; longer records are cut", 2)  # WizardLM, Orca
    batch: int = setting(1, "units in a forward pass", 1)
    accumulate: int = setting(8, "forward passes in a step", 1)
    warmup: float = setting(0.1, "share of the steps in which lr rises", 0, 1)
    floor: float = setting(0.1, "share of lr at the end", 0, 1)
    weight_decay: float = setting(0.0, "of matrices, decoupled (AdamW)", 0)  # Alpaca
    clip: float = setting(1.0, "bound of the gradient's norm; 0: none", 0)
    lora_rank: int = setting(0, "rank of trained matrices beside the frozen weights (LoRA); 0: train all weights", 0)
    lora_alpha: float = setting(16.0, "LoRA's matrices count alpha / rank times", 0)  # QLoRA
    lora_dropout: float = setting(0.0, "of what goes into LoRA's matrices", 0, 1)
    lora_targets: str = setting("all-linear", "layers with LoRA: all-linear, or names such as q_proj,v_proj")  # QLoRA
    dora: bool = setting(False, "train direction and length of the weights apart (DoRA); needs lora_rank")
    gradient_checkpointing: bool = setting(False, "compute activations twice instead of keeping them")
    seed: int = setting(0, "of the order of the data, and of dropout")
    eval_every: int = setting(0, "steps between looks at held-out records, the best student is kept; 0: never", 0)
    ema: float = setting(0.0, "decay of an average of the weights, which becomes the student; 0: none", 0, 1)
    max_truncated: float = setting(0.1, "share of the records that may be cut to length", 0, 1, free=True)
    spike: float = setting(2.0, "ranges of the last losses that a loss may lie above them; 0: any height", 0)
    on_bad: str = setting(
        "skip", "what to do at a spike or a loss that is no number", choices=("skip", "stop"), free=True
    )
    dry_run: bool = setting(False, "say what the training will be, and stop before its first step", free=True)
    save_every: int = setting(100, "steps between checkpoints", 1, free=True)
    device: str = setting("auto", "auto, cpu, cuda or cuda:1", free=True)
    dtype: str = setting("auto", "to compute in; auto: bfloat16 where that is fast", choices=DTYPES)

    def __post_init__(self) -> None:
        check_fields(self)
        check_settings(self)
        if self.dora and not self.lora_rank:
            raise ConfigError(f"{type(self).__name__}(dora=True): needs lora_rank, such as lora_rank=16")

    def taken(self, units: int) -> int:
        """The steps that are taken over so many units."""
        return self.steps or math.ceil(units / (self.batch * self.accumulate)) * self.epochs

    @property
    def kind(self) -> Trainable:
        """Of the records that it trains on."""
        return "completion"

    def encoded(self, data: Any, chat: Chat) -> Encoded:
        """The records as it trains on them. Raises ConfigError for what it cannot take, as `encode` does."""
        from kdaug.train.batching import encode

        return encode(data, self.kind, chat, self.length)


def described(trainer: type[Any]) -> dict[str, dict[str, Any]]:
    """Of each field: `default`, `says`, `low`, `high`, `choices`, `free`; what a class leaves out its bases say."""
    found: dict[str, dict[str, Any]] = {}
    for part in reversed(trainer.__mro__):
        for f in fields(part) if is_dataclass(part) else ():
            found[f.name] = _PLAIN | found.get(f.name, {}) | {**f.metadata, "default": f.default}
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
