"""`kdaug methods` and `init --method`: a recipe says what method it is, and is held to it."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from kdaug import recipes
from kdaug.cli import main, parser
from kdaug.errors import ConfigError
from kdaug.method_pages import RENEW, WIDTH, listing, markdown, page
from kdaug.methods import FAMILIES, Method, find, method_of, methods
from kdaug.recipe import parts
from kdaug.recipe_file import RecipeFile, load
from kdaug.record import Record, user
from kdaug.scaffold import scaffold_method

ROOT = Path(__file__).parent.parent
NAMES = [method.name for method in methods()]
PARSER = parser()

BLOCK = """\
method:
  family: labeling
  algorithm: sft
  skill: [reasoning, maths]
  paper: arXiv 2210.11610
  faithful: >-
    All of
    it.
  needs: sandbox
roles: {referee: fake}
stages:
  - generator: respond
  - generator: feedback
"""


def written(folder: Path, text: str) -> RecipeFile:
    path = folder / "mine.yaml"
    path.write_text(text, "utf-8")
    return load(str(path))


def test_a_method_is_what_its_block_and_its_parts_say(tmp_path: Path) -> None:
    method = method_of(written(tmp_path, BLOCK))
    assert method is not None
    assert (method.family, method.algorithm, method.skills) == ("labeling", "sft", ("reasoning", "maths"))
    assert (method.faithful, method.departs, method.needs) == ("All of it.", "", ("sandbox",))
    assert method.roles == ["teacher", "student"]
    assert method.command == (
        f"kdaug run {tmp_path}/mine.yaml --seeds seeds.jsonl --teacher openai:MODEL --student vllm:MODEL "
        "--out runs/mine"
    )


WRONG = [
    ("method: labeling", ":1: method: expected a mapping with family"),
    (BLOCK.replace("labeling", "labelling"), ":2: method.family: unknown word 'labelling' (did you mean 'labeling'?)"),
    (BLOCK.replace("sft", "[sft]"), ":3: method.algorithm: expected one of sft, "),
    (BLOCK.replace("maths", "math"), ":4: method.skill: unknown word 'math' (did you mean 'maths'?)"),
    (BLOCK.replace("[reasoning, maths]", "[]"), ":4: method.skill: an empty list"),
    (BLOCK.replace("arXiv 2210.11610", "2210.11610"), ":5: method.paper: expected a text, found 2210.1161"),
    (BLOCK.replace("  paper: arXiv 2210.11610\n", ""), ":1: method: needs paper"),
    (BLOCK.replace("needs", "need"), ":9: method.need: unknown field 'need' (did you mean 'needs'?)"),
    (BLOCK.replace("sandbox", "gpu"), ":9: method.needs: unknown word 'gpu'"),
    (BLOCK.replace("  needs: sandbox", "  departs: ''"), ":9: method.departs: expected a text"),
]


@pytest.mark.parametrize(("text", "says"), WRONG, ids=[says[:40] for _, says in WRONG])
def test_what_is_wrong_in_a_block_is_named_with_its_line(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        method_of(written(tmp_path, text))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_block_is_no_part_of_the_fingerprint(tmp_path: Path) -> None:
    seeds = [Record(prompt=user("one"))]
    with_it = recipes.build(written(tmp_path, BLOCK), seeds).fingerprint
    without = recipes.build(written(tmp_path, BLOCK[BLOCK.index("roles") :]), seeds).fingerprint
    assert with_it == without


def test_a_name_may_have_underscores_and_a_slip() -> None:
    assert find("evol_instruct") == find("evol-instruct")
    with pytest.raises(ConfigError, match=r"no method 'evol-instrukt': did you mean evol-instruct\?"):
        find("evol-instrukt")
    with pytest.raises(ConfigError, match=r"no method 'EVOL-instruct': did you mean evol-instruct\?"):
        find("EVOL-instruct")
    with pytest.raises(ConfigError, match=r"no method 'nothing-like-it' \(kdaug methods lists all \d+\)"):
        find("nothing-like-it")
    with pytest.raises(ConfigError, match=r"demo.yaml.*no method of its own"):
        find("demo")


def test_the_list_has_every_method_under_its_family_in_columns() -> None:
    lines = list(listing(methods()))
    family, at = "", lines[0].index("skill")
    found: dict[str, str] = {}
    for line in lines[1:-2]:
        if line.partition(":")[0] in FAMILIES:
            family = line.partition(":")[0]
        elif line:
            found[line.split()[0]] = family
            assert line[at - 1] == " " and line[at] != " "
    assert found == {method.name: method.family for method in methods()}


@pytest.mark.parametrize("method", methods(), ids=NAMES)
def test_a_page_tells_all_and_its_command_is_one(method: Method) -> None:
    lines = list(page(method))
    assert all(len(line) <= WIDTH + 20 for line in lines[:-1])
    for stage in method.stages:
        assert any(line.startswith(f"  {stage.generator.name}.") or not vars(stage.generator) for line in lines)
    for name, fields in method.source.items():
        assert f"source: {name}" in lines
        assert all(any(line.startswith(f"  source.{name}.{field}=") for line in lines) for field in fields)
    assert lines[-1] == method.command
    assert PARSER.parse_args(shlex.split(method.command)[1:]).recipe == method.name

    needed = {need for stage in method.stages for part in parts(stage) for need in getattr(part, "needs", ())}
    assert needed <= {*method.needs}
    assert ("training" in method.needs) == bool(method.loop)


OWN = """\
method: {family: curation, algorithm: sft, skill: code, paper: ours, faithful: all of it}
seeds: mine.jsonl
stages:
  - generator: {"parts_of_mine:Hints": {count: 3}}
