"""The command line as a user types it: outputs, exit codes, and one clear line for every mistake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from servers.run import FakeOpenAI, free_port

from kdaug.cli import main
from kdaug.dataset import Dataset
from kdaug.journal import Journal

COMMANDS = [
    "init",
    "methods",
    "run",
    "curate",
    "mix",
    "check",
    "show",
    "export",
    "push",
    "train",
    "prune",
    "eval",
    "chat",
    "doctor",
]


def seeds(folder: Path, number: int = 12, text: str = "question {}") -> str:
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": text.format(i)}) + "\n" for i in range(number)), "utf-8")
    return str(path)


def run(folder: Path, *more: str) -> int:
    return main(["run", "respond", "--seeds", seeds(folder), "--out", str(folder / "run"), "--teacher", "fake", *more])


def test_run_show_export_tell_one_story(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path) == 0
    assert "dataset: " in capsys.readouterr().out
    record = next(iter(Dataset(tmp_path / "run")))

    assert main(["show", str(tmp_path / "run")]) == 0
    funnel = capsys.readouterr().out
    assert "0.respond: 12 jobs proposed 12, kept 12" in funnel
    assert "fake: 12 calls" in funnel

    assert main(["show", str(tmp_path / "run"), record.id[:10]]) == 0
    story = capsys.readouterr().out
    assert story.index("seed") < story.index("asked fake as teacher") < story.index("kept")
    assert record.completion is not None
    assert record.completion[0].content in story

    target = tmp_path / "out.jsonl"
    assert main(["export", str(tmp_path / "run"), "--format", "messages", "--to", str(target)]) == 0
    rows = [json.loads(line) for line in target.read_text("utf-8").splitlines()]
    assert len(rows) == 12
    assert [m["role"] for m in rows[0]["messages"]] == ["user", "assistant"]
    log = (tmp_path / "run" / "log.txt").read_text("utf-8")
    assert "finished: every seed was used" in log


def test_logprobs_asks_for_those_of_the_final_answers(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    stages = "stages: [{generator: respond}, {generator: {respond: {max_tokens: 9}}}, {generator: pass}]\n"
    recipe.write_text(f"seeds: {seeds(tmp_path, 2)}\n{stages}", "utf-8")
    out = tmp_path / "run"
    assert main(["run", str(recipe), "--teacher", "fake", "--logprobs", "20", "--out", str(out)]) == 0
    asked = [(r.sampling.max_tokens, r.sampling.logprobs) for _, _, r in Journal.read_only(out).requests()]
    assert sorted(asked) == [(9, 20), (9, 20), (1024, 0), (1024, 0)]


def test_preview_shows_whole_jobs_and_the_run_keeps_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--preview", "3") == 0
    shown = capsys.readouterr().out
    assert shown.count("reply (stop") == 3
    assert "fake: 3 calls" in shown
    assert run(tmp_path) == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))["usage"]["fake"]["calls"] == 12


def test_an_unmet_target_is_exit_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--target", "100") == 3
    assert "every seed was used; 12 of the 100 records wanted are kept" in capsys.readouterr().err
    assert len(Dataset(tmp_path / "run")) == 12


@pytest.mark.parametrize("name", ["evol-instruct", "respond"])
def test_init_gives_a_folder_that_is_used_as_it_is(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    assert main(["init", str(mine), "--recipe", name]) == 0
    command = capsys.readouterr().out.splitlines()[-1].partition("kdaug ")[2]
    assert main(command.split()) == 0
    assert "none on a real one" in capsys.readouterr().out
    assert main(["init", str(mine)]) == 2


def test_the_templates_beside_a_recipe_are_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine"
    assert main(["init", str(mine), "--recipe", "evol-instruct"]) == 0
    changed = mine / "templates" / "prompts" / "evol_instruct" / "deepen.j2"
    changed.write_text("{{ missing }}", "utf-8")
    assert main(["check", str(mine / "recipe.yaml"), "--set", "evol_instruct.operators=[deepen]"]) == 2
    assert "evol_instruct/deepen.j2" in capsys.readouterr().err


def test_a_part_beside_the_recipe_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my_own_gates.py").write_text(
        """
from dataclasses import dataclass
from kdaug import Drop, Gate

@dataclass(frozen=True)
class NoQuestion(Gate):
    name = "no_question"
    def decide(self, prepared):
        return Drop("no_question:asks") if "5" in prepared.record.prompt[0].content else None
