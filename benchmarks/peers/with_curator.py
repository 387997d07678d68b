"""bespokelabs-curator: one LLM class on its OpenAI backend, its limits raised until they do not bind."""

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

task = json.loads(sys.argv[1])
os.environ |= {
    "OPENAI_API_KEY": task["key"],
    "CURATOR_CACHE_DIR": task["work"],
    # Nothing but the calls is measured: no telemetry, no viewer, no downloads.
    "TELEMETRY_ENABLED": "0",
    "CURATOR_VIEWER": "0",
    "CURATOR_DISABLE_RICH_DISPLAY": "1",
    "BESPOKE_CURATOR_TRACKER_DISABLED": "1",
    "HF_HUB_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}
litellm = find_spec("litellm")
if litellm and litellm.origin:  # it ships the vocabulary that tiktoken would fetch
    os.environ["TIKTOKEN_CACHE_DIR"] = str(Path(litellm.origin).parent / "litellm_core_utils" / "tokenizers")

from bespokelabs import curator
from datasets import Dataset


class Answer(curator.LLM):  # type: ignore[misc] # its types are not installed here
    def prompt(self, row: dict[str, str]) -> str:
        return row["prompt"]

    def parse(self, row: dict[str, str], response: str) -> dict[str, str]:
        return {**row, "response": response}


if __name__ == "__main__":
    backend = {
        "base_url": task["url"],
        "max_concurrent_requests": task["in_flight"],
        "max_requests_per_minute": 1_000_000,
        "max_tokens_per_minute": 1_000_000_000,
        "require_all_responses": False,
    }
    if task["timeout"]:
        backend["request_timeout"] = int(task["timeout"])
    rows = [json.loads(line) for line in Path(task["prompts"]).read_text("utf-8").splitlines()]
    # gpt-4o-mini: a model whose limits and prices it knows, so that it asks nobody.
    answered = Answer(model_name="gpt-4o-mini", backend="openai", backend_params=backend)(Dataset.from_list(rows))
    answered.dataset.to_json(task["out"])