"""


def test_what_the_page_of_a_recipe_of_ones_own_says_can_be_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "parts_of_mine.py").write_text(
        "from dataclasses import dataclass\n\n@dataclass(frozen=True)\nclass Hints:\n"
        "    count: int = 1\n    name = 'hints'\n    roles = ('teacher',)\n",
        "utf-8",
    )
    (tmp_path / "recipe.yaml").write_text(OWN, "utf-8")
    monkeypatch.chdir(tmp_path)
    lines = list(page(find("recipe.yaml")))
    assert not any("departs" in line or "kdaug init" in line for line in lines)
    assert PARSER.parse_args(shlex.split(lines[-1])[1:]).recipe == "recipe.yaml"
    [setting] = [line.strip() for line in lines if "count=" in line]
    assert setting == "hints.count=3"
    file = load("recipe.yaml")
    file.set("hints.count=5")
    (stage,) = recipes.stages_in(file)
    assert vars(stage.generator) == {"count": 5}


@pytest.mark.parametrize("method", [method for method in methods() if method.loop], ids=lambda method: method.name)
def test_a_scaffold_tells_how_its_rounds_are_run(method: Method, tmp_path: Path) -> None:
    told = PARSER.parse_args(shlex.split(list(scaffold_method(method, tmp_path / "mine"))[-1].partition("kdaug ")[2]))
    assert told.command.__name__ == "_loop"
    assert Path(told.recipe).is_file() and told.seeds is None and told.student


def test_the_page_of_all_methods_is_up_to_date() -> None:
    stale = (ROOT / "docs" / "methods.md").read_text("utf-8") != markdown(methods())
    assert not stale, f"docs/methods.md is older than the recipes: {RENEW}"


def test_the_command_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    assert "evol-instruct" in capsys.readouterr().out
    assert main(["methods", "evol_instruct"]) == 0
    assert "evol_instruct.rounds=4" in capsys.readouterr().out
    assert main(["methods", "--markdown"]) == 0
    assert capsys.readouterr().out.startswith("# Methods")
    assert main(["methods", "evol", "--markdown"]) == 2
