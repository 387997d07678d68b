"""Recipes as YAML, `--set`, and teachers as strings: what is wrong is named with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdaug import recipes
from kdaug.errors import ConfigError
from kdaug.gates.rouge import Rouge
from kdaug.generators.self_instruct import SelfInstruct
from kdaug.recipe import Recipe
from kdaug.recipe_file import builtin_names, load
from kdaug.record import Record, user
from kdaug.source import GrowingPool
from kdaug.teachers.openai import OpenAI

SEEDS = [Record(prompt=user(f"seed {i}")) for i in range(10)]


def write(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def build(folder: Path, text: str, *sets: str) -> Recipe:
    file = load(write(folder, text))
    for one in sets:
        file.set(one)
    return recipes.build(file, SEEDS)


GOOD = """\
source: {growing_pool: {from_seeds: 5}}
target: 20
stages:
  - generator: self_instruct
    gates: [instructions, {rouge: {threshold: 0.7}}]
    window: 3
"""


def test_a_recipe_is_what_its_file_says(tmp_path: Path) -> None:
    recipe = build(tmp_path, GOOD)
    assert isinstance(recipe.source, GrowingPool)
    assert (recipe.source.from_seeds, recipe.source.from_grown) == (5, 2)
    assert (recipe.target, recipe.name) == (20, "mine")
    (stage,) = recipe.stages
    assert isinstance(stage.generator, SelfInstruct)
    assert stage.window == 3
    assert isinstance(stage.gates[1], Rouge)
    assert stage.gates[1].threshold == 0.7


def test_every_built_in_recipe_builds() -> None:
    names = builtin_names()
    assert {"self-instruct", "evol-instruct", "feedback", "self-knowledge", "respond", "demo"} <= set(names)
    for name in names:
        assert recipes.build(load(name), SEEDS).stages


def test_set_changes_fields_by_path_and_by_part(tmp_path: Path) -> None:
    recipe = build(
        tmp_path,
        GOOD,
        "rouge.threshold=0.8",
        "self_instruct.stop=['\\n\\n', END]",
        "stages.0.window=7",
        "stages.0.gates.0.instructions.max_words=99",
        "target=5",
        "source.growing_pool.from_grown=1",
    )
    (stage,) = recipe.stages
    assert isinstance(stage.generator, SelfInstruct)
    assert isinstance(stage.gates[1], Rouge)
    assert stage.gates[1].threshold == 0.8
    assert stage.generator.stop == ("\\n\\n", "END")
    assert stage.window == 7
    assert recipe.target == 5
    assert isinstance(recipe.source, GrowingPool)
    assert recipe.source.from_grown == 1
    assert recipe.fingerprint != build(tmp_path, GOOD).fingerprint


RESPOND = "stages:\n  - generator: respond\n"
WRONG = [
    ("stages: []", ":1: stages: expected a list"),
    (
        RESPOND.replace("respond", "respnd"),
        ":2: stages.0.generator: unknown generator 'respnd' (did you mean 'respond'?)",
    ),
    (RESPOND + "    gates: [ruge]", ":3: stages.0.gates.0: unknown gate 'ruge' (did you mean 'rouge'?)"),
    (RESPOND + "    gates:\n      - rouge: {treshold: 1}", ":4: stages.0.gates.0.rouge.treshold: unknown field"),
    (RESPOND + "    gates:\n      - rouge: {treshold: 1}", "did you mean 'threshold'"),
    (RESPOND + "    gates:\n      - rouge: {threshold: high}", ":4: stages.0.gates.0.rouge.threshold: expected float"),
    (RESPOND + "    gates: rouge", ":3: stages.0.gates: expected a list of gates"),
    ("stages:\n  - {gates: [rouge]}", ":2: stages.0: a stage is a mapping with `generator`"),
    ("target: many\n" + RESPOND, ":1: target: expected"),
    ("target: 0\n" + RESPOND, "target is 0"),
    ("tarjet: 5\n" + RESPOND, ":1: tarjet: unknown field 'tarjet' (did you mean 'target'?)"),
    ("source: growing_pool\n" + RESPOND, "never ends by itself"),
    ("source: pool\n" + RESPOND, ":1: source: unknown source 'pool'"),
    ("stages:\n  - generator: nowhere.module:Thing", "cannot import nowhere.module"),
    ("stages:\n  - generator: kdaug.generators.respond:Answer", "kdaug.generators.respond has no Answer"),
    ("stages: [", ":1: not valid YAML"),
    ("- a list", "a recipe is a mapping"),
    ("stages: [{generator: respond, gates: [reward]}]", "needs model: write {reward: {model: …}}"),
    ("stages: [{generator: respond}]\nstages: []", "mine.yaml:2: not valid YAML: 'stages' stands there twice"),
    ("templates: nowhere\nstages: [{generator: no_such_module_xyz:Part}]", "cannot import no_such_module_xyz"),
]


@pytest.mark.parametrize(("text", "says"), WRONG, ids=[says[:30] for _, says in WRONG])
def test_what_is_wrong_is_named_with_file_line_and_field(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        build(tmp_path, text)
    assert str(caught.value).split(":")[0].endswith("mine.yaml")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"neither a file nor one of .*demo, .*Did you mean self-instruct\?"):
        load("self-instrct")


@pytest.mark.parametrize("assignment", ["rouge", "=3", "nothing.x=1", "stages.5.window=1", "rouge.threshold=[1"])
def test_a_wrong_set_is_refused(assignment: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--set"):
        build(tmp_path, GOOD, assignment)


LOOP = RESPOND + "loop: "


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (RESPOND, "`kdaug loop` needs a block `loop` with `train`"),
        (LOOP + "{train: sfd}", "mine.yaml:3: loop.train: unknown trainer 'sfd' (did you mean 'sft'?)"),
        (LOOP + "{train: {sft: {epoch: 1}}}", "loop.train.sft.epoch: unknown field 'epoch' (did you mean 'epochs'?)"),
        (LOOP + "{train: sft, start: best}", "loop.start: expected"),
        (LOOP + "{train: sft, step: 40}", "unknown field 'step' (did you mean 'steps'?)"),
        (LOOP + "{train: sft, evaluate: {tasks: none.jsonl}}", "loop.evaluate.tasks: no file 'none.jsonl'"),
        (LOOP + "{train: sft, evaluate: dev.jsonl}", "loop.evaluate: expected {tasks: FILE, metric: …}"),
        (LOOP + "{train: sft, growth: 0}", "growth is more than 0"),
    ],
)
def test_what_is_wrong_with_a_loop_is_named(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        recipes.plan_of(load(write(tmp_path, text)))
    assert says in str(caught.value)


def test_where_the_shipped_loops_begin() -> None:
    plans = {name: recipes.plan_of(file) for name in builtin_names() if "loop" in (file := load(name)).values}
    starts = {name: plan.start for name, plan in plans.items()}
    assert {n for n, start in starts.items() if start == "base"} == {"star", "rest-em", "llm2llm"}
    assert {n for n, start in starts.items() if start == "last"} == {"spin", "self-rewarding", "lion"}
    star, llm2llm, spin = plans["star"], plans["llm2llm"], plans["spin"]
    assert [getattr(star.trainer(n), "steps") for n in range(3)] == [40, 48, 57]  # noqa: B009 - SFT's, not a Trainer's
    assert llm2llm.with_seeds and llm2llm.history == 0 and llm2llm.first is not None
    assert spin.history == 2 and plans["lion"].grow


def test_a_part_of_ones_own_is_named_by_its_module(tmp_path: Path) -> None:
    text = "stages:\n  - generator: {kdaug.generators.respond:Respond: {max_tokens: 7}}"
    (stage,) = build(tmp_path, text).stages
    assert stage.generator.name == "respond"


def test_a_teacher_is_a_string() -> None:
    teacher = recipes.teacher("openai:gpt-x?base_url=http://localhost:1/v1&concurrency=7&timeout=3")
    assert isinstance(teacher, OpenAI)
    assert (teacher.name, teacher.concurrency, teacher.timeout) == ("openai:gpt-x", 7, 3.0)
    assert recipes.teacher("fake").name == "fake"
    assert recipes.teacher("fake:other?latency=0.5").name == "other"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("opnai:gpt", "unknown kind 'opnai' (did you mean 'openai'?)"),
        ("gpt-4o", "write openai:gpt-4o"),
        ("openai:", "which model"),
        ("openai:m?concurency=3", "unknown key 'concurency' (did you mean 'concurrency'?)"),
        ("openai:m?concurrency=many", "expected int, found 'many'"),
        ("openai:m?base_url=localhost:8000", "base_url"),
    ],
)
def test_a_wrong_teacher_is_refused_with_the_way_out(spec: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        recipes.teacher(spec)
    assert says in str(caught.value)


def test_words_of_yaml_1_1_are_words_and_numbers_are_numbers(tmp_path: Path) -> None:
    text = "stages: [{generator: respond, gates: [{rouge: {on: completion, threshold: 7e-1}}]}]"
    [gate] = build(tmp_path, text).stages[0].gates
    assert gate == Rouge(threshold=0.7, on="completion")
