"""sdg-hub: a flow of three blocks (prompt, chat, extraction); with `resume` it saves its state every 100 rows."""

import json
import os
import sys
from pathlib import Path

task = json.loads(sys.argv[1])
os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "HF_HUB_OFFLINE": "1"}

import pandas as pd
from sdg_hub import Flow

PROMPT = '- role: user\n  content: "{{ prompt }}"\n'
FLOW = """
metadata: {name: Peer, description: an answer a row, version: 1.0.0, author: benchmark,
           recommended_models: {default: openai/m}}
blocks:
  - block_type: PromptBuilderBlock
    block_config: {block_name: ask, input_cols: {prompt: prompt}, output_cols: messages,
                   prompt_config_path: prompt.yaml}
  - block_type: LLMChatBlock
    block_config: {block_name: chat, input_cols: messages, output_cols: raw, async_mode: true, max_tokens: 512}
  - block_type: LLMResponseExtractorBlock
    block_config: {block_name: text, input_cols: raw, extract_content: true, expand_lists: true}
"""

if __name__ == "__main__":
    work = Path(task["work"])
    (work / "prompt.yaml").write_text(PROMPT, "utf-8")
    (work / "flow.yaml").write_text(FLOW, "utf-8")
    flow = Flow.from_yaml(str(work / "flow.yaml"))
    how = {"timeout": task["timeout"]} if task["timeout"] else {}
    flow.set_model_config(model="openai/m", api_base=task["url"], api_key=task["key"], **how)
    rows = pd.DataFrame([json.loads(line) for line in Path(task["prompts"]).read_text("utf-8").splitlines()])
    saved = {"checkpoint_dir": str(work / "saved"), "save_freq": 100} if task["resume"] else {}
    made = flow.generate(rows, max_concurrency=task["in_flight"], **saved)
    (answers,) = (column for column in made.columns if column.endswith("_content"))
    made.rename(columns={answers: "response"}).to_json(task["out"], orient="records", lines=True)
