"""`--inspect`: exactly what is trained is marked, special tokens and line ends are seen, and nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdaug.chat import Chat
from kdaug.cli import main
from kdaug.record import Record, assistant, user
from kdaug.train.batching import encode
from kdaug.train.inspection import PLAIN, SEEN, SPECIAL, TRAINED, inspect
from kdaug.train.reward import RewardModel

RECORD = Record(prompt=user("Wet?"), completion=assistant("Yes.\nVery."))


def test_the_marks_stand_round_what_is_trained(tiny: Path) -> None:
    chat = Chat.load(tiny)
    said = inspect(encode([RECORD], "completion", chat, 128), chat, 5, colour=False)
    # The start of the turn is given, its end is the model's to say.
    assert "<|im_start|>user↵\nWet?<|im_end|>↵\n<|im_start|>assistant↵\n⟦Yes.↵\nVery.<|im_end|>⟧\n" in said
    assert f"record {RECORD.id}: 11 of 33 tokens trained" in said  # 10 letters and the end
    assert "1 records" in said and "0 records are cut" in said


def test_in_colour_special_tokens_stand_out(tiny: Path) -> None:
    chat = Chat.load(tiny)
    said = inspect(encode([RECORD], "completion", chat, 128), chat, 1, colour=True)
    assert f"{SEEN}{SPECIAL}<|im_start|>{PLAIN}" in said
    assert f"{TRAINED}Yes.↵\nVery.{PLAIN}{TRAINED}{SPECIAL}<|im_end|>{PLAIN}" in said


def test_control_characters_of_the_data_do_not_reach_the_terminal(tiny: Path) -> None:
    chat = Chat.load(tiny)
    record = Record(prompt=user("\x1b[31mred"), completion=assistant("Yes."))
    said = inspect(encode([record], "completion", chat, 128), chat, 1, colour=False)
    assert "\x1b" not in said
    assert r"\x1b[31mred" in said


def test_both_answers_of_a_pair_are_shown(tiny: Path, pairs: list[Record]) -> None:
    chat = Chat.load(tiny)
    said = inspect(encode(pairs, "preference", chat, 256), chat, 2, colour=False)
    assert said.count(", chosen:") == said.count(", rejected:") == said.count("⟦No idea at all, sorry.<|im_end|>⟧") == 2
    assert f"record {pairs[0].id}" in said and f"record {pairs[6].id}" in said  # spread over the data


def test_of_a_reward_the_token_is_marked_at_which_it_is_read(tiny: Path, pairs: list[Record]) -> None:
    chat = Chat.load(tiny)
    said = inspect(RewardModel(length=256).encoded(pairs, chat), chat, 1, colour=False)
    assert "No idea at all, sorry.<|im_end|>⟦↵\n⟧" in said and said.count("⟦") == 3  # of each answer, and the legend


def test_lists_are_shown_with_rank_and_score_and_what_the_loss_lacks_is_said(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data.jsonl"
    said = [("q", "Yes.", 1), ("q", "No.", 3), ("q", "Hm.", 1), ("r", "Alone.", 2)]
    rows = [{"prompt": asked, "completion": text, "scores": {"judge": score}} for asked, text, score in said]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["train", "preference", "--data", str(data), "--student", str(tiny), "--length", "64", "--inspect", "2"]
    assert main([*command, "--loss", "pro"]) == 0
    shown = capsys.readouterr().out
    assert (
        shown.index("rank 1, score 3:") < shown.index("⟦No.") < shown.index("rank 2, score 1:") < shown.index("⟦Yes.")
    )
    assert "1 prompts with 2 answers are ranked; 2 of 4 answers are left out: 1 with nothing" in shown
    assert "Hm." not in shown and "Alone." not in shown
    assert main([*command, "--loss", "rrhf", "--score", "nosuch"]) == 2
    assert "no score 'nosuch': say which is meant (judge)" in capsys.readouterr().err


def test_the_command_shows_and_trains_nothing(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"q{n}", "completion": "Yes."}) + "\n" for n in range(9)))
    command = ["train", "sft", "--data", str(data), "--student", str(tiny), "--out", str(tmp_path / "out")]
    assert main([*command, "--inspect", "3", "--length", "64"]) == 0
    said = capsys.readouterr().out
    assert said.count("⟦Yes.<|im_end|>⟧") == 3
    assert "9 records" in said
    assert not (tmp_path / "out").exists()
