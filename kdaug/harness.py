"""Runs in the sandbox, as the main program: a solution, then its tests, and says on its last line what came of them.

The first line of stdin is a word that begins that line, so that what the solution prints is not taken for it. This is
no wall: a solution that is out to deceive its tests, in their own process, can.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import random
import sys
import traceback
import types
import unittest
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

FILES = ("solution.py", "tests.py")
Report = dict[str, Any]


def main() -> None:
    word = sys.stdin.readline().strip()
    report = os.fdopen(os.dup(1), "w", encoding="utf-8")
    said = examine(with_tests=Path("tests.py").exists())
    with suppress(ValueError, OSError):
        sys.stdout.flush()
    report.write(f"\n{word}{json.dumps(said)}\n")
    report.flush()
    os._exit(0)  # whatever threads the solution has left running


def examine(with_tests: bool) -> Report:
    random.seed(0)  # the same in every run
    try:
        solution = compiled("solution.py")
    except (SyntaxError, ValueError) as e:  # ValueError: a NUL byte
        return {"wrong": "syntax", "error": told(e)}
    module = types.ModuleType("solution" if with_tests else "__main__")
    sys.modules[module.__name__] = sys.modules["solution"] = module
    if error := failure(lambda: exec(solution, module.__dict__), may_leave=True):
        return {"wrong": "failed", "error": error}
    if not with_tests:
        return {"ran": 0, "failed": {}}
    try:
        tests = compiled("tests.py")
    except (SyntaxError, ValueError) as e:
        return {"wrong": "tests", "error": told(e)}
    return run_tests(tests, module)


def compiled(name: str) -> types.CodeType:
    return compile(Path(name).read_bytes(), name, "exec", dont_inherit=True)


def run_tests(tests: types.CodeType, solution: types.ModuleType) -> Report:
    """The asserts of the module itself count as one test, then each test function and each method of a TestCase."""
    public = {name: value for name, value in vars(solution).items() if not name.startswith("__")}
    module = sys.modules["tests"] = types.ModuleType("tests")
    vars(module).update(public)
    failed: dict[str, str] = {}
    if error := failure(lambda: exec(tests, module.__dict__)):
        failed["tests.py"] = error
    own = {name: value for name, value in vars(module).items() if public.get(name) is not value}
    found = dict(found_tests(own))
    for name, test in found.items():
        if error := failure(test):
            failed[name] = error
    top = asserts_at_top(Path("tests.py").read_text(encoding="utf-8", errors="replace"))
    return {"ran": len(found) + (top or "tests.py" in failed), "failed": failed}


def found_tests(names: dict[str, Any]) -> Iterator[tuple[str, Callable[[], None]]]:
    for name, value in names.items():
        if name.startswith("test") and inspect.isfunction(value):
            yield name, partial(awaited, value)
        elif inspect.isclass(value) and issubclass(value, unittest.TestCase):
            for method in unittest.defaultTestLoader.getTestCaseNames(value):
                yield f"{name}.{method}", value(method).debug
        elif inspect.isclass(value) and name.startswith("Test"):
            for method in (m for m in vars(value) if m.startswith("test")):
                yield f"{name}.{method}", partial(method_of, value, method)


def method_of(kind: Any, method: str) -> None:
    awaited(getattr(kind(), method))


def awaited(test: Callable[[], Any]) -> None:
    result = test()
    if inspect.iscoroutine(result):
        asyncio.run(result)


def asserts_at_top(text: str) -> bool:
    """Whether the module asserts something outside of functions and classes."""
    import ast

    pending: list[ast.AST] = list(ast.parse(text).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Assert):
            return True
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            pending += ast.iter_child_nodes(node)
    return False


def failure(run: Callable[[], Any], *, may_leave: bool = False) -> str:
    """What a run fails with; "" where it does not. A program alone may leave with 0; a test that is left has not come
    to its end, whatever the code."""
    try:
        run()
    except BaseException as e:  # noqa: BLE001 # whatever it is, it is the solution's, and goes into the report
        left_well = may_leave and isinstance(e, SystemExit) and e.code in (None, 0)
        return "" if left_well else told(e)
    return ""


def told(error: BaseException) -> str:
    """The traceback as its author would see it: without this file."""
    shown = traceback.TracebackException.from_exception(error)
    shown.stack = traceback.StackSummary.from_list([f for f in shown.stack if f.filename in FILES])
    return "".join(shown.format(chain=False)).strip()


if __name__ == "__main__":
    main()
