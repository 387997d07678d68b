"""The code gate in a run: attacks are drops with their reasons, what is right is kept, and the run goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from engines import need_sandbox

from kdaug import recipe, sandbox
from kdaug.cli import main
from kdaug.errors import ConfigError
from kdaug.gates.code import Code
from kdaug.generators.pass_through import Pass
from kdaug.progress import Log
from kdaug.recipe import Recipe
from kdaug.record import Record, assistant, user
from kdaug.running import execute
from kdaug.source import Each
from kdaug.stage import Stage
from kdaug.teachers.fake import Fake

TESTS = ["assert add(1, 2) == 3", "assert add(0, 0) == 0"]
ANSWERS = {
    "kept": "def add(a, b):\n    return a + b",
    "code:failed": "def add(a, b):\n    return 3",
    "code:syntax": "def add(a, b)\n    return 3",
    "code:timeout": "while True: pass",
    "code:memory": "x = 'a' * 10**11",
    "code:output": "while True: print('x' * 1000)",
    "code:killed": "import os; os.kill(os.getpid(), 9)",
    "code:exited": "import os; os._exit(0)",
}


@pytest.fixture
def _allowed() -> None:
    need_sandbox()


def seed(answer: str, **meta: object) -> Record:
    return Record(prompt=user(f"Add. {answer[:40]}"), completion=assistant(f"```python\n{answer}\n```"), meta=meta)  # type: ignore[arg-type] # JSON


@pytest.mark.usefixtures("_allowed")
def test_every_attack_is_a_drop_with_its_reason_and_the_run_goes_on(out: Path) -> None:
    bomb = "import os\nwhile True: os.fork()"
    seeds = [seed(bomb, tests=TESTS), *(seed(answer, tests=TESTS) for answer in ANSWERS.values())]
    seeds += [seed("print('alone')"), Record(prompt=user("Talk."), completion=assistant("```sh\nls\n```"))]
    outcome = execute(
        Recipe(Each(seeds), [Stage(Pass(), [Code(cpu=1)])]), out, {"teacher": Fake()}, log=Log(quiet=True)
    )
    assert outcome.error is None
    (facts,) = outcome.facts["stages"]
    expected = {reason: 1 for reason in ANSWERS if reason != "kept"} | {"code:none": 1}
    dropped = facts["dropped"]
    bombed = {reason: n - expected.get(reason, 0) for reason, n in dropped.items() if n != expected.get(reason, 0)}
    assert len(bombed) == 1 and set(bombed) <= {"code:failed", "code:timeout", "code:exited"}
    assert facts["kept"] == 2


@pytest.mark.usefixtures("_allowed")
def test_the_score_is_the_share_that_passed_and_tests_may_be_a_must(out: Path) -> None:
    seeds = [seed(ANSWERS["kept"], checks=TESTS), seed("print('alone')")]
    gate = Code(tests="checks", need_tests=True)
    outcome = execute(Recipe(Each(seeds), [Stage(Pass(), [gate])]), out, {"teacher": Fake()}, log=Log(quiet=True))
    (kept,) = outcome.dataset
    assert kept.scores == {"tests": 1.0}
    assert outcome.facts["stages"][0]["dropped"] == {"code:no_tests": 1}


def test_without_a_sandbox_the_run_does_not_begin(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise ConfigError("running code needs the sandbox, and here it does not hold")

    monkeypatch.setattr(recipe, "require_sandbox", refuse)
    made = Recipe(Each([seed("x")]), [Stage(Pass(), [Code()])])  # reading it is no matter
    teacher = Fake()
    with pytest.raises(ConfigError, match=r"^code: running code needs the sandbox"):
        execute(made, out, {"teacher": teacher}, log=Log(quiet=True))
    assert not teacher.calls and sandbox.require_sandbox is not refuse


def test_doctor_says_whether_there_is_a_sandbox(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("sandbox: ")]
    assert "holds" in line or "allow user namespaces" in line
    with pytest.raises(ConfigError, match="must be positive"):
        Code(cpu=0)
