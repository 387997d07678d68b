"""The clients that teacher.py and faults.py compare: how each is started, and what it wrote.

A peer runs in an environment of its own, DIR/<peer>/bin/python (DIR: `--peers`, or the variable KDAUG_PEERS); one that
is not there is shown as not installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from kdaug.dataset import Dataset, is_dataset

HERE = Path(__file__).parent
# What each peer is called on PyPI, by the name of its environment.
PEERS = {
    "curator": "bespokelabs-curator",
    "data-designer": "data-designer",
    "sdg-hub": "sdg-hub",
    "distilabel": "distilabel",
}


@dataclass(frozen=True)
class Task:
    """Every prompt of a JSONL file, answered once. Whatever the client keeps or writes goes under `folder`.

    `timeout` in seconds (None: the client's own); `resume`: the client keeps what a second process can go on with.
    """

    url: str
    prompts: Path
    number: int
    folder: Path
    in_flight: int
    key: str = "right"
    timeout: float | None = None
    resume: bool = False


@dataclass(frozen=True)
class Client:
    """`python` runs its script; None: it is not installed."""

    name: str
    python: str | None
    script: str = ""
    package: str = ""
    variant: str = ""

    def command(self, task: Task) -> list[str]:
        """The command line that does the task, its folders made."""
        assert self.python is not None
        work = task.folder / "work"
        work.mkdir(parents=True, exist_ok=True)
        if not self.script:
            return [self.python, *_kdaug(task)]
        given = {
            "url": task.url,
            "prompts": str(task.prompts),
            "number": task.number,
            "out": str(task.folder / "out.jsonl"),
            "work": str(work),
            "in_flight": task.in_flight,
            "key": task.key,
            "timeout": task.timeout,
            "resume": task.resume,
            "variant": self.variant,
        }
        return [self.python, str(HERE / "peers" / self.script), json.dumps(given)]

    def environment(self, task: Task) -> dict[str, str]:
        """A peer sees nothing of the Python path that kdaug may have been started with. All may keep their bytecode, as
        what pip installs has it."""
        mine = {**os.environ, "OPENAI_API_KEY": task.key}
        mine.pop("PYTHONDONTWRITEBYTECODE", None)
        if self.package:
            mine.pop("PYTHONPATH", None)
        return mine

    def answers(self, task: Task) -> list[tuple[str, str | None]]:
        """The prompt and the answer of every row that it wrote."""
        if not self.script:
            run = task.folder / "run"
            records = Dataset(run).records() if is_dataset(run / "dataset") else ()
            return [(r.prompt[-1].content, r.completion[-1].content if r.completion else None) for r in records]
        out = task.folder / "out.jsonl"
        lines = out.read_text("utf-8").splitlines() if out.exists() else []
        rows = [json.loads(line) for line in lines]
        return [(str(row.get("prompt")), row.get("response")) for row in rows]

    def version(self) -> str:
        """The installed version of a peer's package."""
        if self.python is None or not self.package:
            return ""
        ask = f"import importlib.metadata as m; print(m.version({self.package!r}))"
        run = subprocess.run([self.python, "-c", ask], capture_output=True, text=True, check=True)
        return run.stdout.strip()


RAW = Client("raw aiohttp", sys.executable, "raw_aiohttp.py")
KDAUG = Client("kdaug", sys.executable)


def openai_clients() -> list[Client]:
    """The `openai` package's client over both of its transports."""
    python = sys.executable if find_spec("openai") else None
    return [
        Client("AsyncOpenAI, aiohttp transport", python, "with_openai.py", "openai", "aiohttp"),
        Client("AsyncOpenAI, default transport", python, "with_openai.py", "openai"),
    ]


def peers(folder: Path | None) -> list[Client]:
    """Every peer toolkit, installed or not."""
    folder = folder or Path(os.environ.get("KDAUG_PEERS", "peers"))
    found = []
    for name, package in PEERS.items():
        python = folder.resolve() / name / "bin" / "python"
        script = f"with_{name.replace('-', '_')}.py"
        found.append(Client(name, str(python) if python.exists() else None, script, package))
    return found


def write_prompts(path: Path, number: int) -> Path:
    """Distinct prompts of about 45 tokens, each known by its first words."""
    lines = (
        json.dumps({"prompt": f"Question {i}: explain in two sentences why item {i * 7919 % 10007} matters for topic "
                    f"{i % 97}. Give one concrete example and one caveat, and keep the tone neutral and precise."})
        for i in range(number)
    )  # fmt: skip
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def _kdaug(task: Task) -> list[str]:
    teacher = f"openai:m?base_url={task.url}&concurrency={task.in_flight}"
    if task.timeout:
        teacher += f"&timeout={task.timeout}"
    out = ["--out", str(task.folder / "run"), "--quiet"]
    return ["-m", "kdaug", "run", "respond", "--seeds", str(task.prompts), "--teacher", teacher, *out]
