"""Caps: nothing is spent beyond them, by the count of the server that is paid, whatever fails and is killed."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from killing import KDAUG, data_of
from servers.run import FakeOpenAI

from kdaug.budget import Budget, Caps, worst_case
from kdaug.cli import main
from kdaug.errors import BudgetExceeded, ConfigError
from kdaug.journal import Journal
from kdaug.models import find_model
from kdaug.prices import Bill, Price, parse_price, price_of
from kdaug.record import Message, user
from kdaug.teacher import Completion, Request, Sampling, Usage
from kdaug.teachers.fake import Fake
from kdaug.teachers.openai import OpenAI

PRICE = Price(100.0, 400.0)  # US dollars per million tokens
PROMPTS = 120


@pytest.fixture(scope="module")
def server() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as server:
        yield server


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"question {i}"}) + "\n" for i in range(PROMPTS)), "utf-8")
    return path


def command(server: FakeOpenAI, prompts: Path, out: Path, *more: str) -> list[str]:
    teacher = f"openai:m?base_url={server.url}&concurrency=16&timeout=2"
    sampling = ["--set", "respond.max_tokens=120", "--price", f"m={PRICE.input},{PRICE.output}"]
    return ["run", "respond", "--seeds", str(prompts), "--teacher", teacher, "--out", str(out), *sampling, *more]


def billed(server: FakeOpenAI) -> float:
    stats = server.stats()
    return PRICE.cost(stats["prompt_tokens"], stats["completion_tokens"])


def facts(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "run.json").read_text("utf-8"))
    return found


@pytest.mark.slow
def test_a_cap_on_the_cost_holds_while_calls_fail_and_is_used_up(
    server: FakeOpenAI, prompts: Path, tmp_path: Path
) -> None:
    server.configure(latency_ms=5)
    assert main(command(server, prompts, tmp_path / "whole", "--quiet")) == 0
    whole = billed(server)
    server.configure(latency_ms=5, faults={"429": 0.1, "500": 0.1, "reset": 0.05, "trunc": 0.05}, retry_after=0)
    cap = whole / 2
    assert main(command(server, prompts, tmp_path / "run", "--max-cost", str(cap), "--quiet")) == 3
    assert cap * 0.6 < billed(server) <= cap
    ended = facts(tmp_path / "run")
    assert (ended["status"], ended["ended_by"]) == ("stopped", "max_cost")
    assert ended["bill"]["cost"] + ended["bill"]["unclear"] <= cap
    assert ended["bill"]["cost"] <= billed(server)
    assert ended["bill"]["per_kept"] == pytest.approx(ended["bill"]["cost"] / ended["kept"])
    # A higher cap goes on from there, and nothing that was answered is asked again.
    assert main(command(server, prompts, tmp_path / "run", "--max-cost", str(whole * 4), "--quiet")) == 0
    assert data_of(tmp_path / "run") == data_of(tmp_path / "whole")
    assert server.stats()["ok_repeated"] == 0


@pytest.mark.parametrize("cap", ["--max-calls", "--max-tokens"])
def test_caps_on_calls_and_tokens_hold_by_the_servers_count(
    server: FakeOpenAI, prompts: Path, tmp_path: Path, cap: str
) -> None:
    server.configure(faults={"500": 0.3}, retry_after=0)
    most = {"--max-calls": 60, "--max-tokens": 9_000}[cap]
    assert main(command(server, prompts, tmp_path / "run", cap, str(most), "--quiet")) == 3
    stats = server.stats()
    sent = stats["total"] if cap == "--max-calls" else stats["prompt_tokens"] + stats["completion_tokens"]
    assert most / 2 < sent <= most
    assert main(command(server, prompts, tmp_path / "run", cap, str(most), "--quiet")) == 3
    assert server.stats()["total"] == stats["total"]  # the same cap again: nothing more is sent


@pytest.mark.slow
def test_a_cap_holds_over_kills_while_calls_fail(server: FakeOpenAI, prompts: Path, tmp_path: Path) -> None:
    server.configure(latency_ms=30, faults={"429": 0.1, "500": 0.1, "reset": 0.05, "trunc": 0.05}, retry_after=0)
    cap, kills, rng = 4.0, 0, Random(3)
    capped = command(server, prompts, tmp_path / "run", "--max-cost", str(cap), "--quiet")
    for _ in range(4):
        process = subprocess.Popen([*KDAUG, *capped])
        goal = server.stats()["total"] + rng.randint(5, 15)
        while process.poll() is None and server.stats()["total"] < goal:
            time.sleep(0.005)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert main(capped) == 3
    while server.stats()["inflight"]:
        time.sleep(0.01)
    stats = server.stats()
    assert kills == 4 and stats["outcomes"]["trunc"] > 0  # an answer that is paid for, and asked for again
    assert cap / 4 < billed(server) <= cap
    bill = facts(tmp_path / "run")["bill"]
    assert bill["unclear"] > 0  # what the kills left open counts in full
    assert bill["cost"] + bill["unclear"] <= cap


def test_the_worst_case_is_on_the_disk_before_a_call_is_sent(tmp_path: Path) -> None:
    found: list[int] = []

    def look(request: Request) -> str:
        with sqlite3.connect(tmp_path / "run" / "journal.sqlite") as other:
            found.append(other.execute("SELECT count(*) FROM reservations").fetchone()[0])
        return "Fine."

    import kdaug as kd

    recipe = kd.Recipe(kd.Each([kd.Record(prompt=user("Hi."))]), [kd.Stage(kd.Respond())], max_tokens=100_000)
    assert len(list(kd.run(recipe, tmp_path / "run", teacher=Fake(look), quiet=True).records())) == 1
    assert found == [1]
    journal = Journal.read_only(tmp_path / "run")
    assert journal.spending()[0][1] == 1  # settled: the reply alone counts
    journal.close()


def test_a_cap_on_the_cost_needs_a_price(server: FakeOpenAI, prompts: Path, tmp_path: Path, capsys: Any) -> None:
    server.configure()
    teacher = f"openai:m?base_url={server.url}"
    run = ["run", "respond", "--seeds", str(prompts), "--teacher", teacher, "--out", str(tmp_path / "run")]
    assert main([*run, "--max-cost", "1"]) == 2
    assert "--price 'm=INPUT,OUTPUT'" in capsys.readouterr().err
    assert server.stats()["total"] == 0
    assert main([*run, "--max-jobs", "1"]) == 3
    assert "cost: unknown (no price for openai:m" in capsys.readouterr().err
    assert facts(tmp_path / "run")["bill"]["cost"] is None


def test_time_is_a_cap_too(server: FakeOpenAI, prompts: Path, tmp_path: Path) -> None:
    server.configure(latency_ms=150)
    assert main(command(server, prompts, tmp_path / "run", "--max-time", "0.5s", "--quiet")) == 3
    ended = facts(tmp_path / "run")
    assert ended["ended_by"] == "max_time"
    assert 0 < ended["kept"] < PROMPTS
    assert server.stats()["ok_distinct"] == ended["usage"]["openai:m"]["calls"]  # those in flight were awaited


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-cost", "0"], "--max-cost is 0.0: it must be more than 0"),
        (["--price", "m"], "--price m: expected MODEL=INPUT,OUTPUT"),
        (["--price", "m=1,-2"], "a price is at least 0"),
        (["--price", "gpt-y=1,2"], "--price gpt-y=…: no teacher here is that model; there is fake"),
        (["--set", "prices={m: 3}"], "prices.m: expected {input: …, output: …}"),
        (["--set", "prices={m: {input: 1, output: dear}}"], "prices.m.output: expected float"),
    ],
)
def test_wrong_caps_and_prices_are_refused(
    prompts: Path, tmp_path: Path, capsys: Any, arguments: list[str], message: str
) -> None:
    run = ["run", "respond", "--seeds", str(prompts), "--teacher", "fake", "--out", str(tmp_path / "run")]
    assert main([*run, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_prices_come_from_the_recipe_then_from_the_table() -> None:
    official, local = OpenAI("gpt-4.1-mini"), OpenAI("gpt-4.1-mini", base_url="http://127.0.0.1:8000/v1")
    found = price_of(official, {})
    assert found is not None and (found.input, found.output) == (0.4, 1.6)
    assert price_of(official, {"gpt-4.1-mini": PRICE}) == PRICE
    assert price_of(official, {"openai:gpt-4.1-mini": PRICE}) == PRICE
    assert price_of(local, {}) is None  # what is served elsewhere has another price
    assert price_of(Fake(), {}) == Price(0.0, 0.0, "no bill")
    assert parse_price("org/gpt-x=0.4,1.6") == ("org/gpt-x", Price(0.4, 1.6))


def test_a_call_waits_while_another_may_give_back_and_ends_the_run_when_none_can(tmp_path: Path) -> None:
    request = Request(user("Hi."), Sampling(max_tokens=1000))
    worst = sum(worst_case(request))

    async def spend() -> list[str]:
        journal, order = Journal(tmp_path), []
        budget = Budget(Caps(max_tokens=worst + 100), {}, journal)

        async def call(name: str, used: int) -> None:
            account = budget.account(0, 0, "fake")
            assert await account.reserve(request)
            order.append(f"{name} sent")
            await asyncio.sleep(0.01)
            account.answered(Completion("x", usage=Usage(used // 2, used // 2)))

        await asyncio.gather(call("first", 40), call("second", 80))
        with pytest.raises(BudgetExceeded, match="max_tokens is reached: 120 of "):
            await budget.account(0, 0, "fake").reserve(request)
        await journal.drained()
        journal.close()
        return order

    assert asyncio.run(spend()) == ["first sent", "second sent"]


def test_a_reply_without_usage_costs_its_worst_case(tmp_path: Path) -> None:
    request = Request(user("Hi."), Sampling(max_tokens=1000))

    async def spend() -> Budget:
        journal = Journal(tmp_path)
        budget = Budget(Caps(max_tokens=10_000), {}, journal)
        account = budget.account(0, 0, "fake")
        assert await account.reserve(request)
        account.answered(Completion("x"))
        await journal.add_reply(0, 0, "k", "teacher", "fake", request, Completion("x"))
        again = Budget(Caps(max_tokens=10_000), {}, journal)
        journal.close()
        assert again.counted == budget.counted
        return budget

    budget = asyncio.run(spend())
    assert (budget.counted.calls, budget.counted.tokens) == (1, sum(worst_case(request)))


@pytest.mark.slow
def test_no_prompt_has_more_tokens_than_its_worst_case() -> None:
    from kdaug.chat import Chat

    chat = Chat.load(find_model().path)
    texts = ["", "Hi.", "été 海 🌊" * 50, "\x00\u200b" * 40, "<|im_end|>" * 30, "aaaa" * 100, "1 2 3 " * 99]
    for text in texts:
        for messages in (user(text), (Message("system", text), Message("user", text), Message("assistant", text))):
            assert len(chat.ask(messages)) <= worst_case(Request(messages))[0]


def test_a_bill_with_an_unknown_price_is_unknown() -> None:
    from kdaug.tallies import Used

    used = [Used(0, "openai:m", 2, 0, 1000, 100, 0, 0), Used(1, "local:x", 1, 0, 10, 10, 0, 0)]
    known = Bill(used, {"openai:m": PRICE, "local:x": Price(0, 0)}, kept=2)
    assert known.cost == pytest.approx(0.14)
    assert known.per_kept == pytest.approx(0.07)
    assert known.of_stage(1)["cost"] == 0
    assert known.by_teacher()["openai:m"]["calls"] == 2
    unknown = Bill(used, {"openai:m": None, "local:x": Price(0, 0)}, kept=2)
    assert unknown.cost is None and unknown.per_kept is None
    assert unknown.of_stage(1)["cost"] == 0


def test_max_cost_in_python_needs_a_price_too(tmp_path: Path) -> None:
    import kdaug as kd

    recipe = kd.Recipe(kd.Each([kd.Record(prompt=user("Hi."))]), [kd.Stage(kd.Respond())], max_cost=1.0)
    with pytest.raises(ConfigError, match="max_cost needs the price of openai:m"):
        kd.run(recipe, tmp_path / "run", teacher=OpenAI("m", base_url="http://127.0.0.1:9/v1"), quiet=True)


def test_a_paid_reply_that_is_of_no_use_counts(server: FakeOpenAI, prompts: Path, tmp_path: Path) -> None:
    """The log-probabilities of an API that names tokens by their text cannot be read: the run ends after one reply,
    and that one was paid."""
    before = billed(server)
    assert main([*command(server, prompts, tmp_path / "run", "--max-cost", "1"), "--logprobs", "5", "--quiet"]) == 1
    paid = billed(server) - before
    assert paid > 0 and facts(tmp_path / "run")["ended_by"] == "failed"
    journal = Journal(tmp_path / "run")
    assert Budget(Caps(max_cost=1.0), {"openai:m": PRICE}, journal).counted.cost >= paid
    journal.close()


def test_the_caps_are_arguments_in_python_too(tmp_path: Path) -> None:
    import kdaug as kd

    def run(**caps: Any) -> int:
        recipe = kd.Recipe(kd.Each([kd.Record(prompt=user(f"Hi {i}.")) for i in range(9)]), [kd.Stage(kd.Respond())])
        kd.run(recipe, tmp_path / "run", teacher=Fake(lambda r: "Hello."), quiet=True, **caps)
        return int(facts(tmp_path / "run")["usage"]["fake"]["calls"])

    assert run(max_calls=3) == 3
    assert facts(tmp_path / "run")["ended_by"] == "max_calls"
    assert run(max_calls=5, max_cost=1.0, max_tokens=10**6, max_time=60.0) == 5
    assert run() == 9
    with pytest.raises(ConfigError, match="Recipe: max_calls is 'five': expected int"):
        run(max_calls="five")
