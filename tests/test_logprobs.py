"""Log-probabilities of replies are kept beside the journal, small, durable and as they were."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

import kdaug as kd
from kdaug import logprobs
from kdaug.errors import JournalError
from kdaug.journal import Journal
from kdaug.logprobs import Shards
from kdaug.record import text_of, user
from kdaug.teacher import Completion, Request, TokenLogprobs, Usage
from kdaug.teachers.fake import Fake


def view(tokens: int, top_k: int, context: int = 3, seed: int = 0) -> TokenLogprobs:
    rng = np.random.default_rng(seed)
    tops = -np.sort(rng.exponential(4, (tokens, top_k)).astype(np.float32))
    return TokenLogprobs(
        rng.integers(0, 200_000, tokens),
        -rng.exponential(2, tokens).astype(np.float32),
        rng.integers(0, 200_000, (tokens, top_k)),
        tops,
        rng.random(tokens).astype(np.float32),
        rng.integers(0, 200_000, context),
        "abcd",
    )


def same(found: TokenLogprobs | None, expected: TokenLogprobs) -> bool:
    assert found is not None
    for name in ("token_ids", "top_ids", "context_ids", "token_logprobs", "residual"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    np.testing.assert_allclose(found.top_logprobs, expected.top_logprobs, rtol=2**-11, atol=1e-6)
    return found.top_logprobs.shape == expected.top_logprobs.shape and found.tokenizer == expected.tokenizer


def write(shards: Shards, views: Iterable[TokenLogprobs]) -> list[logprobs.Place]:
    places = [shards.add(v) for v in views]
    shards.write(shards.take())
    return places


def test_views_of_any_shape_come_back(tmp_path: Path) -> None:
    views = [view(5, 20), view(1, 1, 0), view(0, 4), view(7, 0), view(300, 3, 500, seed=9)]
    places = write(Shards(tmp_path / "logprobs"), views)
    again = Shards(tmp_path / "logprobs")
    assert all(same(again.read(place), v) for place, v in zip(places, views, strict=True))


def test_an_alternative_takes_six_bytes(tmp_path: Path) -> None:
    (place,) = write(Shards(tmp_path / "logprobs"), [view(1000, 20, 0)])
    size = (tmp_path / "logprobs" / "00000.bin").stat().st_size
    assert size == place.size == 1000 * (20 * 6 + 12)


def test_what_a_kill_left_half_written_is_passed_over(tmp_path: Path) -> None:
    folder, first, second = tmp_path / "logprobs", view(9, 4, seed=1), view(4, 4, seed=2)
    (kept,) = write(Shards(folder), [first])
    with (folder / "00000.bin").open("ab") as file:
        file.write(b"half a view"[:7])
    shards = Shards(folder)
    (later,) = write(shards, [second])
    assert same(shards.read(kept), first) and same(shards.read(later), second)
    assert later.offset % 4 == 0


def test_a_full_shard_is_followed_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "SHARD_BYTES", 2000)
    views = [view(10, 5, seed=i) for i in range(12)]
    shards = Shards(tmp_path / "logprobs")
    places = write(shards, views)
    assert len({place.shard for place in places}) > 1
    assert all(same(shards.read(place), v) for place, v in zip(places, views, strict=True))


def test_a_shard_that_was_cut_or_is_gone_is_said(tmp_path: Path) -> None:
    (place,) = write(Shards(tmp_path / "logprobs"), [view(10, 5)])
    path = tmp_path / "logprobs" / "00000.bin"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(JournalError, match=r"00000\.bin is shorter than the journal says"):
        Shards(tmp_path / "logprobs").read(place)
    path.unlink()
    with pytest.raises(JournalError, match=r"00000\.bin is missing"):
        Shards(tmp_path / "logprobs").read(place)


def measured(request: Request) -> Completion:
    number = int(text_of(request.messages).split()[1])
    return Completion(f"Answer {number}.", usage=Usage(3, 3), logprobs=view(3, request.sampling.logprobs, seed=number))


def test_a_run_keeps_them_with_its_replies_and_resumes_with_them(tmp_path: Path) -> None:
    seeds = [kd.Record(prompt=user(f"Question {i}")) for i in range(20)]
    recipe = kd.Recipe(kd.Each(seeds), [kd.Stage(kd.Respond(logprobs=4))])
    data = kd.run(recipe, tmp_path / "run", teacher=Fake(measured), quiet=True)
    journal = Journal.read_only(tmp_path / "run")
    for number, record in enumerate(data.records()):
        stage, job = map(int, record.replies[0].split("/")[:2])
        reply = journal.replies(stage, job)[record.replies[0]]
        assert isinstance(reply, Completion)
        assert reply.text == text_of(record.completion or ())
        assert same(reply.logprobs, view(3, 4, seed=number))
    journal.close()
