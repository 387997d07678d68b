"""The semantic gate keeps the first of near-duplicates and decides as a brute-force search, whatever is in flight."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deciding import adecisions, decisions
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted import Scripted

from kdaug.errors import ConfigError, KdaugError
from kdaug.gates.dedup import Dedup
from kdaug.record import Drop, Message, Record, assistant, user

THRESHOLD = 0.9


@cache
def vector(text: str) -> Any:
    """Texts such as `3.17`: a direction of family 3 with noise of its own, so that cosines lie around the threshold."""
    family, _ = text.split(".")
    direction = np.random.default_rng(int(family)).normal(size=24)
    noise = np.random.default_rng(int(text.replace(".", "9"))).normal(size=24)
    return (direction + 0.33 * noise).astype(np.float32)


class Planted(Dedup):
    """A real gate whose vectors are known, and whose encoder takes its time."""

    def _embed(self, texts: list[str]) -> Any:
        time.sleep(0.0005 * (sum(map(len, texts)) % 3))
        raw = np.array([vector(t) for t in texts], np.float32).reshape(len(texts), -1)
        return raw / np.linalg.norm(raw, axis=1, keepdims=True)


def prompts(texts: Sequence[str]) -> list[Record]:
    return [Record(prompt=user(t)) for t in texts]


def drawn(count: int, families: int = 12) -> list[str]:
    rng = np.random.default_rng(5)
    return [f"{rng.integers(families)}.{i}" for i in range(count)]


def brute_force(seeds: Sequence[Record], records: Sequence[Record], threshold: float = THRESHOLD) -> list[str | None]:
    """For each record the id of its earliest twin among the seeds and what was kept before."""
    unit = {r.id: (v := vector(r.prompt[0].content)) / np.linalg.norm(v) for r in (*seeds, *records)}
    kept, twins = [s.id for s in seeds], list[str | None]()
    for record in records:
        twins.append(next((k for k in kept if float(unit[k] @ unit[record.id]) > threshold), None))
        if twins[-1] is None:
            kept.append(record.id)
    return twins


@pytest.mark.parametrize("window", [7, 50, 300])
def test_decisions_and_twins_are_those_of_a_brute_force_search(window: int) -> None:
    seeds, records = prompts(["0.1000", "1.1001"]), prompts(drawn(300))
    found = decisions(Planted(THRESHOLD).start(seeds), records, window)
    expected = brute_force(seeds, records)
    assert [d.detail["twin"] if d else None for d in found] == expected
    assert 100 < sum(d is not None for d in found) < 290
    assert any(twin == seeds[0].id for twin in expected)


def test_more_are_kept_than_the_first_room_holds() -> None:
    texts = [f"{i}.{i}" for i in range(1500)]
    found = decisions(Planted(0.97).start([]), prompts([*texts, texts[3] + "0", texts[1400]]), window=300)
    assert found[:1500] == [None] * 1500
    assert found[1501] is not None and found[1501].detail["text"] == texts[1400]


def test_a_drop_names_its_twin_and_only_one_of_a_pair_goes() -> None:
    first, second = prompts(["4.1", "4.2"])
    score = float(vector("4.1") @ vector("4.2") / np.linalg.norm(vector("4.1")) / np.linalg.norm(vector("4.2")))
    kept, dropped = decisions(Planted(score - 0.01).start([]), [first, second], window=2)
    assert kept is None and dropped is not None and dropped.reason == "dedup:near_duplicate"
    assert dropped.detail == {"twin": first.id, "score": pytest.approx(score, abs=1e-5), "text": "4.1"}


def test_a_cosine_of_exactly_the_threshold_is_kept() -> None:
    class Ones(Dedup):
        def _embed(self, texts: list[str]) -> Any:
            return np.ones((len(texts), 1), np.float32)

    assert decisions(Ones(1.0).start([]), prompts(["a", "b"])) == [None, None]
    assert decisions(Ones(0.999).start([]), prompts(["a", "b"]))[1] is not None


def test_seeds_that_are_answered_are_held_only_against_each_other() -> None:
    seeds = prompts(["1.1", "1.1", "2.1"])
    answers = [s.child(by="respond", completion=assistant(f"answer {i}")) for i, s in enumerate(seeds)]
    found = decisions(Planted(THRESHOLD).start(seeds), answers, window=3)
    assert [d.detail["twin"] if d else None for d in found] == [None, answers[0].id, None]


def test_a_record_without_the_text_is_dropped_as_empty() -> None:
    found = decisions(Planted(on="completion").start([]), prompts(["1.1"]))
    assert found == [Drop("dedup:empty", {"on": "completion"})]
    assert decisions(Planted().start([]), prompts([" \n"])) == [Drop("dedup:empty", {"on": "prompt"})]


def test_a_text_without_a_vector_is_a_drop_of_its_own_and_hides_no_twin() -> None:
    class Holed(Planted):
        def _embed(self, texts: list[str]) -> Any:
            rows = super()._embed(texts)
            rows[[t == "7.7" for t in texts]] = np.nan
            return rows

    seeds, records = prompts(["7.7", "2.1"]), prompts(["1.1", "7.7", "1.1", "2.1"])
    fine, none, twin, of_seed = decisions(Holed(THRESHOLD).start(seeds[:0]), records, window=4)
    assert fine is None and of_seed is None and twin is not None
    assert none == Drop("dedup:no_embedding", {"on": "prompt", "text": "7.7"})
    new = [Record(prompt=user(t), roots=("a", "b")) for t in ("7.7", "2.1")]
    none, twin = decisions(Holed(THRESHOLD).start(seeds), new, window=2)
    assert none is not None and none.reason == "dedup:no_embedding"
    assert twin is not None and twin.detail["twin"] == seeds[1].id


def test_system_messages_are_not_compared() -> None:
    a, b = (Record(prompt=(Message("system", system), *user("3.1"))) for system in ("Be brief.", "Be kind."))
    assert decisions(Planted().start([]), [a, b])[1] is not None


def test_a_gate_starts_fresh_and_leaves_no_task_behind(caplog: pytest.LogCaptureFixture) -> None:
    gate, records = Planted(THRESHOLD), prompts(drawn(60))

    async def run() -> list[Drop | None]:
        made = await adecisions(gate.start([]), records, window=20)
        await asyncio.sleep(0.05)  # the worker may still wait for company
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return made

    assert asyncio.run(run(), debug=True) == asyncio.run(run(), debug=True)
    assert "destroyed" not in caplog.text and "never retrieved" not in caplog.text


@pytest.mark.parametrize(("fields", "named"), [({"threshold": 90}, "threshold"), ({"on": "text"}, "on")])
def test_a_wrong_field_is_named(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=f"dedup: {named}"):
        Dedup(**fields)


def test_a_folder_that_holds_no_encoder_is_found_out_at_the_start(tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match=str(tmp_path)):
        Dedup(model=str(tmp_path)).start([])


@pytest.mark.slow
def test_the_real_encoder_finds_a_paraphrase_and_decides_alike_in_any_company(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDAUG_CACHE", str(tmp_path))
    texts = [
        "How can I learn to play the guitar?",
        "Write a function that sorts a list of numbers.",
        "How could I learn to play the guitar?",
        "What is the capital of Peru?",
        "Describe how photosynthesis works in plants.",
        "Write a function which sorts a list of numbers.",
        "Write a Haiku about winter.",
    ]
    seeds = prompts(["Write a haiku about winter."])
    found = [decisions(Dedup(THRESHOLD).start(seeds), prompts(texts), window) for window in (1, 7)]
    twins = [[d.detail["text"] if d else None for d in ds] for ds in found]
    assert twins[0] == [None, None, texts[0], None, None, texts[1], "Write a haiku about winter."]
    assert twins[0] == twins[1]


@pytest.mark.slow
def test_an_encoder_that_gives_no_numbers_is_an_error(tmp_path: Path) -> None:
    """A real model whose weights were ruined, such as by a bad conversion."""
    import torch
    from sentence_transformers import SentenceTransformer

    from kdaug.models import find_encoder

    model = SentenceTransformer(find_encoder().path, device="cpu")
    with torch.no_grad():
        next(iter(model.parameters())).fill_(float("nan"))
    model.save(str(tmp_path / "ruined"))
    with pytest.raises(KdaugError, match="not finite for 'Hello'"):
        decisions(Dedup(model=str(tmp_path / "ruined")).start([]), prompts(["Hello"]))


def test_what_was_kept_before_a_resume_is_remembered() -> None:
    record = prompts(["1.1"])[0]
    again = Record(prompt=record.prompt, meta={"n": 2}, completion=assistant("Yes"))

    async def run() -> list[Drop | None]:
        gate = Planted(THRESHOLD).start([])
        gate.remember(await gate.recall(record, Scripted(lambda *asked: AssertionError("nobody is asked"))))
        return await adecisions(gate, [again])

    (drop,) = asyncio.run(run())
    assert drop is not None and drop.detail["twin"] == record.id


@settings(max_examples=15, deadline=None)
@given(
    families=st.lists(st.integers(0, 9), min_size=1, max_size=60),
    cut=st.integers(0, 60),
    window=st.sampled_from([1, 5, 40]),
    threshold=st.sampled_from([0.8, 0.9, 0.95]),
)
def test_a_run_that_was_resumed_decides_as_one_that_was_not_and_as_a_brute_force(
    families: list[int], cut: int, window: int, threshold: float
) -> None:
    seeds = prompts(["0.1000"])
    records = prompts([f"{family}.{at}" for at, family in enumerate(families)])
    whole = decisions(Planted(threshold).start(seeds), records, window)

    async def resumed() -> list[Drop | None]:
        gate = Planted(threshold).start(seeds)
        for record, drop in zip(records[:cut], whole, strict=False):
            if drop is None:
                gate.remember(await gate.recall(record, Scripted(lambda *asked: AssertionError("nobody is asked"))))
        return await adecisions(gate, records[cut:], window)

    assert asyncio.run(resumed()) == whole[cut:]
    assert [d.detail["twin"] if d else None for d in whole] == brute_force(seeds, records, threshold)


@pytest.mark.parametrize("index", ["ivf", "hnsw"])
def test_an_index_decides_alike_whatever_is_in_flight_and_after_a_resume(
    index: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tile = 256
    for name in ("vectors.TILE", "approximate.BLOCK"):
        monkeypatch.setattr(f"kdaug.{name}", tile)
    records = prompts(drawn(700, families=1000))
    gate = Planted(THRESHOLD, index=index, effort=8)
    live = gate.start([])
    whole = decisions(live, records, window=200)
    assert decisions(gate.start([]), records, window=90) == whole
    kept = {r.id for r, d in zip(records, whole, strict=True) if d is None}
    assert len(kept) > 2 * tile
    assert all(d.detail["twin"] in kept for d in whole if d)
    report = live.report()
    assert isinstance(report["recall"], float) and 0.8 < report["recall"] <= 1

    async def resumed() -> list[Drop | None]:
        again, nobody = gate.start([]), Scripted(lambda *asked: AssertionError("nobody is asked"))
        for record, drop in zip(records[:650], whole, strict=False):
            if drop is None:
                again.remember(await again.recall(record, nobody))
        return await adecisions(again, records[650:], window=100)

    assert asyncio.run(resumed()) == whole[650:]


class Sieved(Planted):
    """A real gate whose static vectors are the known ones with some noise, and which counts what it embeds."""

    noise = 0.0

    def _sifted(self, texts: list[str]) -> Any:
        shaken = [v + self.noise * np.random.default_rng(7).normal(size=24) for v in map(vector, texts)]
        raw = np.array(shaken, np.float32).reshape(len(texts), -1)
        return raw / np.linalg.norm(raw, axis=1, keepdims=True)


@pytest.fixture
def static_folder(tmp_path: Path) -> str:
    (tmp_path / "model.safetensors").touch()
    return str(tmp_path)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    families=st.lists(st.integers(0, 9), min_size=1, max_size=60),
    window=st.sampled_from([1, 5, 40]),
    sieve=st.sampled_from([0.0, 0.6, 0.85]),
)
def test_what_the_sieve_stops_is_decided_as_by_a_brute_force(
    families: list[int], window: int, sieve: float, static_folder: str
) -> None:
    seeds = prompts(["0.1000"])
    records = prompts([f"{family}.{at}" for at, family in enumerate(families)])
    found = decisions(Sieved(THRESHOLD, sieve=sieve, static=static_folder).start(seeds), records, window)
    assert [d.detail["twin"] if d else None for d in found] == brute_force(seeds, records)


def test_the_sieve_spares_the_encoder_and_says_what_it_missed(
    static_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded: list[str] = []
    embed = Planted._embed

    def counted(self: Planted, texts: list[str]) -> Any:
        embedded.extend(texts)
        return embed(self, texts)

    monkeypatch.setattr(Planted, "_embed", counted)
    records = prompts(drawn(600, families=500))
    fine = Sieved(THRESHOLD, sieve=0.8, static=static_folder).start([])
    found = decisions(fine, records, window=100)
    assert [d.detail["twin"] if d else None for d in found] == brute_force([], records)
    assert len(embedded) == len(set(embedded)) < 500
    assert fine.report()["recall"] == 1.0

    monkeypatch.setattr(Sieved, "noise", 0.7)
    coarse = Sieved(THRESHOLD, sieve=0.97, static=static_folder).start([])
    fewer = decisions(coarse, records, window=100)
    assert sum(d is not None for d in fewer) < sum(d is not None for d in found)
    report = coarse.report()
    assert isinstance(report["missed"], int) and report["missed"] > 0
    assert isinstance(report["recall"], float) and report["recall"] < 1


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"index": "flat"}, "index must be one of exact, ivf, hnsw"),
        ({"index": "ivf", "effort": 0}, "effort"),
        ({"sieve": 1.5}, "sieve is a cosine"),
        ({"sieve": 0.7, "index": "ivf"}, "choose index or sieve"),
    ],
)
def test_a_faster_way_that_cannot_be_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Dedup(**fields)


def test_a_folder_without_a_static_model_is_found_out_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder of a model2vec model"):
        Dedup(sieve=0.7, static=str(tmp_path)).start([])
