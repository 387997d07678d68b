"""Programs: the code in an answer, and what comes of running it, with tests or alone, in the sandbox."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from kdaug.record import Json, Record
from kdaug.sandbox import Sandbox

Wrong = Literal["syntax", "failed", "timeout", "memory", "output", "killed", "exited", "tests", "no_tests"]

ERROR = 1_500  # characters of an error: what a teacher is told of it, and what a drop keeps
_FENCE = re.compile(
    r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+#.-]*)[^\n]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.MULTILINE | re.DOTALL
)
_PYTHON = ("python", "py", "python3")
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}\b")


@dataclass(frozen=True)
class Trial:
    """What running a program came to: `wrong` is None where it ended well and every test passed.

    `syntax` and `failed` are the program's, `tests` are tests that are no Python, `no_tests` some that test nothing,
    `exited` a program that ended the process before its tests; the others are how the sandbox ended it.
    """

    wrong: Wrong | None
    error: str = ""
    ran: int = 0  # tests
    failed: Mapping[str, str] = field(default_factory=dict)  # by name, with the error of each

    @property
    def passed(self) -> float:
        """The share of the tests that passed."""
        return 1 - len(self.failed) / self.ran if self.ran else 0.0

    @property
    def evidence(self) -> dict[str, Json]:
        found: dict[str, Json] = {"error": self.error} if self.error else {}
        if self.ran:
            found |= {"ran": self.ran, "failed": list(self.failed)}
        return found


def code_block(text: str, languages: Sequence[str] = _PYTHON) -> str:
    """The longest fenced block of one of the languages in an answer; without such a block the longest without a
    language; without any fence the whole answer. A block that is not closed goes to the end."""
    blocks: list[tuple[str, str]] = [(tag.lower(), body) for _, tag, body in _FENCE.findall(text)]
    if not blocks:
        return text.strip("\n") + "\n" if text.strip() else ""
    for wanted in (languages, ("",)):
        if bodies := [body for tag, body in blocks if tag in wanted and body.strip()]:
            return max(bodies, key=len)
    return ""


def record_tests(record: Record, field: str) -> str:
    """The tests in a record's `meta`, a text or a list of them, as one text; "" where it has none."""
    found = record.meta.get(field)
    pieces = found if isinstance(found, list) else [found]
    return "\n\n".join(piece for piece in pieces if isinstance(piece, str) and piece.strip())


async def try_program(solution: str, tests: str, sandbox: Sandbox) -> Trial:
    """Runs a solution (as the module `solution`) and its tests: asserts, test functions, methods of TestCase; without
    tests the solution alone, as a main program without input.

    A solution that deceives its own tests is not found out; one that ends the process before them is. Raises
    ConfigError where there is no sandbox.
    """
    word = secrets.token_hex(16)
    files = {"solution.py": solution, **({"tests.py": tests} if tests.strip() else {})}
    result = await sandbox.run(_harness(), stdin=f"{word}\n", files=files)
    said = next((line[len(word) :] for line in reversed(result.stdout.split("\n")) if line.startswith(word)), None)
    if said is None or result.exit != "ok":
        if result.exit == "ok" or result.exit == "error":
            return Trial("exited", "the program ended the process" + (" before its tests" if tests else ""))
        return Trial(result.exit, f"ended by the sandbox: {result.exit}")
    report = json.loads(said)
    if wrong := report.get("wrong"):
        error = _plain(report["error"])
        return Trial("memory" if _out_of_memory(error) else wrong, error)
    failed = {name: _plain(error) for name, error in report["failed"].items()}
    if tests.strip() and not report["ran"]:
        return Trial("no_tests")
    error = next(iter(failed.values()), "")
    verdict: Wrong = "memory" if _out_of_memory(error) else "failed"
    return Trial(verdict if failed else None, error, report["ran"], failed)


@cache
def _harness() -> str:
    return Path(__file__).with_name("harness.py").read_text(encoding="utf-8")


def _out_of_memory(error: str) -> bool:
    return error.rpartition("\n")[2].startswith("MemoryError")


def _plain(error: str) -> str:
    """The end of it, without addresses: they would differ from run to run."""
    return _ADDRESS.sub("0x…", error)[-ERROR:]
