"""What is made of documents: each record is held against its piece."""

from __future__ import annotations

import asyncio
import json
from random import Random
from typing import Any

import pytest
from scripted import Scripted, in_turn

from kdaug.errors import BadRequest, ConfigError, ParseError
from kdaug.gates.same_text import SameText
from kdaug.generators.agent_instruct import SEED_TYPES, TRANSFORMERS, AgentInstruct, flows_of
from kdaug.generators.document_qa import DocumentQA
from kdaug.generators.document_summary import DocumentSummary
from kdaug.generators.humpback import WEB_TAG, Humpback, Swap, Tag
from kdaug.generators.oss_instruct import OssInstruct
from kdaug.record import Discarded, Record, assistant, text_of, user
from kdaug.teacher import Completion

TEXT = "The rent is 840 a month and is due on the third working day, in advance. Heating is not part of it."
PIECE = Record(prompt=user(TEXT), meta={"document": {"file": "a.md", "start": 5, "end": 104}})


def run(generator: Any, piece: Record, *answers: Any) -> tuple[list[Any], Scripted]:
    generate = Scripted(in_turn(*answers))
    return list(asyncio.run(generator([piece], generate, Random(0)))), generate


def reason(made: Any) -> str:
    return made.drop.reason if isinstance(made, Discarded) else "kept"


def pair(**given: str) -> str:
    usual = {
        "question": "When is the rent of the model lease due?",
        "answer": "On the third working day.",
        "evidence": "is due on the third working day",
    }
    return json.dumps({"pairs": [{**usual, **given}]})


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "kept"),
        ({"evidence": "is due on the third day"}, "document_qa:not_in_document"),
        ({"evidence": "rent"}, "document_qa:not_in_document"),
        ({"answer": "On the third working day, 850."}, "document_qa:number"),
        ({"answer": "Whenever the landlord happens to remember."}, "document_qa:unsupported"),
        ({"question": "What does the text say of the rent?"}, "document_qa:points_at_document"),
        ({"answer": " "}, "document_qa:empty"),
    ],
)
def test_an_answer_is_held_against_its_piece(given: dict[str, str], told: str) -> None:
    (made,), _ = run(DocumentQA(), PIECE, pair(**given))
    assert reason(made) == told


def test_a_pair_keeps_its_place_and_with_context_its_piece() -> None:
    (made,), generate = run(DocumentQA(), PIECE, pair())
    assert made.meta == PIECE.meta and made.parents == (PIECE.id,) and text_of(made.prompt).startswith("When")
    assert TEXT in generate.prompts[0] and generate.calls[0].sampling["schema"]["properties"]["pairs"]["maxItems"] == 3
    (made,), _ = run(DocumentQA(context=True), PIECE, pair(question="What does the text say of the rent?"))
    assert text_of(made.prompt) == f"{TEXT}\n\nWhat does the text say of the rent?"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("Rent comes early each month and excludes warmth.", "kept"),
        ("Rent is 850.", "document_summary:number"),
        (TEXT, "document_summary:long"),
        ("", "document_summary:empty"),
        (Completion("Rent comes", finish_reason="length"), "document_summary:cut"),
    ],
)
def test_a_summary_makes_nothing_up_and_is_shorter(answer: Any, told: str) -> None:
    (made,), _ = run(DocumentSummary(), PIECE, answer)
    assert reason(made) == told


def test_a_summary_that_copies_is_none() -> None:
    (made,), _ = run(DocumentSummary(copied=5), PIECE, "It is due on the third working day.")
    assert (
        made.drop.reason == "document_summary:copied" and made.drop.detail["run"] == "is due on the third working day"
    )


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        ("## Problem description\nAdd two.\n\n## Solution\ndef add(a, b): ...", "kept"),
        ("Sure!\n**PROBLEM DESCRIPTION:** Add two.\n### solution:\nx", "kept"),
        ("## Problem description\nCopy it.\n## Solution\nx =  1", "oss_instruct:snippet"),
    ],
)
def test_a_problem_and_its_solution(reply: str, told: str) -> None:
    (made,), _ = run(OssInstruct(), Record(prompt=user("x = 1")), reply)
    assert reason(made) == told


@pytest.mark.parametrize(
    "reply", ["## Solution\nx\n## Problem description\ny", "## Problem description\n## Solution\nx", "x"]
)
def test_headings_that_are_missing_swapped_or_empty_drop_the_reply(reply: str) -> None:
    with pytest.raises(ParseError, match="problem and solution"):
        run(OssInstruct(), PIECE, reply)


def test_only_a_reply_that_ended_by_itself_counts() -> None:
    text = "## Problem description\nAdd.\n## Solution\nx"
    (made,), generate = run(OssInstruct(), PIECE, Completion(text, finish_reason="length"))
    assert made.drop.reason == "oss_instruct:cut"
    assert generate.calls[0].sampling == {"temperature": 0.0, "max_tokens": 2500}


