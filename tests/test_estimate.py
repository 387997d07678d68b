"""`kdaug estimate`: a real sample that the run keeps, and a whole that the run then meets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers.run import FakeOpenAI

from kdaug.cli import main
from kdaug.estimate import Pace, ends, extrapolate, resampled
from kdaug.generators.respond import Respond
from kdaug.prices import Price
from kdaug.recipe import Recipe
from kdaug.record import Record, user
from kdaug.source import Each, GrowingPool
from kdaug.stage import Stage
from kdaug.tallies import Asked, JobUse

SEEDS = [Record(prompt=user(f"Question {i}.")) for i in range(100)]
PACES = {"m": Pace(Price(1.0, 10.0), 2.0, 4)}


@pytest.fixture(scope="module")
def server() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as server:
        yield server


def job(kept: int, calls: int = 1, prompt: int = 100, completion: int = 50) -> JobUse:
    return JobUse(kept, {"m": Asked(calls, prompt, completion)})


def test_a_source_that_ends_is_taken_whole() -> None:
    recipe = Recipe(Each(SEEDS), [Stage(Respond()), Stage(Respond())])
    whole = extrapolate(recipe, [[job(1), job(0)], [job(1, calls=2)]], PACES)
    assert whole is not None
    assert (whole.jobs, whole.kept) == (100, 50)
    assert whole.calls == 100 + 50 * 2
    assert (whole.prompt_tokens, whole.completion_tokens) == (150 * 100, 150 * 50)
    assert whole.cost == pytest.approx((15_000 * 1.0 + 7_500 * 10.0) / 1e6)
    assert whole.seconds == pytest.approx(200 * 2.0 / 4)


def test_a_target_needs_as_many_jobs_as_its_records_take() -> None:
    recipe = Recipe(GrowingPool(SEEDS), [Stage(Respond()), Stage(Respond())], target=90)
    whole = extrapolate(recipe, [[job(4), job(2)], [job(1), job(0)]], PACES)
    assert whole is not None
    assert whole.jobs == pytest.approx(90 / (3 * 0.5))
    assert whole.kept == 90
    assert extrapolate(recipe, [[job(4)], [job(0)]], PACES) is None
    capped = Recipe(GrowingPool(SEEDS), [Stage(Respond())], target=90, max_jobs=5)
    least = extrapolate(capped, [[job(4)]], PACES)
    assert least is not None and (least.jobs, least.kept) == (5, 20)


def test_what_is_unknown_stays_unknown() -> None:
    whole = extrapolate(Recipe(Each(SEEDS), [Stage(Respond())]), [[job(1)]], {"m": Pace(None, None, 4)})
    assert whole is not None and whole.calls == 100
    assert whole.cost is None and whole.seconds is None


def test_an_interval_is_as_wide_as_the_jobs_differ() -> None:
    recipe = Recipe(Each(SEEDS), [Stage(Respond())])

    def interval(*completions: int) -> tuple[float, float]:
        sample = [[job(1, completion=tokens) for tokens in completions]]
        others = resampled(recipe, sample, PACES)
        return ends([other.completion_tokens for other in others if other is not None])

    assert interval(50, 50, 50, 50, 50, 50, 50, 50) == (5_000, 5_000)
    low, high = interval(20, 80, 20, 80, 20, 80, 20, 80)
    # The mean of 8 such jobs has a standard error of 30 / sqrt(8) = 10.6; 1.64 of them on either side are 90 %.
    assert low == pytest.approx(100 * (50 - 1.64 * 10.6), rel=0.15)
    assert high == pytest.approx(100 * (50 + 1.64 * 10.6), rel=0.15)


def test_the_estimate_is_what_the_run_then_takes(
    server: FakeOpenAI, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"question {i:03}"}) + "\n" for i in range(200)), "utf-8")
    teacher = f"openai:m?base_url={server.url}"
    rest = ["respond", "--seeds", str(prompts), "--teacher", teacher, "--out", str(tmp_path / "run")]
    server.configure()
    assert main(["estimate", *rest, "--price", "m=2,8"]) == 0
    said = capsys.readouterr().out
    assert server.stats()["total"] == 8
    assert "sample: 8 jobs, 8 records kept" in said
    figures = {
        name: float(value.replace(",", "")) for name, value in re.findall(r"^  ([a-z ]+?)  +\$?([\d,.]+)", said, re.M)
    }
    assert (figures["jobs"], figures["calls"]) == (200, 200)
    assert main(["run", *rest, "--quiet"]) == 0
    stats = server.stats()
    assert stats["total"] == 200  # the sample was not paid again
    assert figures["prompt tokens"] == pytest.approx(stats["prompt_tokens"], rel=0.05)
    assert figures["completion tokens"] == pytest.approx(stats["completion_tokens"], rel=0.05)
    cost = Price(2, 8).cost(stats["prompt_tokens"], stats["completion_tokens"])
    assert figures["cost"] == pytest.approx(cost, rel=0.05)


def test_without_a_price_it_says_so_and_a_sample_that_kept_nothing_says_nothing(
    server: FakeOpenAI, tmp_path: Path, capsys: Any
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"question {i}"}) + "\n" for i in range(20)), "utf-8")
    teacher = f"openai:m?base_url={server.url}"
    rest = ["respond", "--seeds", str(prompts), "--teacher", teacher]
    server.configure()
    assert main(["estimate", *rest, "--out", str(tmp_path / "a")]) == 0
    said = capsys.readouterr().out
    assert re.search(r"cost +unknown", said)
    assert "no price is known for openai:m: give --price" in said
    server.configure(faults={"400": 1.0})
    nothing = ["estimate", "self-instruct", *rest[1:], "--out", str(tmp_path / "b"), "--target", "10"]
    assert main(nothing) == 1  # not a mistake in what was written: calls were made
    assert "kept nothing" in capsys.readouterr().err


def test_a_sample_of_nothing_is_refused(tmp_path: Path, capsys: Any) -> None:
    seeds = tmp_path / "seeds.jsonl"
    seeds.write_text('{"prompt": "Hi."}\n')
    asked = ["estimate", "respond", "--seeds", str(seeds), "--teacher", "fake", "--out", str(tmp_path / "run")]
    assert main([*asked, "--sample", "0"]) == 2
    assert "--sample is 0: it must be at least 1" in capsys.readouterr().err
