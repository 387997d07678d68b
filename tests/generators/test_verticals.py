"""The recipes of four fields, on their own open texts: licences, refusals, benchmarks, and what the judge is told."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from kdaug import recipes
from kdaug.dataset import Dataset
from kdaug.progress import Log
from kdaug.read import read
from kdaug.recipe_file import load
from kdaug.record import text_of
from kdaug.running import execute
from kdaug.teacher import Request
from kdaug.teachers.fake import Fake

# A question and an answer that stands in the field's text, with a run of words from it.
PAIRS = {
    "law": ("When is the rent of 14 Quay Street due?", "On the third working day of the month."),
    "medicine": ("From which temperature does one speak of fever?", "From 38.0 °C, measured in the ear."),
    "finance": ("How much was the revenue of Lindqvist Bicycles?", "Revenue rose from 42.0 million to 47.3 million."),
    "science": ("How long is a lunar day?", "A lunar day of 24 hours and 50 minutes."),
}
EVIDENCE = {
    "law": "is due on the third working day of the month",
    "medicine": "From 38.0 °C, measured in the ear or the mouth",
    "finance": "Revenue rose from 42.0 million to 47.3 million",
    "science": "a lunar day of 24 hours and 50 minutes",
}
REFUSAL = "I'm sorry, but as an AI language model I cannot give advice on that."


def expert(field: str) -> Fake:
    """Writes a good pair and a refusal, on the piece that they are from; any other piece gets a wrong number."""

    def reply(request: Request) -> str:
        asked = request.messages[-1].content
        if "Score: n" in asked:
            return "Right.\nScore: 5" if PAIRS[field][1] in asked else "Wrong.\nScore: 1"
        (question, answer), evidence = PAIRS[field], EVIDENCE[field]
        good = {"question": question, "answer": answer, "evidence": evidence}
        return json.dumps({"pairs": [good, {**good, "answer": REFUSAL}, {**good, "answer": f"{answer} 777"}]})

    return Fake(reply)


def run(field: str, out: Path, *more_gates: object) -> tuple[Dataset, dict[str, int], Fake]:
    file, teacher = load(f"vertical-{field}"), expert(field)
    file.values["stages"][1]["gates"] += more_gates
    file.set("document_qa.support=0")
    recipe = recipes.build(file, read(recipes.seeds_of(file)))
    outcome = execute(recipe, out, {"teacher": teacher}, log=Log(quiet=True))
    assert outcome.error is None
    dropped: dict[str, int] = {}
    for stage in outcome.facts["stages"]:
        dropped |= stage["dropped"]
    return Dataset(out), dropped, teacher


@pytest.mark.parametrize("field", PAIRS)
def test_a_field_is_made_of_its_own_texts(field: str, tmp_path: Path) -> None:
    dataset, dropped, teacher = run(field, tmp_path / "run")
    (record,) = dataset
    assert text_of(record.completion) == PAIRS[field][1] and record.scores[field] == 5.0
    place = record.meta["document"]
    assert isinstance(place, dict) and place["licence"] == "CC0-1.0" and str(place["file"]).endswith(".md")
    assert any(reason.startswith("heuristics:refusal") for reason in dropped), dropped
    assert dropped["document_qa:number"] >= 1 and dropped["document_qa:not_in_document"] >= 1
    rubric = re.sub(r"\s+", " ", load(f"vertical-{field}").values["stages"][2]["gates"][0]["judge"]["rubric"]).strip()
    judged = [request.messages[-1].content for request in teacher.calls if "Score: n" in request.messages[-1].content]
    assert judged and all(rubric in re.sub(r"\s+", " ", asked) for asked in judged)


def test_a_question_of_a_benchmark_is_taken_out(tmp_path: Path) -> None:
    tests = tmp_path / "tests.jsonl"
    tests.write_text(json.dumps({"question": PAIRS["science"][0]}) + "\n", "utf-8")
    against = {"mine": {"data": str(tests), "columns": ["question"], "split": "train"}}
    dataset, dropped, _ = run("science", tmp_path / "run", {"decontaminate": {"against": against}})
    assert len(list(dataset)) == 0 and any(reason.startswith("decontaminate:") for reason in dropped), dropped