""",
        "utf-8",
    )
    stages = 'stages: [{generator: respond, gates: ["my_own_gates:NoQuestion"]}]'
    (tmp_path / "recipe.yaml").write_text(f"seeds: prompts.jsonl\n{stages}\n", "utf-8")
    seeds(tmp_path)
    assert main(["run", str(tmp_path / "recipe.yaml"), "--teacher", "fake", "--out", str(tmp_path / "run")]) == 0
    assert len(Dataset(tmp_path / "run")) == 11


def test_templates_of_ones_own_are_used_and_are_part_of_the_run(tmp_path: Path) -> None:
    mine = tmp_path / "templates" / "prompts" / "respond"
    mine.mkdir(parents=True)
    (mine / "pirate.j2").write_text("Answer as a pirate.", "utf-8")
    more = ["--templates", str(tmp_path / "templates"), "--set", "respond.system=pirate"]
    assert run(tmp_path, *more) == 0
    request = (tmp_path / "run" / "journal.sqlite").read_bytes()
    assert b"Answer as a pirate." in request
    (mine / "pirate.j2").write_text("Answer as a sailor.", "utf-8")
    assert run(tmp_path, *more) == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert "example:\n  " in capsys.readouterr().out


RESPOND = ["run", "respond", "--seeds", "{dir}/prompts.jsonl", "--teacher", "fake", "--out"]
MISTAKES: list[tuple[list[str], str]] = [
    (["run", "respond", "--out", "{out}"], "no seeds: give them with --seeds"),
    (["run", "respond", "--seeds", "{dir}/none.jsonl", "--out", "{out}"], "none.jsonl"),
    (["run", "respond", "--seeds", "{dir}/empty.jsonl", "--out", "{out}", "--teacher", "fake"], "empty.jsonl"),
    (["run", "respond", "--seeds", "{dir}/bad.jsonl", "--out", "{out}", "--teacher", "fake"], "bad.jsonl:2: "),
    (["run", "respnd", "--seeds", "{dir}/prompts.jsonl", "--out", "{out}"], "Did you mean respond?"),
    ([*RESPOND, "{out}", "--teacher", "oenai:x"], "unknown kind"),
    ([*RESPOND, "{out}", "--teacher", ""], "the name of a teacher is empty"),
    ([*RESPOND, "{out}", "--teacher", "openai:m?base_url=http://a b/v1"], "is no http(s) address"),
    ([*RESPOND, "{out}", "--set", "respond.max_tokens=-5"], "max_tokens is -5: it must be at least 1"),
    ([*RESPOND, "{out}", "--set", "respond.top_p=7"], "respond: temperature 0.7, top_p 7.0"),
    ([*RESPOND, "{out}", "--set", "respond.system=hello"], "no template prompts/respond/hello.j2"),
    ([*RESPOND, "{out}", "--set", "roles={{techer: fake}}"], "unknown role 'techer' (did you mean 'teacher'?)"),
    ([*RESPOND, "{out}", "--set", "roles={{judge: 3}}"], "expected a teacher such as openai:MODEL, found 3"),
    ([*RESPOND, "{out}", "--preview", "0"], "--preview is 0"),
    ([*RESPOND, "{out}", "--target", "-3"], "--target is -3"),
    (["run", "respond", "--set", "seeds=5", "--out", "{out}"], "seeds: expected the name of a file"),
    ([*RESPOND, "{out}", "--set", "x.y=1"], "no part of that name"),
    ([*RESPOND, "{out}", "--logprobs", "0"], "--logprobs 0: at least 1"),
    (["run", "self-instruct", "--logprobs", "20", "--out", "{out}"], "final answers from instances, which keeps no"),
    ([*RESPOND, "{out}", "--holdout", "2"], "holdout"),
    ([*RESPOND, "{dir}"], "is no run folder"),
    ([*RESPOND, "{dir}/bad.jsonl/x"], "cannot write"),
    (["run", "feedback", "--seeds", "{dir}/prompts.jsonl", "--teacher", "fake", "--out", "{out}"], "--student"),
    (["check", "respond", "--seeds", "{dir}/prompts.jsonl", "--set", "roles={{teacher: 'nope:x'}}"], "kind 'nope'"),
    (["show", "{dir}/none"], "not a run folder"),
    (["export", "{dir}", "--format", "alpaca", "--to", "{dir}/x"], "not a dataset"),
    (["prune", "{dir}", "--layers", "2", "--out", "{dir}/cut"], "config.json"),
    (["prune", "{dir}", "--layers", "2", "--out", "{dir}/bad.jsonl"], "is a file: choose a folder"),
    (["prune", "{dir}", "--layers", "2", "--out", "{dir}"], "holds other files"),
    (["run", "respond", "--seeds", "{dir}/deep.yaml", "--out", "{out}", "--teacher", "fake"], "nested too deeply"),
    ([*RESPOND, "{out}", "--templates", "{dir}"], "holds no template"),
    ([*RESPOND, "{out}", "--templates", "{dir}/mine", "--set", "respond.system=brief"], "is no UTF-8 text"),
    ([*RESPOND, "{out}", "--max-cost", "nan"], "--max-cost is nan"),
    (["run", "respond", "--target", "many", "--out", "{out}"], "kdaug run --help"),
]


@pytest.mark.parametrize(("arguments", "says"), MISTAKES, ids=[m[1][:25] for m in MISTAKES])
def test_a_mistake_is_one_line_and_exit_2(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds(tmp_path)
    (tmp_path / "empty.jsonl").write_text("", "utf-8")
    (tmp_path / "bad.jsonl").write_text('{"prompt": "fine"}\n{"prompt": 7}\n', "utf-8")
    (tmp_path / "deep.yaml").write_text("[" * 5_000, "utf-8")
    template = tmp_path / "mine" / "prompts" / "respond" / "brief.j2"
    template.parent.mkdir(parents=True)
    template.write_bytes(b"\xff\xfe\x00")
    try:
        code = main([a.format(dir=tmp_path, out=tmp_path / "out") for a in arguments])
    except SystemExit as e:  # argparse
        code = int(e.code or 0)
    assert code == 2
    said = capsys.readouterr().err
    assert says in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("split", "says"), [("test", "a run with --holdout 0.1 makes one"), ("tset", "only train")])
def test_a_split_that_is_not_there_is_not_taken_for_another(
    split: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path) == 0
    assert main(["eval", "smollm2", "--data", str(tmp_path / "run"), "--split", split]) == 2
    said = capsys.readouterr().err
    assert f"has no split '{split}', only train" in said and says in said


def test_an_empty_folder_name_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "respond", "--seeds", seeds(tmp_path), "--teacher", "fake", "--out", ""])
    assert ended.value.code == 2
    assert "--out: an empty name" in capsys.readouterr().err


def test_a_run_says_what_it_takes_its_seeds_and_roles_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--set", "respond.role=teacher") == 0
    assert "12 records from" in capsys.readouterr().err
    judged = ["run", "evol-instruct", "--seeds", seeds(tmp_path), "--teacher", "fake", "--out", str(tmp_path / "evol")]
    assert main(judged) == 0
    said = capsys.readouterr().err
    assert "teacher: fake" in said
    assert "judge: fake, the teacher itself (no judge was given)" in said


def test_a_preview_takes_no_more_than_max_jobs(tmp_path: Path) -> None:
    assert run(tmp_path, "--preview", "5", "--max-jobs", "2") == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))["usage"]["fake"]["calls"] == 2


def test_a_journal_that_is_gone_does_not_cost_the_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path) == 0
    for path in (tmp_path / "run").glob("journal.sqlite*"):
        path.unlink()
    (tmp_path / "run" / "journal.sqlite").touch()
    assert run(tmp_path) == 2
    assert "its journal.sqlite is empty" in capsys.readouterr().err
    assert main(["show", str(tmp_path / "run")]) == 2
    assert "journal.sqlite is empty: put back the one that this run had" in capsys.readouterr().err
    assert len(Dataset(tmp_path / "run")) == 12


def test_a_folder_from_which_nothing_was_sent_takes_another_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert run(tmp_path, "--teacher", "openai:m") == 2
    assert run(tmp_path, "--set", "respond.max_tokens=9") == 0
    assert run(tmp_path, "--set", "respond.max_tokens=8") == 2


def test_what_changes_between_two_parts_of_a_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--holdout", "0.25", "--target", "9") == 0
    capsys.readouterr()
    assert run(tmp_path, "--target", "6", "--teacher", "fake:other") == 0
    said = capsys.readouterr().err
    assert "holdout was 0.25, is 0.0 now: the splits are made anew" in said
    assert "target was 9, is 6 now: the dataset has the first of them" in said
    assert "the teacher was fake: its replies are kept, new calls go to other" in said


def test_a_wrong_key_costs_one_call_and_the_run_can_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeOpenAI(api_key="right") as server:
        teacher = ["--teacher", f"openai:m?base_url={server.url}&api_key_env=MY_KEY"]
        monkeypatch.setenv("MY_KEY", "sk-wrong-key")
        assert run(tmp_path, *teacher) == 1
        assert server.stats()["total"] == 1
        said = capsys.readouterr()
        assert "401" in said.err
        assert "calls: 1 asked, 0 answered, failed 1 (access_denied 1)" in said.err
        assert "no record was kept" in said.out
        monkeypatch.setenv("MY_KEY", "right")
        assert run(tmp_path, *teacher) == 0
    assert len(Dataset(tmp_path / "run")) == 12
    written = b"".join(p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file())
    assert b"sk-wrong-key" not in written
    assert b"Bearer" not in written


@pytest.mark.slow
def test_an_endpoint_that_nobody_answers_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--teacher", f"openai:m?base_url=http://127.0.0.1:{free_port()}/v1") == 1
    said = capsys.readouterr().err
    assert "127.0.0.1" in said
    assert "Traceback" not in said


def test_a_missing_extra_is_named_with_its_pip_command(tmp_path: Path) -> None:
    # A process of its own, in which torch and transformers cannot be found.
    code = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("transformers", "torch"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hide())
import importlib.util as util
real = util.find_spec
util.find_spec = lambda name, *a: None if name in ("transformers", "torch") else real(name, *a)
from kdaug.cli import main
sys.exit(main(sys.argv[1:]))
"""
    arguments = ["run", "respond", "--seeds", seeds(tmp_path), "--out", str(tmp_path / "run"), "--teacher", "local"]
    ended = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert ended.returncode == 2
    assert "pip install 'kdaug[local]'" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_damaged_journal_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path) == 0
    journal = tmp_path / "run" / "journal.sqlite"
    journal.write_bytes(b"no database, " * 1000)
    assert run(tmp_path) == 1
    said = capsys.readouterr().err
    assert "is damaged" in said
    assert "another --out" in said
    assert len(Dataset(tmp_path / "run")) == 12


