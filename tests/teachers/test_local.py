"""The local teacher: a real model of 135M parameters answers and scores; the sampler and the errors need none."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from kdaug.calls import Closing
from kdaug.chat import split_thought
from kdaug.errors import BadRequest, ConfigError, ContextTooLong, TeacherUnavailable
from kdaug.generators.respond import Respond
from kdaug.models import find_model
from kdaug.progress import Log
from kdaug.recipe import Recipe
from kdaug.record import Record, assistant, system, user
from kdaug.running import execute
from kdaug.source import Each
from kdaug.stage import Stage
from kdaug.teacher import Completion, Request, Sampling, ScoringTeacher, TokenLogprobs
from kdaug.teachers.decoding import Sampler, shared_prefix
from kdaug.teachers.local import Local

T = TypeVar("T")
QUESTIONS = (
    "What is the capital of France?",
    "Say hello.",
    "Name three colours of the rainbow, separated by commas, and nothing else at all.",
    "Translate into Spanish: good morning",
)


def ask(prompt: str, tools: tuple[Any, ...] = (), nonce: int = 0, **sampling: Any) -> Request:
    return Request(user(prompt), Sampling(**{"temperature": 0.0, "max_tokens": 24, **sampling}), tools, nonce)


RUNNER = asyncio.Runner()  # one event loop for the whole file, as a teacher has one for its life


def run(what: Coroutine[Any, Any, T]) -> T:
    return RUNNER.run(what)


@pytest.fixture(scope="module", autouse=True)
def the_loop_ends() -> Iterator[None]:
    yield
    RUNNER.close()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """In float32, so that a batch changes no greedy choice."""
    teacher = Local(dtype="float32", batch=8)
    run(teacher.open(tmp_path_factory.mktemp("state")))
    yield teacher
    run(teacher.aclose())


def together(teacher: Local, *requests: Request) -> list[Completion]:
    async def all_of_them() -> list[Completion]:
        return await asyncio.gather(*map(teacher.generate, requests))

    return run(all_of_them())


@pytest.mark.slow
def test_it_answers(local: Local) -> None:
    (reply,) = together(local, ask("What is the capital of France?"))
    assert "Paris" in reply.text
    assert reply.finish_reason == "stop"
    assert local.name == "local:SmolLM2-135M-Instruct"
    assert isinstance(local, ScoringTeacher)


@pytest.mark.slow
def test_every_reply_of_a_batch_ends_by_itself(local: Local) -> None:
    paris, cut, more = together(
        local, ask("What is the capital of France?"), ask("Tell a long story.", max_tokens=3), ask("Tell a long story.")
    )
    assert (paris.finish_reason, cut.finish_reason, more.finish_reason) == ("stop", "length", "length")
    assert cut.cut and more.text.startswith(cut.text)
    # The words, and for what ended by itself the end of the turn: no padding.
    assert [r.usage.completion_tokens for r in (paris, cut, more)] == [8, 3, 24]
    assert cut.usage.prompt_tokens == more.usage.prompt_tokens > 20


@pytest.mark.slow
def test_a_batch_answers_as_each_alone_and_shrinks_as_its_rows_end(local: Local) -> None:
    alone = [together(local, ask(q))[0].text for q in QUESTIONS]
    rows: list[int] = []
    assert local._loaded is not None
    hook = local._loaded.model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    batch = [reply.text for reply in together(local, *map(ask, QUESTIONS))]
    hook.remove()
    assert batch == alone
    assert rows[0] == 4 and rows[-1] < 4 and rows == sorted(rows, reverse=True)


@pytest.mark.slow
def test_prompts_that_begin_alike_are_answered_as_each_alone(local: Local) -> None:
    examples = "\n".join(f"{a} and {b} make {a + b}." for a in range(1, 7) for b in range(1, 5))
    requests = [ask(f"{examples}\n{question}", max_tokens=12) for question in QUESTIONS]
    batch = together(local, *requests)
    alone = [together(local, request)[0] for request in requests]
    assert [reply.text for reply in batch] == [reply.text for reply in alone]
    assert len({reply.text for reply in batch}) > 1


def test_the_shared_beginning_leaves_each_prompt_a_token() -> None:
    long = list(range(100))
    assert shared_prefix([[*long, 1, 2], [*long, 3], [*long, 1]]) == 100
    assert shared_prefix([long, long]) == 99
    assert shared_prefix([long, [*long, 5]]) == 99
    assert shared_prefix([long]) == shared_prefix([long[:40], long[:40]]) == shared_prefix([[7], long]) == 0


@pytest.mark.slow
def test_a_stop_string_ends_the_reply_and_is_cut_off(local: Local) -> None:
    whole, stopped, other = together(
        local,
        ask("Count from 1 to 10."),
        ask("Count from 1 to 10.", stop=("never", "4")),
        ask("What is the capital of France?", stop=(" is Paris",)),  # of several tokens
    )
    assert "4" in whole.text
    assert stopped.text == whole.text[: whole.text.index("4")]
    assert (stopped.finish_reason, other.finish_reason) == ("stop", "stop")
    assert stopped.usage.completion_tokens < whole.usage.completion_tokens
    assert other.text == "The capital of France"


@pytest.mark.slow
def test_a_prompt_that_is_too_long_fails_alone(local: Local) -> None:
    async def some_fail() -> list[Completion | BaseException]:
        requests = (ask("Hi"), ask("word " * 9000), ask("Hi", max_tokens=8192), ask("What is the capital of France?"))
        return await asyncio.gather(*map(local.generate, requests), return_exceptions=True)

    good, long, greedy, paris = run(some_fail())
    assert isinstance(good, Completion) and isinstance(paris, Completion) and "Paris" in paris.text
    for error in (long, greedy):
        assert isinstance(error, ContextTooLong)
        assert "more than the context of 8192" in str(error) and error.request is not None


@pytest.mark.slow
def test_sampling_follows_the_seed_else_the_nonce(local: Local) -> None:
    def story(nonce: int, seed: int | None = None) -> Request:
        return ask("Tell a story.", nonce=nonce, temperature=1.0, seed=seed)

    first, again, other = together(local, story(1), story(1), story(2))
    assert first.text == again.text != other.text
    seeded, same = together(local, story(1, seed=7), story(2, seed=7))
    assert seeded.text == same.text


@pytest.mark.slow
def test_a_frequency_penalty_keeps_it_from_repeating(local: Local) -> None:
    plain, varied = together(
        local,
        ask("Write the word dog forty times.", max_tokens=48),
        ask("Write the word dog forty times.", max_tokens=48, frequency_penalty=2.0, presence_penalty=2.0),
    )
    assert most_frequent(plain.text) > most_frequent(varied.text)


def most_frequent(text: str) -> int:
    words = text.lower().split()
    return max(words.count(w) for w in words)


@pytest.mark.slow
def test_scores_agree_with_transformers(local: Local) -> None:
    import torch

    prompt = system("Be brief.") + user("What is the capital of Italy?")
    answer = assistant("It is Rome, of course.")
    assert local._loaded is not None
    model, tokenizer = local._loaded.model, local._loaded.chat.tokenizer
    plain = [m.to_json() for m in prompt]
    before = tokenizer.apply_chat_template(plain, add_generation_prompt=True, return_dict=False)
    after = tokenizer("It is Rome, of course.<|im_end|>")["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([before + after])).logits[0, len(before) - 1 : -1].float()
    expected = logits.log_softmax(-1)

    async def in_a_batch() -> list[TokenLogprobs]:
        longer = user("Say something long, please, as you like it."), assistant("No. " * 20)
        return await asyncio.gather(local.logprobs(prompt, answer, 5), local.logprobs(*longer, 5))

    view, _ = run(in_a_batch())
    assert view.token_ids.tolist() == after
    assert view.token_logprobs.dtype == np.float32
    direct = expected.gather(1, torch.tensor(after)[:, None]).squeeze(1)
    np.testing.assert_allclose(view.token_logprobs, direct, atol=1e-4)
    assert view.token_logprobs.sum() == pytest.approx(float(direct.sum()), abs=1e-3)
    assert view.top_ids.tolist() == expected.topk(5).indices.tolist()
    np.testing.assert_allclose(view.residual, 1 - np.exp(view.top_logprobs).sum(-1), atol=1e-5)
    none = run(local.logprobs(prompt, answer, 0))
    assert none.top_ids.shape == none.top_logprobs.shape == (len(after), 0)
    np.testing.assert_allclose(none.residual, 1.0)


@pytest.mark.slow
def test_the_likeliest_token_is_the_one_that_a_greedy_answer_takes(local: Local) -> None:
    question = "What is the capital of France?"
    (reply,) = together(local, ask(question, logprobs=4))
    assert reply.logprobs is not None
    assert reply.logprobs.token_ids.tolist() == reply.logprobs.top_ids[:, 0].tolist()
    assert len(reply.logprobs.token_ids) == reply.usage.completion_tokens
    scored = run(local.logprobs(user(question), assistant(reply.text), 4))
    assert scored.token_ids.tolist() == reply.logprobs.token_ids.tolist()  # the end of the turn included
    np.testing.assert_allclose(scored.top_logprobs, reply.logprobs.top_logprobs, atol=1e-3)


@pytest.mark.slow
def test_at_the_end_of_a_run_nobody_waits_for_a_batch(tmp_path: Path) -> None:
    seeds = [Record(prompt=user(f"Tell me a story about {n} ships.")) for n in range(8)]
    recipe = Recipe(Each(seeds), [Stage(Respond(max_tokens=24, keep_cut=True))], target=1)
    outcome = execute(recipe, tmp_path / "run", {"teacher": Local(batch=2)}, log=Log(quiet=True))
    assert outcome.exit_code == 0 and outcome.facts["kept"] == 1
    assert outcome.facts["usage"]["local:SmolLM2-135M-Instruct"]["calls"] <= 4  # the others are not computed
    more = Recipe(Each(seeds), recipe.stages, target=3)
    assert execute(more, tmp_path / "run", {"teacher": Local(batch=2)}, log=Log(quiet=True)).facts["kept"] == 3


@pytest.mark.slow
def test_what_it_cannot_do_is_said_before_anything_is_computed(local: Local) -> None:
    with pytest.raises(ConfigError, match="tool calls"):
        together(local, ask("What is 1 + 1?", tools=({"type": "function"},)))
    with pytest.raises(BadRequest, match="only one message of the assistant"):
        run(local.logprobs(user("Hi"), user("Hi"), 1))
    with pytest.raises(TeacherUnavailable, match="not open"):
        together(Local(), ask("Hi"))


@pytest.mark.slow
def test_closing_gives_up_what_is_being_computed(tmp_path: Path) -> None:
    async def close_early() -> list[Completion | BaseException]:
        teacher = Local(batch=2)
        await teacher.open(tmp_path)
        calls = [asyncio.create_task(teacher.generate(ask("Tell a story.", max_tokens=8000))) for _ in range(3)]
        await asyncio.sleep(1)
        await teacher.aclose()
        return await asyncio.gather(*calls, return_exceptions=True)

    assert all(isinstance(end, Closing) for end in run(close_early()))


def chosen(logits: list[float], times: int = 1, **sampling: Any) -> list[int]:
    """What is chosen of these logits by evenly spread random numbers."""
    import torch

    sampler = Sampler.of([Sampling(**sampling)] * times, len(logits), "cpu")
    uniform = [(i + 0.5) / times for i in range(times)]
    return [int(i) for i in sampler.choose(torch.tensor([logits] * times), uniform)]


def test_it_samples_by_probability() -> None:
    logits = np.log([0.5, 0.3, 0.2]).tolist()
    counts = np.bincount(chosen(logits, 1000))
    assert counts.tolist() == [500, 300, 200]
    halved = np.sqrt([0.5, 0.3, 0.2])  # temperature 2
    assert np.bincount(chosen(logits, 1000, temperature=2.0)) == pytest.approx(1000 * halved / halved.sum(), abs=1)
    assert chosen(logits, temperature=0.0) == [0]


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.5, {0}), (0.51, {0, 1}), (0.8, {0, 1}), (0.81, {0, 1, 2}), (1.0, {0, 1, 2})]
)
def test_top_p_keeps_the_fewest_likeliest_tokens_that_hold_it(top_p: float, kept: set[int]) -> None:
    assert set(chosen(np.log([0.5, 0.3, 0.2]).tolist(), 100, top_p=top_p)) == kept


def test_top_p_sees_past_the_likeliest_thousand() -> None:
    flat = chosen([0.0] * 4000, 400, top_p=0.5)
    assert len(set(flat)) == 400


def test_rows_of_one_batch_are_sampled_each_by_its_own_settings() -> None:
    import torch

    sampler = Sampler.of([Sampling(temperature=0.0), Sampling(), Sampling(top_p=0.4)], 3, "cpu")
    logits = torch.tensor([[0.5, 0.3, 0.2]] * 3).log()
    assert sampler.choose(logits, [0.99] * 3).tolist() == [0, 2, 0]
    assert sampler.only(torch.tensor([1, 2])).choose(logits[1:], [0.99] * 2).tolist() == [2, 0]


def test_penalties_count_the_replys_own_tokens() -> None:
    import torch

    sampler = Sampler.of([Sampling(temperature=0.0, presence_penalty=0.5, frequency_penalty=0.3)], 3, "cpu")
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    # 2.0, then 2 - .8 = 1.2, then 2 - 1.1 = .9 against 1.0, then 1 - .8 = .2 against .9, and 2 - 1.4 = .6 against .2.
    assert [int(sampler.choose(logits, [0.0])[0]) for _ in range(5)] == [0, 0, 1, 0, 0]


@pytest.mark.slow
def test_a_thought_that_the_prompt_opens_is_no_answer(tmp_path: Path) -> None:
    """The embedded model with a template that ends as that of a reasoning model does: cut off, it never answered."""
    folder = tmp_path / "thinker"
    shutil.copytree(find_model(None).path, folder)
    template = folder / "chat_template.jinja"
    template.unlink(missing_ok=True)
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    told = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    settings["chat_template"] = told + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    teacher = Local(str(folder))
    run(teacher.open(tmp_path))
    (reply,) = together(teacher, ask("What is 1 + 1?", max_tokens=4))
    run(teacher.aclose())
    assert reply.cut
    assert reply.text == ""
    assert reply.reasoning


def test_a_thought_is_kept_apart() -> None:
    assert split_thought("<think>\nHm, 2.\n</think>\n\n4") == ("Hm, 2.", "4")
    assert split_thought("Hm.</think>4") == ("Hm.", "4")  # the prompt had opened it
    assert split_thought("<think>\nHm, 2") == ("Hm, 2", "")
    assert split_thought("Hm, 2", opened=True) == ("Hm, 2", "")
    assert split_thought("Hm.</think>4", opened=True) == ("Hm.", "4")
    assert split_thought(" 4 is <b>it</b>") == ("", " 4 is <b>it</b>")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A model of a few weights, complete but for its chat template."""
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    config = LlamaConfig(
        vocab_size=3,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "tiny")
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "<end>": 2}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>").save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_a_model_without_a_chat_template_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no chat template"):
        run(Local(str(tiny)).open(tmp_path))


def test_broken_weights_are_one_line(tiny: Path, tmp_path: Path) -> None:
    (tiny / "chat_template.jinja").write_text("{{ messages }}")
    (tiny / "model.safetensors").write_bytes((tiny / "model.safetensors").read_bytes()[:50])
    with pytest.raises(ConfigError, match="cannot be loaded") as caught:
        run(Local(str(tiny)).open(tmp_path))
    assert "\n" not in str(caught.value)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="dtype='int8'"):
        Local("org/model", dtype="int8")
    with pytest.raises(ConfigError, match="batch=0"):
        Local("org/model", batch=0)
    assert Local("org/model", batch=16).concurrency == 32
    assert Local("org/model").name == "local:org/model"
