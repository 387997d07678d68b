"""A pruned model is the same model without some of its layers, and opens with transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kdaug.errors import ConfigError
from kdaug.train.prune import keep, prune


def test_it_loads_and_computes_with_the_layers_that_are_left(tmp_path: Path, make_model: Callable[..., Path]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    full = make_model(tmp_path / "full", layers=6)
    small = prune(full, 4, tmp_path / "small")
    before = AutoModelForCausalLM.from_pretrained(full)
    after = AutoModelForCausalLM.from_pretrained(small)
    assert after.config.num_hidden_layers == len(after.model.layers) == 4
    assert [layer.self_attn.layer_idx for layer in after.model.layers] == [0, 1, 2, 3]
    before.model.layers = torch.nn.ModuleList(before.model.layers[i] for i in keep(6, 4))
    ids = torch.arange(12)[None]
    torch.testing.assert_close(after(ids, use_cache=False).logits, before(ids, use_cache=False).logits)
    assert after.generate(ids, max_new_tokens=3, do_sample=False).shape == (1, 15)  # the cache has a place a layer
    assert AutoTokenizer.from_pretrained(small).chat_template


def test_its_files_are_for_whom_files_are(make_model: Callable[..., Path], tmp_path: Path) -> None:
    out = prune(make_model(tmp_path / "full", layers=3), 2, tmp_path / "cut")
    assert {file.stat().st_mode for file in out.iterdir()} == {(out / "config.json").stat().st_mode}


def test_lists_by_layer_in_the_configuration_follow(tmp_path: Path, make_tokenizer: Callable[..., Any]) -> None:
    from transformers import AutoModelForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig

    kinds = ["sliding_attention", "full_attention", *["sliding_attention"] * 3, "full_attention"]
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = Gemma3TextConfig(vocab_size=330, num_hidden_layers=6, layer_types=kinds, head_dim=8, **sizes)
    Gemma3ForCausalLM(config).save_pretrained(tmp_path / "full")
    make_tokenizer().save_pretrained(tmp_path / "full")
    small = AutoModelForCausalLM.from_pretrained(prune(tmp_path / "full", 4, tmp_path / "small"))
    assert small.config.layer_types == [kinds[i] for i in keep(6, 4)]


def test_first_and_last_stay_and_gaps_are_spread_round_the_middle() -> None:
    assert keep(30, 20) == [i for i in range(30) if i not in {6, 8, 10, 12, 14, 16, 18, 20, 22, 24}]
    assert keep(4, 3) == [0, 1, 3]
    assert keep(5, 2) == [0, 4]
    assert all(len(keep(12, n)) == n and {0, 11} <= set(keep(12, n)) for n in range(2, 12))


@pytest.mark.parametrize("layers", [1, 0, 2, 5])
def test_a_number_of_layers_that_makes_no_sense_is_an_error(tiny: Path, out: Path, layers: int) -> None:
    with pytest.raises(ConfigError, match=f"layers={layers}: this model has 2"):
        prune(tiny, layers, out)
    assert not out.exists()


def test_another_kind_of_model_is_an_error(tmp_path: Path, out: Path, make_tokenizer: Callable[..., Any]) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_embd=16, n_layer=3, n_head=2, vocab_size=330, bos_token_id=0, eos_token_id=1)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    make_tokenizer().save_pretrained(tmp_path / "gpt2")
    with pytest.raises(ConfigError, match=r"gpt2\) has no list of decoder layers"):
        prune(tmp_path / "gpt2", 2, out)


def test_a_folder_in_use_is_left_alone(tiny: Path) -> None:
    with pytest.raises(ConfigError, match="holds other files"):
        prune(tiny, 2, tiny)
