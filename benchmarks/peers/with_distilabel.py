"""distilabel: load, then TextGeneration on its OpenAI LLM; what it has in flight is the size of its batch."""

import json
import os
import sys
from pathlib import Path

task = json.loads(sys.argv[1])
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import TextGeneration

if __name__ == "__main__":
    rows = [json.loads(line) for line in Path(task["prompts"]).read_text("utf-8").splitlines()]
    how = {"timeout": int(task["timeout"])} if task["timeout"] else {}
    llm = OpenAILLM(model="m", base_url=task["url"], api_key=task["key"], **how)
    with Pipeline(name="peer", cache_dir=task["work"]) as pipeline:
        load = LoadDataFromDicts(data=rows, batch_size=task["in_flight"])
        answer = TextGeneration(
            llm=llm,
            input_batch_size=task["in_flight"],
            input_mappings={"instruction": "prompt"},
            output_mappings={"generation": "response"},
        )
        load >> answer
    pipeline.run(use_cache=True)["default"]["train"].to_json(task["out"])
