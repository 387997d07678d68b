"""Reward and toxicity, on tiny models with random weights: what transformers computes, in any company."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from scripted import Scripted, in_turn

from kdaug.errors import ConfigError
from kdaug.gate import Gate, Prepared
from kdaug.gates.reward import Reward
from kdaug.gates.toxicity import Toxicity, probabilities
from kdaug.record import Record, assistant, user

WORDS = ["a", "good", "bad", "river", "rhine", "name", "tell", "me", "of", "the", "is", "it", "long", "and", "cold"]
RECORDS = [
    Record(prompt=user("name a river"), completion=assistant("the rhine")),
    Record(prompt=user("tell me of it"), completion=assistant("it is long and cold and the rhine is a good river")),
    Record(prompt=user("name it"), completion=assistant("bad"), rejected=assistant("good")),
]


def model(folder: Path, labels: int, *, seed: int = 0, **more: object) -> Path:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    tokens = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    raw = Tokenizer(models.WordLevel(tokens, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokens),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=24,
        num_labels=labels,
        initializer_range=0.5,
        **more,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model(tmp_path_factory.mktemp("reward"), 1)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = {0: "fine", 1: "toxic", 2: "obscene"}
    return model(tmp_path_factory.mktemp("labelled"), 3, id2label=names, problem_type="single_label_classification")


def prepared(gate: Gate, records: list[Record]) -> list[Prepared]:
    live, nobody = gate.start(()), Scripted(in_turn())

    async def all_of_them() -> list[Prepared]:
        return list(await asyncio.gather(*(live.prepare(r, nobody) for r in records)))

    return asyncio.run(all_of_them())


@pytest.mark.slow
def test_a_reward_is_the_models_own_output_in_any_company(reward: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(reward)
    direct = AutoModelForSequenceClassification.from_pretrained(reward).eval()
    together = prepared(Reward(str(reward)), RECORDS)
    for record, found in zip(RECORDS, together, strict=True):
        assert found.record.scores == prepared(Reward(str(reward)), [record])[0].record.scores
        assert record.completion is not None
        asked = tokenizer(record.prompt[0].content, record.completion[0].content, return_tensors="pt")
        assert asked["token_type_ids"].sum() > 0  # which of the two texts: this model looks at it
        with torch.inference_mode():
            assert found.record.scores["reward"] == pytest.approx(float(direct(**asked).logits), abs=2e-4)
    assert "reward_margin" in together[2].record.scores and "reward_margin" not in together[0].record.scores


@pytest.mark.slow
def test_what_is_low_or_cannot_be_scored_is_dropped(reward: Path) -> None:
    scores = [p.record.scores for p in prepared(Reward(str(reward)), RECORDS)]
    for bound in (scores[0]["reward"], scores[0]["reward"] + 0.01):
        gate = Reward(str(reward), min=bound)
        drop = gate.decide(prepared(gate, RECORDS[:1])[0])
        assert (drop is None) == (bound == scores[0]["reward"])
    gate = Reward(str(reward), min_margin=scores[2]["reward_margin"] + 1)
    drop = gate.decide(prepared(gate, RECORDS[2:])[0])
    assert drop is not None and drop.reason == "reward:margin"
    long = Record(prompt=user("name a river"), completion=assistant("the rhine " * 20))
    reasons = [gate.decide(p) for p in prepared(gate, [long, Record(prompt=user("name it"))])]
    assert [r.reason for r in reasons if r] == ["reward:too_long", "reward:no_answer"]


@pytest.mark.slow
def test_an_unwanted_label_drops(labelled: Path) -> None:
    (found,) = prepared(Toxicity(str(labelled), unwanted=("toxic", "obscene"), max=0.0), RECORDS[:1])
    drop = Toxicity(str(labelled)).decide(found)
    assert drop is not None and drop.reason == "toxicity:unwanted"
    assert found.record.scores["nontoxic"] == pytest.approx(1 - float(str(drop.detail["score"])))
    (kept,) = prepared(Toxicity(str(labelled), max=1.0), RECORDS[:1])
    assert Toxicity(str(labelled)).decide(kept) is None
    (empty,) = prepared(Toxicity(str(labelled)), [Record(prompt=user("name it"))])
    drop = Toxicity(str(labelled)).decide(empty)
    assert drop is not None and drop.reason == "toxicity:empty"


@pytest.mark.slow
def test_a_model_of_another_kind_is_refused_before_the_run(reward: Path, labelled: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="3 outputs"):
        Reward(str(labelled)).start(())
    with pytest.raises(ConfigError, match="fine, toxic, obscene"):
        Toxicity(str(labelled), unwanted=("rude",)).start(())
    with pytest.raises(ConfigError, match="no model"):
        Reward(str(tmp_path)).start(())


def test_probabilities_by_hand() -> None:
    assert probabilities([0.0, 0.0], False) == [0.5, 0.5]
    assert probabilities([0.0, 1.0986122886681098], False) == pytest.approx([0.25, 0.75])
    assert probabilities([0.0, -1000.0, 1000.0], True) == [0.5, 0.0, 1.0]
