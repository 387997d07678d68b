"""Calls of APIs in code, compared as syntax trees (Gorilla, arXiv 2305.15334, §3.3): never as text."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Literal, TypeAlias

Verdict: TypeAlias = Literal["match", "wrong", "hallucination", "syntax"]


def verdict_of(code: str, reference: str, known: Sequence[str]) -> Verdict:
    """Whether `code` calls the reference's API with all that the reference gives; more arguments may be there, keywords
    stand in any order, and a call within another one counts.

    `wrong`: an API that is known (one of `known`, or the reference with other arguments); `hallucination`: none that
    is known, or no call at all; `syntax`: no Python. An API is a function's whole name and, where it is a text, its
    first argument: `load('x')` and `load('y')` are two. Raises ValueError for a reference that is no call.
    """
    wanted = calls_in(reference)
    if not wanted:
        raise ValueError(f"{reference!r} is no call")
    try:
        said = calls_in(code)
    except (SyntaxError, ValueError, RecursionError):
        return "syntax"
    if any(_holds(call, wanted[0]) for call in said):
        return "match"
    names = {identity(wanted[0])}
    for one in known:
        names.update(identity(call) for call in calls_in(one)[:1])
    return "wrong" if any(identity(call) in names for call in said) else "hallucination"


def calls_in(code: str) -> list[ast.Call]:
    """All calls, outer ones first. Raises SyntaxError."""
    return [node for node in ast.walk(ast.parse(code.strip())) if isinstance(node, ast.Call)]


def identity(call: ast.Call) -> tuple[str, str]:
    """The dotted name of the function, and its first argument where it is a text."""
    first = call.args[0] if call.args else call.keywords[0].value if call.keywords else None
    text = first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else ""
    return ast.unparse(call.func), text


def _holds(call: ast.Call, wanted: ast.Call) -> bool:
    """Whether a call is a super-tree of the wanted one."""
    if ast.dump(call.func) != ast.dump(wanted.func) or len(call.args) < len(wanted.args):
        return False
    given = {keyword.arg: ast.dump(keyword.value) for keyword in call.keywords}
    return all(
        ast.dump(mine) == ast.dump(theirs) for mine, theirs in zip(call.args, wanted.args, strict=False)
    ) and all(given.get(keyword.arg) == ast.dump(keyword.value) for keyword in wanted.keywords)
