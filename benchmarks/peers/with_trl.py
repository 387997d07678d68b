"""TRL: its SFT or DPO trainer over rows of tokens or texts that are handed in, in their order."""

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

task = json.loads(Path(sys.argv[1]).read_text("utf-8"))
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}
os.environ |= {"OMP_NUM_THREADS": "1", "HF_HOME": str(Path(sys.argv[2]).parent / "home")}

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

CUDA = torch.cuda.is_available()


class Clock(TrainerCallback):  # type: ignore[misc] # its types are not followed
    """Seconds and CPU seconds at the end of each step."""

    def __init__(self) -> None:
        self.wall, self.cpu = list[float](), list[float]()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if CUDA:
            torch.cuda.synchronize()
        self.wall.append(time.perf_counter())
        self.cpu.append(time.process_time())


def trainer(work: Path, clock: Clock) -> Any:
    half = task["precision"] == "bf16"
    how: dict[str, Any] = {
        "output_dir": str(work / "out"),
        "num_train_epochs": 1,
        "per_device_train_batch_size": task["batch"],
        "learning_rate": task["lr"],
        "lr_scheduler_type": "constant",
        "adam_beta2": 0.95,
        "max_grad_norm": 1.0,
        "optim": "adamw_torch_fused",
        "bf16": half,
        "use_cpu": not CUDA,
        "gradient_checkpointing": False,
        "train_sampling_strategy": "sequential",
        "dataloader_num_workers": 0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    model = AutoModelForCausalLM.from_pretrained(task["model"], dtype=torch.float32, attn_implementation="sdpa")
    more = {"model": model, "processing_class": AutoTokenizer.from_pretrained(task["model"]), "callbacks": [clock]}
    rows = Dataset.from_list(task["rows"])
    if task["method"] == "sft":  # rows that are packed already: TRL's own packing would order them otherwise
        packed: dict[str, Any] = {
            "padding_free": True,
            "max_length": None,
            "dataset_kwargs": {"skip_prepare_dataset": True},
        }
        return SFTTrainer(args=SFTConfig(**how, **packed), train_dataset=rows, **more)
    paired: dict[str, Any] = {"precompute_ref_log_probs": True, "beta": task["beta"], "max_length": task["length"]}
    return DPOTrainer(args=DPOConfig(**how, **paired), train_dataset=rows, **more)


if __name__ == "__main__":
    torch.set_num_threads(1)
    clock = Clock()
    run = trainer(Path(sys.argv[2]).parent, clock)
    run.train()
    losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    peak = torch.cuda.max_memory_allocated() if CUDA else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    told = {"wall": clock.wall, "cpu": clock.cpu, "losses": losses, "peak_mb": peak / 2**20}
    Path(sys.argv[2]).write_text(json.dumps(told), "utf-8")
