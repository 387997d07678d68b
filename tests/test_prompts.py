"""Templates: strict, sandboxed, and overlaid by the user's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdaug import prompts
from kdaug.errors import ConfigError


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "prompts" / "thing").mkdir(parents=True)
    return tmp_path


def write(folder: Path, text: str) -> None:
    (folder / "prompts" / "thing" / "ask.j2").write_text(text, "utf-8")


def test_a_template_of_the_user_goes_before_the_shipped_one(mine: Path) -> None:
    (mine / "prompts" / "respond").mkdir()
    (mine / "prompts" / "respond" / "careful.j2").write_text("mine {{ first }}", "utf-8")
    with prompts.overlay(mine):
        assert prompts.render("respond/careful", first=9) == "mine 9"
        mixed = prompts.digest("respond")
    assert not prompts.render("respond/careful").startswith("mine")
    assert prompts.digest("respond") != mixed


def test_a_missing_value_or_template_is_named(mine: Path) -> None:
    write(mine, "Hello {{ name }}")
    with prompts.overlay(mine):
        with pytest.raises(ConfigError, match=r"thing/ask\.j2: 'name' is undefined"):
            prompts.render("thing/ask")
        with pytest.raises(ConfigError, match=r"no template prompts/thing/other\.j2"):
            prompts.render("thing/other")


def test_a_syntax_error_has_its_line(mine: Path) -> None:
    write(mine, "fine\n{% if %}")
    with prompts.overlay(mine), pytest.raises(ConfigError, match=r"thing/ask\.j2, line 2"):
        prompts.render("thing/ask")


@pytest.mark.parametrize(
    "attack",
    ["{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ things.append(1) }}", "{% include '/etc/hostname' %}"],
)
def test_a_template_cannot_reach_out(mine: Path, attack: str) -> None:
    write(mine, attack)
    things: list[int] = []
    with prompts.overlay(mine), pytest.raises(ConfigError):
        prompts.render("thing/ask", things=things)
    assert things == []


def test_text_of_a_model_is_never_a_template(mine: Path) -> None:
    write(mine, "Say: {{ text }}")
    with prompts.overlay(mine):
        assert prompts.render("thing/ask", text="{{ 7 * 7 }} <b>") == "Say: {{ 7 * 7 }} <b>"


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder of templates"), prompts.overlay(tmp_path / "none"):
        pass


def test_a_list_has_a_name_and_a_text_a_line(mine: Path) -> None:
    write(mine, "a | first | half\n\nb |\n")
    with prompts.overlay(mine):
        assert prompts.listed("thing/ask") == (("a", "first | half"), ("b", ""))


@pytest.mark.parametrize("wrong", ["a | b\nno bar", "| no name"])
def test_a_line_without_a_name_is_refused(wrong: str, mine: Path) -> None:
    write(mine, wrong)
    with prompts.overlay(mine), pytest.raises(ConfigError, match="expected lines of `name"):
        prompts.listed("thing/ask")
