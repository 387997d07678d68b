"""Training a few weights beside the frozen ones: LoRA (arXiv 2106.09685) and DoRA (arXiv 2402.09353), through peft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdaug.device import quiet
from kdaug.errors import ConfigError, require, shorten
from kdaug.train.settings import Settings

FOLDER = "adapter"  # in a student's folder: what find_adapter takes, beside the merged model


class Adapter:
    """Low-rank matrices put into a model in place: only they are trained.

    At first they change nothing, so the model computes what it did. `base` is the name of the model that they belong
    to. Raises ConfigError where peft is missing or the model has no such layers.
    """

    def __init__(self, model: Any, how: Settings, base: str) -> None:
        require("peft", "train", "lora_rank")
        from peft import LoraConfig, get_peft_model

        named = how.lora_targets.split(",")
        config = LoraConfig(
            r=how.lora_rank,
            lora_alpha=how.lora_alpha,
            lora_dropout=how.lora_dropout,
            target_modules=how.lora_targets if how.lora_targets == "all-linear" else named,
            use_dora=how.dora,
            task_type="SEQ_CLS" if hasattr(model, "score") else "CAUSAL_LM",  # a new score is trained as a whole
        )
        try:
            self.peft = get_peft_model(model, config)
        except ValueError as e:
            raise ConfigError(f"lora_targets={how.lora_targets!r}: {shorten(str(e))}") from e
        self.peft.peft_config["default"].base_model_name_or_path = base

    def merge(self, folder: Path) -> None:
        """Save the matrices in `folder`/adapter, and add them to the model's own weights, where they then are."""
        with quiet():
            self.peft.save_pretrained(folder / FOLDER)
            self.peft.merge_and_unload()
