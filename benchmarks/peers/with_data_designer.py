"""NeMo Data Designer: a seed file and one text column."""

import json
import os
import sys

task = json.loads(sys.argv[1])
os.environ |= {"NEMO_TELEMETRY_ENABLED": "false", "PEER_KEY": task["key"], "DATA_DESIGNER_HOME": f"{task['work']}/home"}

import data_designer.config as dd
from data_designer.engine.storage.artifact_storage import ResumeMode
from data_designer.interface import DataDesigner

if __name__ == "__main__":
    provider = dd.ModelProvider(name="fake", endpoint=task["url"], provider_type="openai", api_key="PEER_KEY")
    designer = DataDesigner(artifact_path=task["work"], model_providers=[provider])
    designer.set_run_config(dd.RunConfig(otel_metrics_port=None))
    limits = {"max_parallel_requests": task["in_flight"]}
    if task["timeout"]:
        limits["timeout"] = int(task["timeout"])
    model = dd.ModelConfig(
        alias="teacher",
        model="m",
        provider="fake",
        skip_health_check=True,
        inference_parameters=dd.ChatCompletionInferenceParams(**limits),
    )
    builder = dd.DataDesignerConfigBuilder(model_configs=[model])
    builder.with_seed_dataset(dd.LocalFileSeedSource(path=task["prompts"]))
    builder.add_column(dd.LLMTextColumnConfig(name="response", model_alias="teacher", prompt="{{ prompt }}"))
    resume = {"resume": ResumeMode.IF_POSSIBLE} if task["resume"] else {}
    made = designer.create(builder, num_records=task["number"], dataset_name="peer", **resume)
    made.load_dataset().to_json(task["out"], orient="records", lines=True)
