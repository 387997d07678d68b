"""The preference family: every loss learns from records of its kind, and says clearly what it cannot do."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdaug.chat import Chat
from kdaug.cli import main
from kdaug.dataset import Dataset, write_dataset
from kdaug.errors import ConfigError
from kdaug.record import Record, assistant, user
from kdaug.train.batching import IGNORE, encode
from kdaug.train.loop import Step
from kdaug.train.preference import DPO, LEARNING_RATES, LOSSES, Preference
from kdaug.train.preference_losses import PREFERENCE_LOSSES
from kdaug.train.unpaired import mismatched

FAST = Preference(epochs=6, lr=1e-3, length=256, batch=2, accumulate=3, dtype="float32")
# What the loss's own β leaves no room for on so small a model, or needs.
MORE: dict[str, dict[str, Any]] = {"sppo_hard": {"beta": 0.05}, "aot": {"batch": 6, "accumulate": 1}}


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def judged(pairs: list[Record]) -> list[Record]:
    """Good and bad answers, 12 of each."""
    good = [Record(prompt=p.prompt, completion=p.completion, label=True) for p in pairs]
    return good + [Record(prompt=p.prompt, completion=p.rejected, label=False) for p in pairs]


@pytest.fixture
def ranked(pairs: list[Record]) -> list[Record]:
    """Three answers to each of 12 prompts, the better the more it says."""
    said = [(assistant("No."), 1.0), (assistant("No idea at all, sorry."), 2.0)]
    return [
        Record(prompt=p.prompt, completion=text).scored(judge=score)
        for p in pairs
        for text, score in [*said, (p.completion or (), 4.0)]
    ]


@pytest.mark.parametrize("loss", PREFERENCE_LOSSES)
def test_every_loss_of_pairs_lowers_itself_and_raises_the_margin(
    loss: str, tiny: Path, pairs: list[Record], out: Path
) -> None:
    data = [p.scored(sure=0.95) for p in pairs] if loss == "soft_dpo" else pairs
    replace(FAST, loss=loss, **MORE.get(loss, {})).fit(data, student=tiny, out=out)
    told = metrics(out)
    assert told[-1]["loss"] < told[0]["loss"]
    assert told[-1]["margin"] > told[0]["margin"]
    assert told[-1]["accuracy"] == 1
    if PREFERENCE_LOSSES[loss].needs_reference:
        assert told[0]["margin"] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("loss", ["dpo", "kto", "rrhf"])
def test_held_out_records_are_looked_at_against_their_own_reference(
    loss: str, tiny: Path, pairs: list[Record], judged: list[Record], ranked: list[Record], tmp_path: Path
) -> None:
    records = {"dpo": pairs, "kto": judged, "rrhf": ranked}[loss]
    held_out = {r.id for r in records if r.prompt in [p.prompt for p in pairs[9:]]}
    write_dataset(tmp_path / "data", lambda: records, held_out=held_out, facts={})
    how = replace(FAST, loss=loss, eval_every=1, epochs=2)
    how.fit(Dataset(tmp_path / "data"), student=tiny, out=tmp_path / "model")
    first, *_, last = metrics(tmp_path / "model")
    assert last["held_out"] < first["held_out"]
    assert last["held_out_margin"] > first["held_out_margin"]
    assert last["held_out_accuracy"] > 0.8
    assert not (tmp_path / "model" / "reference.json").exists()


def test_a_loss_without_a_reference_asks_for_none(
    tiny: Path, pairs: list[Record], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdaug.train.preference.reference_logprobs", lambda *_: pytest.fail("it was asked"))
    replace(FAST, loss="simpo", epochs=1).fit(pairs, student=tiny, out=out)


def test_kto_likes_good_answers_more_and_bad_ones_less(tiny: Path, judged: list[Record], out: Path) -> None:
    replace(FAST, loss="kto", batch=6, accumulate=1).fit(judged, student=tiny, out=out)
    first, *_, last = metrics(out)
    assert first["loss"] == pytest.approx(0.5, abs=1e-4)  # 1 - σ(0)
    assert first["z0"] == pytest.approx(0, abs=1e-4)
    assert last["loss"] < 0.45
    assert last["chosen"] > 0 > last["rejected"]
    assert last["accuracy"] > 0.8
    assert last["z0"] >= 0


def test_kto_of_one_answer_a_pass_is_warned_of(
    tiny: Path, judged: list[Record], caplog: pytest.LogCaptureFixture
) -> None:
    chat = Chat.load(tiny)
    replace(FAST, loss="kto").encoded(judged, chat)
    assert not caplog.messages
    replace(FAST, loss="kto", batch=1).encoded(judged, chat)
    assert caplog.messages == ["kto with batch=1 takes z0 over one answer: raise batch (and lower accumulate)"]


def test_what_is_no_probability_is_refused_in_a_dry_run_too(tiny: Path, pairs: list[Record], out: Path) -> None:
    wrong = [p.scored(sure=0.5) for p in pairs[1:]] + [pairs[0].scored(sure=1.8)]
    with pytest.raises(ConfigError, match=f"{wrong[-1].id}: its score 'sure' is 1.8: a probability is 0 to 1"):
        replace(FAST, loss="soft_dpo", dry_run=True).fit(wrong, student=tiny, out=out)
    assert not out.exists()


def test_a_pair_of_the_same_answer_twice_is_left_out_and_said(
    tiny: Path, pairs: list[Record], out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    same = [replace(p, rejected=p.completion) for p in pairs[:2]]
    replace(FAST, epochs=1).fit([*same, *pairs[2:]], student=tiny, out=out)
    about = json.loads((out / "training.json").read_text())
    assert (about["records"], about["dropped"]) == (10, [p.id for p in same])
    assert f"2 of 12 pairs are left out: their chosen and rejected answers are the same ({same[0].id}" in caplog.text
    with pytest.raises(ConfigError, match="all 2 pairs have the same answer as chosen and as rejected"):
        FAST.fit(same, student=tiny, out=out.with_name("none"))


def test_kto_resumes_exactly(tiny: Path, judged: list[Record], tmp_path: Path) -> None:
    how = replace(FAST, loss="kto", epochs=2)
    how.fit(judged, student=tiny, out=tmp_path / "whole")

    def interrupt(step: Step) -> None:
        if step.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        how.fit(judged, student=tiny, out=tmp_path / "parts", on_step=interrupt)
    how.fit(judged, student=tiny, out=tmp_path / "parts")
    for part, whole in zip(metrics(tmp_path / "parts"), metrics(tmp_path / "whole"), strict=True):
        assert part["loss"] == pytest.approx(whole["loss"], abs=1e-5)
        assert part["z0"] == pytest.approx(whole["z0"], abs=1e-4)


def test_kto_learns_from_one_class_alone(
    tiny: Path, judged: list[Record], out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    replace(FAST, loss="kto").fit(judged[:12], student=tiny, out=out)
    assert "all 12 answers are good ones: kto learns from bad ones too" in caplog.messages
    first, *_, last = metrics(out)
    assert last["loss"] < first["loss"]
    assert last["rejected"] == 0  # there are none


def test_kto_weighs_the_rarer_kind_more_unless_told_otherwise(tiny: Path, judged: list[Record], tmp_path: Path) -> None:
    few_bad = judged[:12] + judged[-3:]
    once = replace(FAST, loss="kto", epochs=1)
    once.fit(few_bad, student=tiny, out=tmp_path / "balanced")
    facts = json.loads((tmp_path / "balanced" / "training.json").read_text())["facts"]
    assert (facts["desirable_weight"], facts["undesirable_weight"]) == (1.0, 4.0)
    replace(once, desirable_weight=2.0).fit(few_bad, student=tiny, out=tmp_path / "told")
    facts = json.loads((tmp_path / "told" / "training.json").read_text())["facts"]
    assert (facts["desirable_weight"], facts["undesirable_weight"]) == (2.0, 1.0)


def test_a_mismatch_is_the_prompt_with_an_answer_to_another_one(
    tiny: Path, judged: list[Record], caplog: pytest.LogCaptureFixture
) -> None:
    chat = Chat.load(tiny)
    again = [replace(r, completion=assistant(f"Not so number {n}."), label=False) for n, r in enumerate(judged[:3])]
    several = judged[:12] + again  # three prompts stand twice
    answers = [d for (d,) in encode(several, "unpaired", chat, 256).documents]
    found = mismatched(answers, 0, 256)
    for record, other in zip(several, found, strict=True):
        assert other is not None
        text = chat.tokenizer.decode(list(other.ids))
        assert chat.render(record.prompt, ask=True) in text
        assert (record.completion or ())[0].content not in text
        said = [token for token in other.targets if token != IGNORE]
        assert chat.tokenizer.decode(said) == text.removeprefix(chat.render(record.prompt, ask=True))
    assert not caplog.text
    alike = [d for d in answers if d.ids[:20] == answers[0].ids[:20]][:1] * 3
    assert mismatched(alike, 0, 256) == [None] * 3
    assert "all 3 answers are to one prompt" in caplog.text


@pytest.mark.parametrize("loss", ["rrhf", "pro"])
def test_a_ranked_list_is_learnt_in_its_order(loss: str, tiny: Path, ranked: list[Record], out: Path) -> None:
    replace(FAST, loss=loss).fit(ranked, student=tiny, out=out)
    first, *_, last = metrics(out)
    assert last["loss"] < first["loss"]
    assert last["margin"] > first["margin"]
    assert last["accuracy"] > 0.9
    assert first["tokens"] > 3 * 6  # six lists of three


def test_lists_that_rank_nothing_are_left_out(
    tiny: Path, ranked: list[Record], out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alone = Record(prompt=user("Alone?"), completion=assistant("Yes.")).scored(judge=1.0)
    tied = Record(prompt=ranked[0].prompt, completion=assistant("Not at all.")).scored(judge=1.0)
    replace(FAST, loss="pro", epochs=1).fit([*ranked, alone, tied], student=tiny, out=out)
    assert "2 of 38 answers are left out: 1 with nothing to rank them against, 1 with the score of an" in caplog.text
    with pytest.raises(ConfigError, match="none of 1 prompts has two completions"):
        replace(FAST, loss="rrhf").fit([alone], student=tiny, out=out.with_name("none"))


def test_the_score_that_ranks_must_be_there(tiny: Path, ranked: list[Record], answers: list[Record], out: Path) -> None:
    with pytest.raises(ConfigError, match=r'has no scores: .* such as "scores"'):
        replace(FAST, loss="rrhf").fit(answers, student=tiny, out=out)
    with pytest.raises(ConfigError, match=r"no score 'reward': say which is meant \(judge"):
        replace(FAST, loss="rrhf", score="reward").fit(ranked, student=tiny, out=out)
    both = [r.scored(length=1.0) for r in ranked]
    with pytest.raises(ConfigError, match=r"several scores: say which is meant \(judge, length\)"):
        replace(FAST, loss="rrhf").fit(both, student=tiny, out=out)
    replace(FAST, loss="rrhf", score="judge", epochs=1).fit(both, student=tiny, out=out)


@pytest.mark.parametrize(
    ("loss", "kind"), [("simpo", "completion"), ("kto", "preference"), ("rrhf", "unpaired"), ("dpo", "unpaired")]
)
def test_records_of_another_kind_are_one_clear_line(
    loss: str, kind: str, tiny: Path, answers: list[Record], pairs: list[Record], judged: list[Record], out: Path
) -> None:
    data = {"completion": answers, "preference": pairs, "unpaired": judged}[kind]
    ways = {"completion": "for SFT", "preference": "--loss dpo", "unpaired": "--loss kto"}
    with pytest.raises(ConfigError, match=f"is of kind '{kind}', not .*{ways[kind]}"):
        replace(FAST, loss=loss).fit(data, student=tiny, out=out)
    assert not out.exists()


def test_a_parameter_that_a_loss_does_not_have_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="simpo has no label_smoothing: it has beta, gamma_over_beta"):
        Preference(loss="simpo", label_smoothing=0.1)
    with pytest.raises(ConfigError, match="dpo has no score: soft_dpo, rrhf, pro learn from one"):
        Preference(score="judge")
    with pytest.raises(ConfigError, match="pro has no beta"):
        Preference(loss="pro", beta=0.1)
    with pytest.raises(ConfigError, match="give one of dpo"):
        Preference(loss="ppo")
    with pytest.raises(ConfigError, match="give a number above 0"):
        Preference(loss="simpo", beta=0.0)


def test_what_is_not_given_is_what_the_paper_has(tiny: Path, pairs: list[Record], out: Path) -> None:
    plain = {"epochs": 1, "length": 256, "batch": 6, "accumulate": 2}
    Preference(loss="simpo", **plain).fit(pairs, student=tiny, out=out)  # type: ignore[arg-type]  # of any field
    facts = json.loads((out / "training.json").read_text())["facts"]
    assert (facts["loss"], facts["beta"], facts["gamma_over_beta"]) == ("simpo", 2.0, 0.5)
    assert facts["lr"] == LEARNING_RATES["simpo"]
    assert facts.get("label_smoothing") is None


def test_dpo_is_its_alias_in_python_and_on_the_command_line(
    tiny: Path, pairs: list[Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert DPO().loss == "dpo"
    file = tmp_path / "pairs.jsonl"
    rows = [{"prompt": p.prompt, "chosen": p.completion or (), "rejected": p.rejected or ()} for p in pairs]
    file.write_text("\n".join(json.dumps({name: said[0].content for name, said in row.items()}) for row in rows))
    common = ["--data", str(file), "--student", str(tiny), "--length", "256", "--accumulate", "1"]
    assert main(["train", "dpo", *common, "--out", str(tmp_path / "dpo")]) == 0
    assert metrics(tmp_path / "dpo")[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    ipo = ["--loss", "ipo", "--beta", "0.5", "--no-length-normalise"]
    assert main(["train", "preference", *common, *ipo, "--out", str(tmp_path / "ipo")]) == 0
    assert metrics(tmp_path / "ipo")[0]["loss"] == pytest.approx(1.0, abs=1e-3)  # (0 - 1/2β)²
    assert main(["train", "preference", *common, "--loss", "ppo", "--out", str(tmp_path / "ppo")]) == 2
    assert "give one of dpo" in capsys.readouterr().err


def test_all_losses_have_a_name_of_their_own() -> None:
    assert len(set(LOSSES)) == len(LOSSES) == len(PREFERENCE_LOSSES) + 3
