"""What a student has seen in training of what it is measured by."""

from __future__ import annotations

import json
from pathlib import Path

from kdaug.dataset import write_dataset
from kdaug.record import Record, assistant, system, user
from kdaug.train.contamination import contamination, warnings

LONG = "Explain in a few plain sentences why the tide comes and goes twice a day at most of the coasts of the world."


def record(prompt: str, answer: str = "Well.") -> Record:
    return Record(
        prompt=(
            *system("You are a helpful assistant who knows the sea and the moon very well, and tides too."),
            *user(prompt),
        ),
        completion=assistant(answer),
    )


def test_exact_and_partial_overlaps_are_counted_apart() -> None:
    half = "Once more: explain in a few plain sentences why the tide comes and goes twice a day, or say you cannot."
    training = [record(LONG.upper()), record(half), record("Name a fish."), record("Something else altogether.")]
    measured = [record(LONG), record("Name a fish."), record("Name a bird.")]
    found = contamination(training, measured)
    # three prompts are measured by (the answers are short, the system message is everybody's); two of them are known
    assert (found.of, found.hit, found.whole, found.records) == (3, 2, 2, 3)
    assert found.longest.startswith("explain in a few plain sentences why the tide comes and goes")
    only_half = contamination([record(half)], measured)
    assert (only_half.hit, only_half.whole, only_half.records) == (1, 0, 1)


def test_twelve_words_in_a_row_are_no_overlap() -> None:
    twelve, thirteen = (" ".join(LONG.split()[:n]) + " or something that is not the same" for n in (12, 13))
    assert contamination([record(twelve)], [record(LONG)]).hit == 0
    assert contamination([record(thirteen)], [record(LONG)]).hit == 1


def test_a_long_answer_that_was_trained_on_is_one_too() -> None:
    training = [record("Quite another question.", LONG)]
    assert contamination(training, [record("Why?", LONG)]).hit == 1
    assert contamination([record("Quite another question.", "It is so.")], [record("Why?", "It is so.")]).hit == 0


def student(folder: Path, **about: object) -> Path:
    folder.mkdir()
    (folder / "training.json").write_text(json.dumps({"student": "smollm2", **about}, default=str))
    return folder


def test_students_are_held_against_their_training_data_and_that_of_their_base(tmp_path: Path) -> None:
    write_dataset(tmp_path / "runs", lambda: [record(LONG), record("Name a fish.")], facts={})
    first = student(tmp_path / "first", data={"source": str(tmp_path / "runs"), "split": "train"})
    second = student(tmp_path / "second", student=first, data={})
    unseen, seen = [record("Name a bird.")], [record(LONG), record("Name a bird.")]
    assert list(warnings("it", first, unseen)) == []
    (warning,) = warnings("it", first, seen)
    assert "trained on runs, of which 1 records overlap with 1 of the 2 prompts and answers" in warning
    unknown, of_base = warnings("it", second, seen)
    assert unknown.endswith("is not known: the records were handed in one by one")
    assert "1 records overlap with 1 of the 2" in of_base
    assert list(warnings("smollm2", Path("smollm2"), seen)) == []  # nobody knows what others were trained on


def test_training_data_that_are_gone_are_said_to_be(tmp_path: Path) -> None:
    gone = student(tmp_path / "m", data={"source": str(tmp_path / "gone.jsonl"), "split": "train"})
    (warning,) = warnings("it", gone, [record(LONG)])
    assert warning.endswith("gone.jsonl is no longer there")