def test_the_same_text_but_for_white_space_is_dropped() -> None:
    gate = SameText().start(())
    told = []
    for prompt, answer in [("a b", "c"), ("ab ", "d"), ("e", "c\n"), ("c", "a b")]:
        record = Record(prompt=user(prompt), completion=assistant(answer))
        prepared = asyncio.run(gate.prepare(record, Scripted(in_turn())))
        drop = gate.decide(prepared)
        told.append(drop.reason if drop else "kept")
        if not drop:
            gate.remember(prepared)
    assert told == ["kept", "same_text:prompt", "same_text:completion", "kept"]


SEGMENT = Record(prompt=user("A text. " * 100), meta={"document": {"file": "b.md"}})


def humpback(*answers: Any, segment: Record = SEGMENT, **fields: Any) -> tuple[Any, Scripted]:
    (made,), generate = run(Humpback(**fields), segment, *answers)
    return made, generate


def test_the_backward_model_writes_and_another_one_judges() -> None:
    made, generate = humpback("Tell me about texts.", "Fine.\nScore: 5")
    assert [call.role for call in generate.calls] == ["backward", "judge"]
    assert made.prompt[0].content == WEB_TAG and made.prompt[1].content == "Tell me about texts."
    assert text_of(made.completion) == text_of(SEGMENT.prompt) and made.scores == {"humpback": 5.0}
    assert WEB_TAG not in generate.prompts[1]  # what is judged is the pair alone
    _, generate = humpback("Tell me about texts.", "Score: 5", trained=True)
    assert generate.prompts[0] == text_of(SEGMENT.prompt)


@pytest.mark.parametrize(
    ("mark", "a5", "a4"),
    [
        ("Score: 5", "kept", "kept"),
        ("Score: 4", "humpback:low", "kept"),
        ("Score: 4/5", "humpback:low", "kept"),
        ("Score: 3", "humpback:low", "humpback:low"),
    ],
)
def test_a5_is_part_of_a4(mark: str, a5: str, a4: str) -> None:
    assert reason(humpback("Tell me about texts.", mark)[0]) == a5
    assert reason(humpback("Tell me about texts.", mark, min=4.0)[0]) == a4


@pytest.mark.parametrize("mark", ["Score: 42", "762", "good", "Score: 4.5"])
def test_a_mark_that_is_none_is_no_number(mark: str) -> None:
    with pytest.raises(ParseError):
        humpback("Tell me about texts.", mark)


def test_lengths_and_cut_instructions() -> None:
    assert reason(humpback(segment=PIECE)[0]) == "humpback:segment_length"
    assert reason(humpback("Why?")[0]) == "humpback:length"
    assert reason(humpback(Completion("Tell me about", finish_reason="length"))[0]) == "humpback:cut"


def test_seeds_are_swapped_and_tagged() -> None:
    seed = Record(prompt=user("Why?"), completion=assistant("Because."))
    (swapped,), _ = run(Swap(), seed)
    assert (text_of(swapped.prompt), text_of(swapped.completion)) == ("Because.", "Why?")
    (tagged,), _ = run(Tag("Be kind."), seed)
    assert [m.content for m in tagged.prompt] == ["Be kind.", "Why?"] and tagged.completion == seed.completion


def test_a_flow_joins_what_fits() -> None:
    flows = flows_of(tuple(TRANSFORMERS), tuple(SEED_TYPES))
    assert len(flows) == len(set(flows)) == 52
    assert ("debate", "order") not in flows and ("facts", "order") in flows
    with pytest.raises(ConfigError, match="no flow"):
        AgentInstruct(transformers=("debate",), types=("order",))


def test_each_record_is_of_one_flow_and_flows_are_different() -> None:
    def agents(role: str, prompt: str, sampling: dict[str, Any]) -> str:
        return next(
            t for k, t in {"Turn it": "T", "by the suggestion": "I2", "Suggest": "S", "": "I"}.items() if k in prompt
        )

    generate = Scripted(agents)
    made = list(asyncio.run(AgentInstruct(flows=8, refinements=2)([PIECE], generate, Random(0))))
    assert len({m.by for m in made}) == 8 and len(generate.calls) == 8 * 6
    for record in made:
        assert isinstance(record, Record)
        _, transformer, seed, refinements = record.by.split("/")
        assert (transformer, seed) in flows_of((transformer,), (seed,)) and refinements == "2"
        assert text_of(record.prompt) == "T\n\nI2" and len(record.replies) == 6 and record.meta["document"]


def test_a_flow_that_fails_is_a_drop_of_its_own() -> None:
    def agents(role: str, prompt: str, sampling: dict[str, Any]) -> Any:
        if "Turn it" not in prompt:
            return "Fine."
        return (
            BadRequest("no")
            if "debate" in prompt
            else Completion("T", finish_reason="length" if "prose" in prompt else "stop")
        )

    agent = AgentInstruct(flows=3, refinements=0, transformers=("debate", "passage", "minutes"), types=("literal",))
    made = list(asyncio.run(agent([PIECE], Scripted(agents), Random(0))))
    assert sorted(map(reason, made)) == ["agent_instruct:cut", "kept", "teacher:bad_request"]
