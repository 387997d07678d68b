"""The real Hub client against a Hub on loopback; the client reads its settings at import, so it runs in a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from servers.fake_hub import Blob, FakeHub

from kdaug import dataset
from kdaug.dataset import Dataset, write_dataset
from kdaug.record import Record, assistant, user


def records(answers: int, pairs: int) -> list[Record]:
    made = [Record(prompt=user(f"question {i}"), completion=assistant(f"answer {i}")) for i in range(answers)]
    return [
        *made,
        *(Record(prompt=user(f"q{i}"), completion=assistant("a"), rejected=assistant("b")) for i in range(pairs)),
    ]


def client(hub: FakeHub, home: Path, code: str, **env: str) -> Any:
    """What `code` put into `result`, or the error that ended it."""
    script = f"""
import json, sys
from kdaug.errors import KdaugError
from kdaug.dataset import Dataset
import kdaug.hub
kdaug.hub.FIRST_WAIT = 0.01
def attempt(call, *args, **options):
    try:
        return call(*args, **options)
    except KdaugError as e:
        return f"{{type(e).__name__}}: {{e}}"
{code}
print("RESULT" + json.dumps(result))
"""
    settings = {**os.environ, **hub.env(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", **env}
    done = subprocess.run([sys.executable, "-c", script], env=settings, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rsplit("RESULT", 1)[1])


def commits(hub: FakeHub) -> list[int]:
    return [status for method, path, status in hub.log if method == "POST" and "/commit/" in path]


@pytest.mark.slow
def test_what_is_pushed_is_what_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "SHARD_ROWS", 4)
    folder = tmp_path / "dataset"
    held_out = [Record(prompt=user("question 0"), completion=assistant("answer 0")).id]
    write_dataset(folder, lambda: records(9, 3), held_out=held_out, facts={})
    push_and_load = f"""
import datasets
url = Dataset({str(folder)!r}).push_to_hub("me/data")
rows = {{}}
for kind in datasets.get_dataset_config_names("me/data"):
    for split, part in datasets.load_dataset("me/data", kind).items():
        rows[f"{{kind}}/{{split}}"] = [row["id"] for row in part]
