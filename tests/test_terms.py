"""Terms go by the model, whoever serves it; what is not sure is unknown."""

from __future__ import annotations

import pytest

from kdaug.terms import shared_licence, terms_of


@pytest.mark.parametrize(
    ("teacher", "licence"),
    [
        ("openai:gpt-4o", "OpenAI terms of use"),
        ("openai:o3-mini", "OpenAI terms of use"),
        ("openai:openai/gpt-4o-mini", "OpenAI terms of use"),  # through a router
        ("vllm:openai/gpt-oss-20b", "apache-2.0"),
        ("openai:anthropic/claude-sonnet-4", "Anthropic commercial terms"),
        ("openai:gemini-2.5-pro", "Gemini API terms"),
        ("vllm:google/gemma-3-27b-it", "gemma"),
        ("vllm:meta-llama/Llama-2-7b-chat-hf", "llama2"),
        ("vllm:meta-llama/Meta-Llama-3-8B-Instruct", "llama3"),
        ("vllm:meta-llama/Meta-Llama-3.1-8B-Instruct", "llama3.1"),
        ("openai:meta-llama/Llama-3.3-70B-Instruct-Turbo", "llama3.3"),
        ("vllm:Qwen/Qwen3-32B", "apache-2.0"),
        ("vllm:Qwen/Qwen2.5-7B-Instruct", "apache-2.0"),
        ("vllm:Qwen/Qwen2.5-3B-Instruct", "Qwen research licence"),
        ("vllm:Qwen/Qwen2.5-72B-Instruct", "Qwen licence"),
        ("local:SmolLM2-135M-Instruct", "apache-2.0"),
        ("local:/models/SmolLM2-135M-Instruct/", "apache-2.0"),
        ("local:HuggingFaceTB/SmolLM2-135M-Instruct@12fd25f", "apache-2.0"),
        ("vllm:microsoft/phi-4", "mit"),
        ("vllm:deepseek-ai/DeepSeek-R1", "mit"),
        ("openai:deepseek-chat", "DeepSeek open platform terms"),
        ("vllm:mistralai/Mistral-7B-Instruct-v0.3", "apache-2.0"),
        ("fake:echo", "none"),
        # not sure, so unknown
        ("vllm:mistralai/Mistral-Large-Instruct-2407", "unknown"),
        ("vllm:deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "unknown"),
        ("openai:qwen-max", "unknown"),
        ("openai:qwen3-coder-plus", "unknown"),
        ("vllm:somebody/Qwen3-32B-uncensored", "unknown"),
        ("local:models/alpaca", "unknown"),
        ("openai:m", "unknown"),
        ("", "unknown"),
    ],
)
def test_terms_go_by_the_model(teacher: str, licence: str) -> None:
    terms = terms_of(teacher)
    assert terms.licence == licence
    assert terms.known == (licence != "unknown")
    assert not terms.url or terms.url.startswith("https://")
    assert bool(terms.url) == (licence not in ("unknown", "none"))


@pytest.mark.parametrize(
    ("teachers", "licence"),
    [
        (["vllm:Qwen/Qwen3-32B", "local:SmolLM2-135M-Instruct"], "apache-2.0"),
        (["vllm:Qwen/Qwen3-32B", "fake:echo"], "apache-2.0"),
        (["vllm:Qwen/Qwen3-32B", "vllm:microsoft/phi-4"], "other"),
        (["openai:gpt-4o"], "other"),  # no identifier of the Hub
        (["vllm:Qwen/Qwen3-32B", "openai:m"], None),
        (["fake:echo"], None),
        ([], None),
    ],
)
def test_a_card_names_a_licence_only_where_all_agree(teachers: list[str], licence: str | None) -> None:
    assert shared_licence([terms_of(t) for t in teachers]) == licence
