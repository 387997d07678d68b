"""Magpie: the template up to the user's header, byte for byte, and what comes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from scripted import Scripted, in_turn

from kdaug.chat import Chat
from kdaug.errors import BadRequest, ConfigError
from kdaug.generator import Generate
from kdaug.generators.magpie import Magpie, sanitized
from kdaug.progress import Log
from kdaug.prompts import render
from kdaug.recipe import Recipe, check_roles
from kdaug.record import Discarded, Record, assistant, system, user
from kdaug.running import execute
from kdaug.source import Each
from kdaug.stage import Stage
from kdaug.teacher import Completion, Request
from kdaug.teachers.fake import Fake
from kdaug.teachers.openai import OpenAI

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OWN_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    + CHATML
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}</s>{% else %}{{ raise_exception('no system') }}{% endif %}"
    "{% endfor %}"
)


@dataclass
class Tokenizer:
    """What `Chat` needs of one: a template, and letters for tokens."""

    chat_template: str
    bos_token: str | None = "<s>"

    def apply_chat_template(self, messages: Any, *, add_generation_prompt: bool, **_: Any) -> str:
        def fail(why: str) -> None:
            from jinja2 import TemplateError

            raise TemplateError(why)

        template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(self.chat_template)
        return template.render(
            messages=messages,
            add_generation_prompt=add_generation_prompt,
            bos_token=self.bos_token or "",
            raise_exception=fail,
        )


@pytest.mark.parametrize(
    ("template", "bos", "prefix"),
    [
        (CHATML, None, "<|im_start|>user\n"),
        (OWN_SYSTEM, None, "<|im_start|>user\n"),
        (OWN_SYSTEM, "<|im_start|>", "<|im_start|>user\n"),  # SmolLM2
        ("{{ bos_token }}" + OWN_SYSTEM, "<s>", "<s><|im_start|>user\n"),
        (LLAMA3, "<|begin_of_text|>", "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n"),
        (MISTRAL, "<s>", "<s>[INST] "),
    ],
)
def test_the_prefix_is_the_templates_own_up_to_the_users_words(template: str, bos: str | None, prefix: str) -> None:
    chat = Chat("test", Tokenizer(template, bos), (0,))
    assert chat.open_user() == prefix
    if "helpful" not in template:
        empty = chat.render(user(""))
        assert empty.startswith(prefix)


def test_a_system_message_that_is_given_and_earlier_turns_stay() -> None:
    chat = Chat("test", Tokenizer(OWN_SYSTEM, None), (0,))
    steered = chat.open_user(system("Be odd."))
    assert steered == "<|im_start|>system\nBe odd.<|im_end|>\n<|im_start|>user\n"
    later = chat.open_user((*system("S"), *user("U"), *assistant("A")))
    assert later.endswith("U<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\n")


SEED = Record(prompt=user("shown to nobody"))


def run(*answers: Any, seed: Record = SEED, **fields: Any) -> tuple[list[Any], Scripted]:
    generate = Scripted(in_turn(*answers))
    return list(asyncio.run(Magpie(**{"samples": 1, **fields})([seed], generate, Random(0)))), generate


def test_nothing_is_shown_and_nothing_of_the_seed_is_kept() -> None:
    (made,), generate = run(" Why is the sky blue? ")
    call = generate.calls[0]
    assert call.messages == () and call.sampling["continues"] == "user"
    assert call.sampling["temperature"] == 1.0 and "\n" in call.sampling["stop"] and "[INST]" in call.sampling["stop"]
    assert made.prompt == user("Why is the sky blue?") and made.meta == {} and made.roots == (SEED.id,)
    steered = Record(prompt=(*system("Be a cook."), *user("x")))
    (made,), generate = run("How long do eggs boil?", seed=steered)
    assert generate.calls[0].messages == system("Be a cook.") and made.prompt == user("How long do eggs boil?")


def test_further_turns_are_steered_by_a_message_that_is_not_kept() -> None:
    (made,), generate = run("Name a river.", "The Rhine.", "And a longer one?", turns=2)
    assert [m.content for m in made.prompt] == ["Name a river.", "The Rhine.", "And a longer one?"]
    first, answered, second = generate.calls
    assert answered.sampling == {"temperature": 0.0, "max_tokens": 4096} and "continues" not in answered.sampling
    assert second.messages[0].content == render("magpie/next_turn") and second.sampling["continues"] == "user"
    assert len(made.replies) == 3 and first.messages == ()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "magpie:empty"),
        ("Translate this:", "magpie:trailing_colon"),
        (Completion("Write a", finish_reason="length"), "magpie:cut"),
        (BadRequest("no"), None),
    ],
)
def test_what_is_no_instruction_is_discarded(answer: Any, reason: str | None) -> None:
    if reason is None:
        made, _ = run(answer, "Fine?", samples=2)
        assert [isinstance(m, Discarded) for m in made] == [True, False]
    else:
        (made,), _ = run(answer)
        assert made.drop.reason == reason


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Task: Write a poem.", "Write a poem."),
        ("Question 3: What is it? It is a bird.", "What is it?"),
        ("**Problem:** Add 1 and 2.\nAnswer: 3", "Add 1 and 2."),
        ("Solve x + 1 = 2.\nStep 1: subtract", "Solve x + 1 = 2."),
        ("Is **bold** text kept?", "Is **bold** text kept?"),
        ("Task: Question: Why", "Why"),
    ],
)
def test_the_sanitizer_cuts_labels_and_answers_and_is_idempotent(text: str, clean: str) -> None:
    assert sanitized(text) == sanitized(clean) == clean


def test_a_teacher_behind_a_chat_api_is_refused_before_any_call() -> None:
    recipe = Recipe(Each([SEED]), [Stage(Magpie())])
    with pytest.raises(ConfigError, match="cannot go on from a bare text"):
        check_roles(recipe, {"teacher": OpenAI("m", base_url="http://127.0.0.1:9/v1")})
    check_roles(recipe, {"teacher": Fake()})


class Undeclared:
    """A generator that goes on from a bare text and does not say so."""

    name, roles = "undeclared", ("teacher",)

    async def __call__(self, parents: Sequence[Record], generate: Generate, rng: Random) -> list[Record]:
        reply = await generate("Once upon a time", continues="text")
        return [parents[0].child(by=self.name, replies=[reply], completion=assistant(reply.text))]


@dataclass(eq=False)
class ChatOnly(Fake):
    """A teacher that takes messages alone."""

    raw_prompt: ClassVar[bool] = False


def test_a_part_that_does_not_say_so_is_refused_at_its_call(tmp_path: Path) -> None:
    recipe = Recipe(Each([SEED]), [Stage(Undeclared())])
    outcome = execute(recipe, tmp_path / "no", {"teacher": ChatOnly()}, log=Log(quiet=True))
    assert isinstance(outcome.error, ConfigError) and "cannot go on from a bare text" in str(outcome.error)
    fake = Fake()
    assert execute(recipe, tmp_path / "yes", {"teacher": fake}, log=Log(quiet=True)).facts["kept"] == 1
    assert fake.calls[0].continues == "text"


def test_what_a_request_continues_is_part_of_its_digest_and_is_journalled() -> None:
    plain, raw = Request(user("a")), Request(user("a"), continues="text")
    assert plain.digest("t") != raw.digest("t") and "continues" not in plain.to_json()
    assert Request.from_json({**raw.to_json(), "sampling": plain_sampling()}) == raw


def plain_sampling() -> dict[str, Any]:
    from dataclasses import asdict

    from kdaug.teacher import Sampling

    return {**asdict(Sampling()), "stop": []}


@pytest.mark.slow
def test_the_embedded_model_goes_on_from_a_text_and_as_the_user(tmp_path: Path) -> None:
    from kdaug.teacher import Sampling
    from kdaug.teachers.local import Local

    async def ask() -> list[str]:
        local = Local()
        await local.open(tmp_path)
        assert local._loaded is not None
        assert local._loaded.chat.open_user() == "<|im_start|>user\n"
        how = Sampling(temperature=0.0, max_tokens=8)
        requests = [
            Request(user("One, two, three, four,"), how, continues="text"),
            Request((), Sampling(max_tokens=16, stop=("\n",)), continues="user"),
        ]
        texts = [(await local.generate(request)).text for request in requests]
        await local.aclose()
        return texts

    counted, made_up = asyncio.run(ask())
    assert "five" in counted and made_up.strip()
