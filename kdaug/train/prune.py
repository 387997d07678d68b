"""Make a smaller student from a larger model by leaving out layers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from kdaug.device import quiet
from kdaug.errors import ConfigError
from kdaug.train.folder import check_free
from kdaug.train.model_card import write_pruned_card
from kdaug.train.student import locate, readable


def prune(model: str | Path, layers: int, out: str | Path) -> Path:
    """A copy of `model` (a name or a folder) with only `layers` of its decoder layers, in the folder `out`.

    Left out is every other layer around the middle, the first and the last stay: neighbours there do the most similar
    work (arXiv 2403.17887 measures it). The copy must be trained before it is of use. Raises ConfigError.
    """
    target = Path(out)
    check_free(target)
    source = locate(model)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet():
        full = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    decoder = getattr(full.base_model, "layers", None)
    if not isinstance(decoder, torch.nn.ModuleList):
        raise ConfigError(f"{source} ({full.config.model_type}) has no list of decoder layers to leave some out of")
    kept = keep(len(decoder), layers)
    full.base_model.layers = torch.nn.ModuleList(decoder[i] for i in kept)
    _fit_config(full.config.get_text_config(), kept, len(decoder))
    tmp = target.with_name(target.name + ".tmp")
    shutil.rmtree(tmp, ignore_errors=True)
    with quiet():
        full.save_pretrained(tmp)
        AutoTokenizer.from_pretrained(source).save_pretrained(tmp)
    readable(tmp)
    write_pruned_card(tmp, str(model), kept, len(decoder))
    tmp.replace(target)
    return target


def keep(existing: int, layers: int) -> list[int]:
    """Which of `existing` layers stay: drop even ones first, nearest the middle first, never the first or the last."""
    if not 2 <= layers < existing:
        raise ConfigError(f"layers={layers}: this model has {existing}, so keep between 2 and {existing - 1}")
    inner = sorted(range(1, existing - 1), key=lambda i: (i % 2, abs(i - (existing - 1) / 2)))
    return sorted(set(range(existing)) - set(inner[: existing - layers]))


def _fit_config(config: Any, kept: list[int], existing: int) -> None:
    """The number of layers, and what the configuration lists layer by layer (kinds of attention and the like)."""
    for name, value in vars(config).items():
        if "layer" in name and isinstance(value, list) and len(value) == existing:
            setattr(config, name, [value[i] for i in kept])
    config.num_hidden_layers = len(kept)
