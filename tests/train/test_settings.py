"""The settings of all trainers: ranges hold for every method, and the command line knows them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from kdaug.cli import main
from kdaug.errors import ConfigError
from kdaug.train.preference import DPO
from kdaug.train.reward import RewardModel
from kdaug.train.settings import Settings, described, setting
from kdaug.train.sft import SFT


@dataclass(frozen=True, kw_only=True)
class Mine(Settings):
    lr: float = 1.0
    share: float = setting(0.5, "of the whole", 0, 1)


@pytest.mark.parametrize(
    ("how", "wrong"),
    [
        ({"lr": -1.0}, r"Mine\(lr=-1.0\): must be at least 0"),
        ({"share": 1.5}, r"Mine\(share=1.5\): must be between 0 and 1"),
        ({"dtype": "float8"}, "give one of auto, bfloat16, float32"),
    ],
)
def test_a_range_holds_where_a_method_has_another_default(how: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        Mine(**how)
    with pytest.raises(ConfigError, match=wrong):
        replace(Mine(), **how)


@pytest.mark.parametrize(
    ("how", "wrong"),
    [
        ({"epochs": "3"}, "Mine: epochs is '3': expected int"),
        ({"epochs": 1.5}, "Mine: epochs is 1.5: expected int"),
        ({"lr": "1e-5"}, "Mine: lr is '1e-5': expected float"),
        ({"dora": 1}, "Mine: dora is 1: expected bool"),
    ],
)
def test_a_value_of_another_type_is_named_with_the_one_that_is_expected(how: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        Mine(**how)


def test_a_field_keeps_its_description_under_another_default() -> None:
    assert described(RewardModel)["lr"] == described(SFT)["lr"] | {"default": 1e-5}
    assert described(SFT)["lr"]["says"]


def test_the_command_line_says_each_field_and_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "dpo", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "share of the steps in which lr rises (0.1)" in said
    for field, about in described(DPO).items():
        assert f"--{field.replace('_', '-')} " in said
        assert about["says"] in said


def test_a_wrong_setting_on_the_command_line_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "sft", "--data", "x", "--student", "x", "--out", "x", "--warmup", "2"]) == 2
    assert "SFT(warmup=2.0): must be between 0 and 1" in capsys.readouterr().err
