"""vLLM's arguments by name, read from its source: a wrong one is said at once, with the nearest that there is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from engines import need_vllm

from kdaug.errors import ConfigError
from kdaug.recipes import teacher
from kdaug.teachers.engine_arguments import Adapter, checked, defaults
from kdaug.teachers.serve import Serve, _options
from kdaug.teachers.vllm import VLLM


@pytest.fixture(autouse=True, scope="module")
def vllm() -> None:
    need_vllm()


def adapter(folder: Path, **says: object) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 12, **says}))
    (folder / "adapter_model.safetensors").write_bytes(b"")
    return folder


def test_arguments_go_through_by_name_with_their_types() -> None:
    found = teacher(
        "vllm?tensor_parallel_size=2&max_model_len=4096&enable_prefix_caching=false&gpu_memory_utilization=1"
    )
    assert isinstance(found, VLLM)
    assert found.engine_args == {
        "tensor_parallel_size": 2,
        "max_model_len": 4096,
        "enable_prefix_caching": False,
        "gpu_memory_utilization": 1.0,
    }
    served = teacher("serve?tool_call_parser=hermes&enable_auto_tool_choice=true")
    assert isinstance(served, Serve)
    assert served.name == "serve:SmolLM2-135M-Instruct"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"tensor_paralel_size": 2}, "did you mean 'tensor_parallel_size'"),
        ({"max_model_len": "long"}, "max_model_len"),
        ({"enable_prefix_caching": 3}, "enable_prefix_caching is of the type"),
        ({"logprobs_mode": "processed_logprobs"}, "temperature 1"),
        ({"model": "x"}, "the teacher's own first argument"),
    ],
)
def test_what_vllm_does_not_know_is_refused(given: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        checked(given)
    assert "\n" not in str(caught.value)


def test_an_adapter_sets_what_vllm_needs_for_it_and_names_the_teacher(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "mine", rank_pattern={"q_proj": 20})
    assert defaults(64, Adapter.load(str(folder))).items() >= {"enable_lora": True, "max_lora_rank": 32}.items()
    found = teacher(f"vllm?lora={folder}")
    assert found.name.startswith("vllm:SmolLM2-135M-Instruct?lora=mine@")


@pytest.mark.parametrize(
    ("says", "words"),
    [({"peft_type": "PREFIX_TUNING"}, "LORA only"), ({"r": 4096}, "up to 512"), ({"r": None}, "rank")],
)
def test_an_adapter_that_vllm_cannot_run_is_refused(tmp_path: Path, says: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Adapter.load(str(adapter(tmp_path / "mine", **says)))


def test_options_are_written_as_the_command_line_takes_them() -> None:
    given = {"enable_lora": True, "enforce_eager": False, "max_model_len": 8, "hf_overrides": {"a": 1}, "seed": None}
    assert _options(given) == [
        "--enable-lora",
        "--no-enforce-eager",
        "--max-model-len",
        "8",
        "--hf-overrides",
        '{"a":1}',
    ]
