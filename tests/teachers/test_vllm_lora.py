"""A LoRA adapter on a real engine gives what the same weights give when they are merged into the model."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from engines import below, need_vllm

from kdaug.errors import ConfigError
from kdaug.models import find_model
from kdaug.record import assistant, user
from kdaug.teacher import TokenLogprobs
from kdaug.teachers.local import Local
from kdaug.teachers.vllm import VLLM

pytestmark = pytest.mark.slow
RANK, ALPHA = 4, 8
PLACES = [f"model.layers.{layer}.self_attn.{name}" for layer in (3, 20) for name in ("q_proj", "o_proj")]
QUESTION, ANSWER = user("What is the capital of France?"), assistant("The capital of France is Paris.")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """An adapter in peft's format, large enough to be seen, and the model with it merged in."""
    need_vllm()
    import torch
    from safetensors.torch import load_file, save_file

    adapter, merged = tmp_path / "mine", tmp_path / "merged"
    shutil.copytree(find_model().path, merged)
    weights, parts, random = load_file(merged / "model.safetensors"), {}, torch.Generator().manual_seed(0)
    for place in PLACES:
        matrix = weights[f"{place}.weight"]
        a = torch.randn(RANK, matrix.shape[1], generator=random) * 0.1
        b = torch.randn(matrix.shape[0], RANK, generator=random) * 0.2
        parts |= {f"base_model.model.{place}.lora_A.weight": a, f"base_model.model.{place}.lora_B.weight": b}
        weights[f"{place}.weight"] = (matrix.float() + ALPHA / RANK * b @ a).to(matrix.dtype)
    save_file(weights, merged / "model.safetensors", {"format": "pt"})
    adapter.mkdir()
    save_file(parts, adapter / "adapter_model.safetensors")
    says = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": ["q_proj", "o_proj"], "bias": "none"}
    (adapter / "adapter_config.json").write_text(json.dumps(says))
    return adapter, merged


def view(teacher: VLLM | Local, state: Path) -> TokenLogprobs:
    async def main() -> TokenLogprobs:
        await teacher.open(state)
        try:
            return await teacher.logprobs(QUESTION, ANSWER, 4)
        finally:
            await teacher.aclose()

    return asyncio.run(main())


def test_it_is_the_merged_model(folders: tuple[Path, Path], tmp_path: Path) -> None:
    adapter, merged = folders
    bare, whole = view(Local(), tmp_path), view(Local(str(merged)), tmp_path)
    teacher = VLLM(lora=str(adapter), concurrency=4, max_model_len=512)
    assert teacher.name.startswith("vllm:SmolLM2-135M-Instruct?lora=mine@")
    ours = view(teacher, tmp_path)
    assert ours.token_ids.tolist() == whole.token_ids.tolist()
    moved = np.abs(bare.token_logprobs - whole.token_logprobs).max()
    assert moved > 1.0, "else this test sees nothing"
    # vLLM computes in bfloat16, which moves a log-probability of -7 by as much.
    np.testing.assert_allclose(ours.token_logprobs, whole.token_logprobs, atol=0.3)


def test_one_that_does_not_fit_its_model_is_refused_before_the_first_request(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    file = folders[0] / "adapter_model.safetensors"
    save_file({name.replace("o_proj", "z_proj"): part for name, part in load_file(file).items()}, file)
    with pytest.raises(ConfigError, match=r"does not take the adapter.*z_proj"):
        asyncio.run(VLLM(lora=str(folders[0]), concurrency=4, max_model_len=512).open(tmp_path))
    assert below(os.getpid()) == []