def test_a_full_disk_stops_the_run_which_goes_on_when_there_is_room(tmp_path: Path) -> None:
    # A limit on the size of a file stands for the full disk: SQLite meets both alike.
    code = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, resource.RLIM_INFINITY))
from kdaug.cli import main
sys.exit(main(sys.argv[1:]))
"""
    arguments = [
        "run",
        "respond",
        "--seeds",
        seeds(tmp_path, 3000),
        "--out",
        str(tmp_path / "run"),
        "--teacher",
        "fake",
    ]
    ended = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "nothing is lost" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert main(arguments) == 0
    assert len(Dataset(tmp_path / "run")) == 3000


def test_ctrl_c_stops_cleanly_and_says_what_resumes(tmp_path: Path) -> None:
    arguments = ["--seeds", seeds(tmp_path, 2000), "--out", str(tmp_path / "run")]
    with FakeOpenAI(latency_ms=50) as server:
        command = [sys.executable, "-m", "kdaug", "run", "respond", *arguments]
        command += ["--teacher", f"openai:m?base_url={server.url}&concurrency=8"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while server.stats()["total"] < 40:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "resume: kdaug run respond" in said
        facts = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
        assert facts["status"] == "interrupted"
        stats = server.stats()
        # Calls in flight were awaited: every answer that the server gave is in the journal.
        assert facts["usage"]["openai:m"]["calls"] == stats["outcomes"]["ok"] == stats["total"]
        assert 0 < len(Dataset(tmp_path / "run")) < 2000


def test_doctor_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "device: " in said
    assert "embedded teacher: " in said
    assert "semantic deduplication" in said


def test_a_text_that_was_kept_and_came_again_has_both_in_its_story(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, again, out = tmp_path / "a.jsonl", tmp_path / "b.jsonl", str(tmp_path / "out")
    for path in (data, again):
        path.write_text(json.dumps({"prompt": "What is deep?", "completion": "The sea."}) + "\n", "utf-8")
    assert main(["curate", str(data), str(again), "--out", out]) == 0
    record = next(iter(Dataset(tmp_path / "out")))
    capsys.readouterr()
    assert main(["show", out, record.id]) == 0
    story = capsys.readouterr().out
    assert story.index("   kept") < story.index("the same text again, dropped (stage 0, job 1, child 0): copies:")


def test_options_are_written_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--seed 3` once stood for `--seeds 3`, over the seeds that were given."""
    with pytest.raises(SystemExit) as ended:
        run(tmp_path, "--seed", "3")
    assert ended.value.code == 2 and "--seed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("repo", "says"),
    [("badname", "'badname' is no name on the Hub: give owner/name"), ("me/a b", "has a name like owner/name")],
)
def test_a_name_that_the_hub_cannot_have_is_said_before_a_token_is_asked_for(
    repo: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert run(tmp_path) == 0
    capsys.readouterr()
    assert main(["push", str(tmp_path / "run"), repo]) == 2
    assert says in capsys.readouterr().err
