"""lm-evaluation-harness on a student, with task files that lie here: its figures, in kdaug's tables.

https://github.com/EleutherAI/lm-evaluation-harness: a task is a YAML file with `task:` and, for data of one's own,
`dataset_path: json` and `dataset_kwargs: {data_files: …}`. It runs in a process of its own, which takes its threads,
its seeds and its logging with it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from kdaug.chat import Chat
from kdaug.device import computes_in_half, pick_device
from kdaug.errors import ConfigError, TrainError, require, shorten
from kdaug.train.comparison import Figure, Row, Table
from kdaug.train.origin import short_name
from kdaug.train.student import locate

Z = 1.96  # standard errors on either side of a 95 % interval


def compare_lm_eval(
    models: Mapping[str, str], tasks: str | Path, *, device: str = "auto", dtype: str = "auto", limit: int | None = None
) -> Table:
    """The figures of lm-eval for several models on the tasks of a YAML file, or of all in a folder, as a table.

    `models`: what is located, by the name that it goes by in the table. Each is asked in its own chat template, through
    lm-eval's `hf` backend. `limit`: examples of each task. Raises ConfigError where lm-eval or the tasks are missing,
    TrainError where it fails, with its own last words.
    """
    require("lm_eval", "evals", "lm-eval")
    path = Path(tasks)
    files = [path] if path.is_file() and path.suffix == ".yaml" else sorted(path.glob("*.yaml"))
    if not files:
        raise ConfigError(f"{path}: no task of lm-eval there: give a YAML file of a task, or a folder of them")
    place = pick_device(device)
    kind = dtype if dtype != "auto" else "bfloat16" if computes_in_half(place) else "float32"
    rows, about = [], ""
    for called, model in models.items():
        told = _run(locate(model), path, place, kind, limit)
        rows.append(Row(called, _figures(told)))
        shots = max(told.get("n-shot", {}).values(), default=0)
        about = (
            f"lm-eval {told.get('lm_eval_version', '')}, backend hf, {shots}-shot, in each model's chat template; "
            "in brackets 1.96 standard errors to either side, as lm-eval estimates them."
        )
    return Table("lm-eval", short_name(str(path)), rows, about)


def _run(folder: Path, tasks: Path, device: str, dtype: str, limit: int | None) -> Mapping[str, Any]:
    """What lm-eval writes of one model."""
    Chat.load(folder)  # one without a chat template is refused before lm-eval is started
    arguments = orjson.dumps({"pretrained": str(folder.absolute()), "dtype": dtype}).decode()
    with tempfile.TemporaryDirectory(prefix="kdaug-lm-eval-") as out:
        command = [
            *(sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", arguments),
            *("--tasks", str(tasks), "--device", device, "--batch_size", "8", "--output_path", out),
            *("--apply_chat_template", *([] if limit is None else ["--limit", str(limit)])),
        ]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        written = sorted(Path(out).rglob("results_*.json"))
        if done.returncode or not written:
            words = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
            raise TrainError(f"lm-eval failed on {folder}: {shorten(words[-1], 300)}")
        told: dict[str, Any] = orjson.loads(written[-1].read_bytes())
        return told


def _figures(told: Mapping[str, Any]) -> dict[str, Figure]:
    """Of `{"task": {"acc,none": 0.5, "acc_stderr,none": 0.1}}`; the filter `none` is not named."""
    found: dict[str, Figure] = {}
    for task, metrics in told["results"].items():
        n = told.get("n-samples", {}).get(task, {}).get("effective")
        for key, value in metrics.items():
            metric, comma, filtered = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            error = metrics.get(f"{metric}_stderr,{filtered}")
            reach = Z * error if isinstance(error, (int, float)) else None
            low, high = (None, None) if reach is None else (value - reach, value + reach)
            name = f"{task} {metric}" + ("" if filtered == "none" else f" ({filtered})")
            found[name] = Figure(value, low, high, n)
    return found
