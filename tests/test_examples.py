"""What the README and examples/ show, run as it stands there."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from servers.fake_hub import FakeHub
from servers.run import FakeBatches, FakeOpenAI

from kdaug import recipes
from kdaug.cli import main, parser
from kdaug.dataset import Dataset
from kdaug.prompts import shipped
from kdaug.recipe_file import builtin_names, load
from kdaug.record import Record, user

ROOT = Path(__file__).parent.parent


def blocks(language: str) -> list[str]:
    """The code blocks of the README in one language."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)


def test_a_generator_and_a_gate_of_ones_own(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "custom_parts.py"), "--fake", "--out", str(tmp_path / "run")]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "respond: " in shown
    records = list(Dataset(tmp_path / "run").records())
    assert len(records) == 4
    stages = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))["stages"]
    assert [s["name"] for s in stages] == ["0.translate", "1.respond"]


def test_langchain_on_both_sides(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "langchain_teacher.py"), "--out", str(tmp_path / "run")]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    asked, answered = zip(*(line.split("  ") for line in shown.splitlines()[:3]), strict=True)
    assert asked == ("Name three rivers.", "Why is the sky blue?", "What does a bee eat?")
    assert sorted(answered) == ["Answer 0.", "Answer 1.", "Answer 2."]  # asked at once, so in any order
    assert sorted(shown.splitlines()[3:]) == ["['Answer 3.']", "['Answer 4.']"]  # at once, so in any order
    facts = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
    assert facts["usage"]["langchain:GenericFakeChatModel"]["completion_tokens"] == 15


@pytest.mark.slow
def test_the_readmes_python(tmp_path: Path) -> None:
    """Its six lines, with a scripted teacher, a smaller target and a Hub on loopback."""
    (code,) = blocks("python")
    changes = {"kd.Local()": "kd.Fake()", "target=1000": "target=6", "epochs=3": "epochs=1, length=256"}
    for old, new in changes.items():
        assert code.count(old) == 1
        code = code.replace(old, new)
    script = tmp_path / "readme.py"
    script.write_text(code, "utf-8")
    shutil.copy(shipped() / "seeds" / "seeds.jsonl", tmp_path / "seeds.jsonl")
    with FakeHub() as hub:
        environment = {**os.environ, **hub.env(tmp_path / "hf")}
        subprocess.run([sys.executable, str(script)], cwd=tmp_path, env=environment, check=True)
        assert "README.md" in hub.files("me/alpaca-kd")
    assert len(Dataset(tmp_path / "runs" / "alpaca")) == 6
    assert (tmp_path / "models" / "alpaca" / "model.safetensors").is_file()


def here(spec: str, endpoint: str, provider: str) -> str | None:
    """A teacher of docs/teachers.md with what is elsewhere on this machine; None for what needs an engine or another
    vendor's package, which test_vllm*.py and test_langchain.py run."""
    match spec.partition(":")[0]:
        case "openai" | "route":
            spec = re.sub(r"http:[^&|]+", endpoint, spec)
            joint = "&" if "?" in spec else "?"
            return spec if "base_url" in spec else f"{spec}{joint}base_url={endpoint}"
        case "batch":
            return f"{spec}?base_url={provider}&poll=0.02"
        case "local":
            return re.sub(r":[^?]+", "", spec)  # the embedded model
        case "replay":
            return spec
    return None


@pytest.mark.slow
def test_every_command_of_the_teachers_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands there, in its order, but for few seeds and records, and scripted replies where tasks are wanted."""
    text = (ROOT / "docs" / "teachers.md").read_text("utf-8")
    lines = re.findall(r"^kdaug .*", "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)), re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-nobody")
    Path("seeds.jsonl").write_text("".join(f'{{"prompt": "What is {i} + {i}?"}}\n' for i in range(4)), "utf-8")
    grow = ["run", "self-instruct", "--seeds", "seeds.jsonl", "--target", "6", "--teacher", "fake", "--quiet"]
    assert main([*grow, "--out", "runs/alpaca"]) == 0
    ran = set[str]()
    with FakeOpenAI() as server, FakeBatches() as provider:
        for number, line in enumerate(lines):
            words = shlex.split(line.replace("--target 1000", "--target 6"), comments=True)[1:]
            parser().parse_args(words)
            if "--teacher" in words:
                at = words.index("--teacher") + 1
                kind, local = words[at].partition(":")[0], here(words[at], server.url, provider.url)
                if local is None:
                    continue
                words[at] = "fake" if kind == "openai" and "self-instruct" in words else local
                if kind != "batch" and "estimate" not in words:  # its run goes on in the same folder
                    words[words.index("--out") + 1] = f"runs/{number}"
                if kind == "local":
                    words += ["--set", "respond.max_tokens=8", "--set", "respond.keep_cut=true"]
                ran.add(kind)
            assert main(words) == 0, line
    assert ran == {"openai", "route", "batch", "local", "replay"}
    assert len(lines) > 12


def test_the_readmes_recipe(tmp_path: Path) -> None:
    (text,) = blocks("yaml")
    path = tmp_path / "mine.yaml"
    path.write_text(text, "utf-8")
    recipe = recipes.build(load(str(path)), [Record(prompt=user("one")), Record(prompt=user("two"))])
    assert [s.generator.name for s in recipe.stages] == ["self_instruct", "respond", "pass"]
    assert recipe.holdout == 0.1


def test_readme_and_docs_name_every_recipe_command_and_part() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    for name in (*recipes.GATES, *recipes.SELECTORS, *recipes.TEACHERS):
        assert name in text, name
    shown, text = parser().format_help(), text + "".join(p.read_text("utf-8") for p in (ROOT / "docs").glob("*.md"))
    for name in (*builtin_names(), *recipes.GENERATORS):
        assert f"`{name}`" in text, name  # docs/methods.md is printed: those of the methods stand there
    for command in re.findall(r"^    (\S+) ", shown, re.MULTILINE):
        assert f"kdaug {command}" in text, command


def test_the_loop_that_teaches_itself(tmp_path: Path) -> None:
    """Its problems are disjoint and its committed figures say what it claims; the whole takes half an hour."""
    code = """
import json, sys
sys.path.insert(0, sys.argv[1])
import loop_reasoning as example
from pathlib import Path
for task in example.TASKS:
    example.write_problems(task, 0, Path(sys.argv[2]))
    rows = [Path(sys.argv[2], name).read_text().splitlines() for name in ("train.jsonl", "held_out.jsonl")]
    assert [len(side) for side in rows] == [example.TRAIN, example.HELD_OUT] and not set(rows[0]) & set(rows[1])
file = example.recipe_file("last_word", 0, Path(sys.argv[2]))
assert example.recipe_of(file, Path(sys.argv[2])).stages[0].generator.form == "last_word"
"""
    folder = ROOT / "examples" / "loop_reasoning"
    subprocess.run([sys.executable, "-c", code, str(folder), str(tmp_path)], check=True)
    (result,) = json.loads((folder / "results.json").read_text("utf-8"))
    assert len(result["seeds"]) >= 3 and result["problems"]["held_out"] >= 300
    start, baseline, *rounds = (told for name, told in result["accuracy"].items() if name != "start")
    assert len(rounds) >= 2 and all(told["n"] == 300 * len(result["seeds"]) for told in rounds)
    assert all(told["low"] > max(start["high"], baseline["high"]) for told in rounds)
    assert rounds == sorted(rounds, key=lambda told: told["mean"])