default = datasets.load_dataset("me/data", split="train").column_names
result = [url, rows, default]
"""
    with FakeHub() as hub:
        hub.faults = [("PUT", "/_lfs/", 503)]
        url, rows, default = client(hub, tmp_path / "hf", push_and_load)
        ours = Dataset(folder)
        assert rows == {
            f"{kind}/{split}": [r.id for r in ours.records(kind, split)]
            for kind, by_split in ours.counts.items()
            for split in by_split
        }
        assert "completion" in default
        assert url.startswith(f"{hub.url}/datasets/me/data/commit/")
        assert commits(hub) == [200]
        before = set(hub.files("me/data"))

        write_dataset(folder, lambda: records(3, 0), held_out=held_out, facts={})
        _, rows, _ = client(hub, tmp_path / "hf2", push_and_load)
        assert rows == {"completion/train": [r.id for r in records(3, 0)[1:]], "completion/test": held_out}
        stale = before - set(hub.files("me/data"))
        assert stale == {
            "data/completion/train-00000-of-00002.parquet",
            "data/completion/train-00001-of-00002.parquet",
            "data/preference/train-00000-of-00001.parquet",
        }
        assert commits(hub) == [200, 200]


@pytest.mark.slow
def test_a_commit_that_fails_or_is_overtaken_is_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    write_dataset(folder, lambda: records(3, 0), facts={})
    with FakeHub() as hub:

        def overtaken() -> None:
            repo = hub.repos["me/data"]
            theirs = {**repo.commits[repo.branches["main"]], "data/their-00000-of-00001.parquet": Blob(b"x", lfs=True)}
            repo.commit("main", {**theirs, "notes.md": Blob(b"theirs")})

        hub.between = overtaken
        hub.faults = [("POST", "/api/repos/create", 503), ("POST", "/commit/", 503), ("POST", "/preupload/", 429)]
        url = client(hub, tmp_path / "hf", f"result = Dataset({str(folder)!r}).push_to_hub('me/data')")
        assert url.endswith(hub.repos["me/data"].branches["main"])
        assert commits(hub) == [503, 412, 200]
        assert set(hub.files("me/data")) == {
            ".gitattributes",
            "README.md",
            "data/completion/train-00000-of-00001.parquet",
            "notes.md",
        }
        again = client(hub, tmp_path / "hf", f"result = Dataset({str(folder)!r}).push_to_hub('data', revision='v2')")
        assert again == url  # nothing new: the branch starts where main is
        assert set(hub.repos["me/data"].branches) == {"main", "v2"}


@pytest.mark.slow
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path) -> None:
    folder, home = tmp_path / "dataset", tmp_path / "hf"
    write_dataset(folder, lambda: records(3, 0), facts={})
    push = f"push = Dataset({str(folder)!r}).push_to_hub\n"
    with FakeHub() as hub:
        hub.faults = [("POST", "/commit/", 503)] * 5
        said = client(
            hub,
            home,
            f"""{push}result = [
    attempt(push, "me/data"),
    attempt(push, "me/data", private=True),
    attempt(push, "me/data", token="hf_wrong"),
    attempt(push, "me/data", token="hf_gr\\u00fc\\u00df"),
    attempt(push, "somebody/data"),
    attempt(push, "a/b/c"),
]""",
        )
        keeps_failing, public, wrong, garbled, no_right, no_name = said
        assert keeps_failing.startswith("KdaugError: the Hub answered 503 to the push of me/data")
        assert "me/data exists and is public" in public
        assert wrong.startswith("ConfigError: the Hub refuses the token (401)")
        assert garbled.startswith("ConfigError: the token for the Hub has characters")
        assert no_right.startswith("ConfigError: the token gives no right to write to somebody/data (403)")
        assert no_name.startswith("ConfigError: a dataset on the Hub has a name like owner/name")
        assert all("hf_wrong" not in line and "\n" not in line for line in said)
        assert set(hub.files("me/data")) == {".gitattributes"}

        code = f"{push}result = attempt(push, 'me/data')"
        assert "no token for the Hub" in client(hub, home, code, HF_TOKEN="")
        assert "HF_HUB_OFFLINE" in client(hub, home, code, HF_HUB_OFFLINE="1")
        (folder / "README.md").write_text("---\ntags: [kdaug\n---\n")
        assert client(hub, home, code).startswith("ConfigError: the Hub does not take")
    unreachable = client(hub, home, code)
    assert unreachable.startswith("KdaugError: the Hub cannot be reached")


@pytest.mark.slow
def test_a_student_is_pushed_with_its_card_and_opens_from_the_hub(tmp_path: Path) -> None:
    folder = tmp_path / "student"
    make = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent / "train")!r})
from pathlib import Path
from conftest import build_model
from kdaug.record import Record, assistant, user
from kdaug.train.sft import SFT
base, folder = build_model(Path({str(tmp_path / "base")!r})), Path({str(folder)!r})
one = Record(prompt=user("q"), completion=assistant("a"), teachers=("vllm:Qwen/Qwen3-32B",))
records = [one.child(by="test", prompt=user(f"q{{i}}")) for i in range(8)]
SFT(epochs=1, length=64).fit(records, student=base, out=folder)
(folder / "checkpoint.pt").write_bytes(b"left by a kill")
"""
    push_and_load = f"""
from kdaug.cli import main
assert main(["push", {str(folder)!r}, "me/student", "--private"]) == 0
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer
weights = AutoModelForCausalLM.from_pretrained("me/student").state_dict()
tokens = AutoTokenizer.from_pretrained("me/student").apply_chat_template([{{"role": "user", "content": "hi"}}])
result = [float(sum(w.abs().sum() for w in weights.values())), ModelCard.load("me/student").data.to_dict()]
"""
    with FakeHub() as hub:
        hub.faults = [("PUT", "/_lfs/", 503)]
        total, card = client(hub, tmp_path / "hf", make + push_and_load)
        assert hub.repos["me/student"].kind == "model" and hub.repos["me/student"].private
        here = {f.name for f in folder.iterdir()} - {"checkpoint.pt"}
        assert set(hub.files("me/student")) == here | {".gitattributes"}
        assert {"README.md", "loss.png", "metrics.jsonl", "training.json", "model.safetensors"} <= here
        assert total > 0 and card["tags"] == ["kdaug", "sft", "knowledge-distillation"]
        # Weights that are not there any more go, what others put beside them stays.
        repo = hub.repos["me/student"]
        theirs = {"model-00001-of-00002.safetensors": Blob(b"x", lfs=True), "notes.md": Blob(b"theirs")}
        repo.commit("main", {**repo.commits[repo.branches["main"]], **theirs})
        client(hub, tmp_path / "hf2", push_and_load)
        assert set(hub.files("me/student")) == here | {".gitattributes", "notes.md"}
        assert commits(hub) == [200, 200]
        code = f"""
from kdaug.train.publish import push_model
result = attempt(push_model, {str(folder)!r}, "me/a b")
"""
        wrong = "ConfigError: a model on the Hub has a name like owner/name"
        assert client(hub, tmp_path / "hf", code).startswith(wrong)
        assert client(hub, tmp_path / "hf", code, HF_TOKEN="").startswith(wrong)  # before it asks for a token
