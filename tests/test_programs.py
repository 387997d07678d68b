"""Programs and their tests: what counts as passed, and under which name everything else fails."""

from __future__ import annotations

import asyncio

import pytest
from engines import need_sandbox

from kdaug.programs import Trial, code_block, record_tests, try_program
from kdaug.record import Record, user
from kdaug.sandbox import Limits, Sandbox


@pytest.fixture
def allowed() -> None:
    need_sandbox()


def trial(solution: str, tests: str = "") -> Trial:
    return asyncio.run(try_program(solution, tests, Sandbox(Limits(cpu=1, wall=120, memory=128, output=10_000))))


ADD = "def add(a, b):\n    return a + b\n"


@pytest.mark.parametrize(
    ("tests", "ran"),
    [
        ("assert add(1, 2) == 3", 1),
        ("from solution import add\nassert add(1, 2) == 3\n\ndef test_more():\n    assert add(0, 0) == 0", 2),
        ("import solution\nasync def test_later():\n    assert solution.add(1, 1) == 2", 1),
        ("import unittest\nclass T(unittest.TestCase):\n    def test_a(self): self.assertEqual(add(1, 1), 2)", 1),
        ("class TestAdd:\n    def test_a(self): assert add(1, 1) == 2\n    def test_b(self): assert add(1, 2) == 3", 2),
        ("for a in range(3):\n    assert add(a, 0) == a", 1),
    ],
)
@pytest.mark.usefixtures("allowed")
def test_tests_come_in_several_forms_and_can_fail(tests: str, ran: int) -> None:
    good = trial(ADD, tests)
    assert (good.wrong, good.ran, good.passed, good.evidence) == (None, ran, 1.0, {"ran": ran, "failed": []})
    bad = trial("def add(a, b):\n    return a + b + 1\n", tests)
    assert (bad.wrong, bad.passed, bad.ran) == ("failed", 0.0, len(bad.failed))
    for way in ("sys.exit(0)", "raise SystemExit"):
        left = trial(f"import sys\ndef add(a, b): {way}", tests)
        assert (left.wrong, left.passed, left.ran) == ("failed", 0.0, len(left.failed)), way
        assert "SystemExit" in left.error and 'File "solution.py", line 2, in add' in left.error


@pytest.mark.parametrize(
    ("solution", "tests", "wrong"),
    [
        ("def add(a, b) return", "assert add(1, 2) == 3", "syntax"),
        ("x = '\x00'", "", "syntax"),
        ("1 / 0", "assert True", "failed"),
        ("import sys; sys.exit(2)", "", "failed"),
        ("def add(a, b): raise ValueError('no')", "assert add(1, 2) == 3", "failed"),
        ("def add(a, b): raise BaseException", "def test(): assert add(1, 2) == 3", "failed"),
        ("def add(a, b):\n  while True: pass", "assert add(1, 2) == 3", "timeout"),
        ("def add(a, b): return 'a' * 10**10", "assert add(1, 2) == 3", "memory"),
        ("def add(a, b):\n  while True: print('x' * 99)", "assert add(1, 2) == 3", "output"),
        ("import os\ndef add(a, b): os._exit(0)", "assert add(1, 2) == 3", "exited"),
        ("import os\ndef add(a, b): os.kill(os.getpid(), 9)", "assert add(1, 2) == 3", "killed"),
        (ADD, "assert add(1, 2 == 3", "tests"),
        (ADD, "print(add(1, 2))", "no_tests"),
        (ADD, "def check(): assert False", "no_tests"),
        ("input()", "", "failed"),
        ('print(\'{"ran": 9, "failed": {}}\')\nimport os; os._exit(0)', "assert False", "exited"),
    ],
)
@pytest.mark.usefixtures("allowed")
def test_what_is_wrong_has_a_name(solution: str, tests: str, wrong: str) -> None:
    assert trial(solution, tests).wrong == wrong


@pytest.mark.usefixtures("allowed")
def test_a_program_alone_is_the_main_one_and_leaves_as_it_likes() -> None:
    assert trial("import sys\nif __name__ == '__main__':\n    print('hi')\n    sys.exit()").wrong is None
    assert trial(f"{ADD}\nif __name__ == '__main__':\n    raise ValueError").error.endswith("ValueError")
    assert trial(f"{ADD}\nif __name__ == '__main__':\n    raise ValueError", "assert add(1, 1) == 2").wrong is None
    assert trial(f"{ADD}\nimport sys; sys.exit()", "assert add(1, 1) == 2").wrong is None
    threads = "import threading, time\nthreading.Thread(target=time.sleep, args=(99,)).start()"
    assert trial(threads).wrong is None


@pytest.mark.usefixtures("allowed")
def test_the_error_is_the_author_s_and_the_same_every_time() -> None:
    solution = "def f(x):\n    return g(x)\n\ndef g(x):\n    raise TypeError(object())\n"
    first = trial(solution, "def test_f():\n    assert f(1) == 2")
    assert first == trial(solution, "def test_f():\n    assert f(1) == 2")
    assert first.error.splitlines()[0] == "Traceback (most recent call last):"
    assert 'File "solution.py", line 5, in g' in first.error and "harness" not in first.error
    assert first.error.endswith("TypeError: <object object at 0x…>")
    assert trial("def f(:").error.endswith("SyntaxError: invalid syntax")
    luck = trial("import random\nraise ValueError(random.random(), {'a', 'b', 'c'}, {object(), 1, None})")
    assert luck == trial("import random\nraise ValueError(random.random(), {'a', 'b', 'c'}, {object(), 1, None})")


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("Sure!\n```python\nx = 1\n```\nDone.", "x = 1\n"),
        ("```py\nx = 1\n```\nUse it:\n```python\nprint(x)\nprint(x)\n```", "print(x)\nprint(x)\n"),
        ("```bash\npip install a-very-long-name\n```\n```\nx = 1\n```", "x = 1\n"),
        ("```sh\nls\n```", ""),
        ("````Python\ns = '''\n```\n'''\n````", "s = '''\n```\n'''\n"),
        ("  ```python\nx = 1", "x = 1"),
        ("x = 1", "x = 1\n"),
        ("~~~python\r\nx = 1\n~~~", "x = 1\n"),
        ("  \n", ""),
        ("", ""),
    ],
)
def test_the_code_in_an_answer(answer: str, code: str) -> None:
    assert code_block(answer) == code


def test_tests_are_a_text_or_several() -> None:
    given: list[tuple[object, str]] = [("a", "a"), (["a", "b", " "], "a\n\nb"), (None, ""), ([], ""), (3, "")]
    for tests, text in given:
        assert record_tests(Record(prompt=user("x"), meta={"tests": tests}), "tests") == text  # type: ignore[dict-item] # as it is read
