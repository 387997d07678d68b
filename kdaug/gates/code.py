"""A gate that runs the code of an answer, with the record's tests where it has some."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from kdaug.gate import Gate, Prepared
from kdaug.generator import Generate
from kdaug.programs import code_block, record_tests, try_program
from kdaug.record import Drop, Record, text_of
from kdaug.sandbox import Limits, Sandbox


@dataclass(frozen=True)
class Code(Gate):
    """Runs the Python block of a record's answer in the sandbox (kdaug/sandbox.py) and drops what fails.

    The tests are in `meta[tests]`: a text, or a list of them. They see the answer's names and may import `solution`.
    `scores["tests"]` is the share of them that pass, and all must. Without tests the code must run to its end, without
    input; with `need_tests` such a record is dropped (`code:no_tests`). Other reasons: `code:none` (no code in the
    answer), `code:syntax`, `code:failed`, `code:timeout`, `code:memory`, `code:output`, `code:killed`, `code:exited`
    (it ended the process before its tests) and `code:tests` (they are no Python).

    `cpu` seconds of each process, `memory` MB; `packages`: it may import what is installed beside kdaug.
    """

    tests: str = "tests"
    need_tests: bool = False
    cpu: int = 5
    memory: int = 512
    packages: bool = False
    sandbox: Sandbox = field(init=False, repr=False, compare=False)

    name: ClassVar[str] = "code"
    needs: ClassVar[tuple[str, ...]] = ("sandbox",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sandbox", Sandbox(Limits(cpu=self.cpu, memory=self.memory), self.packages))

    async def prepare(self, record: Record, generate: Generate) -> Prepared:
        code = code_block(text_of(record.completion))
        if not code:
            return Prepared(record, Drop("code:none"))
        tests = record_tests(record, self.tests)
        if self.need_tests and not tests:
            return Prepared(record, Drop("code:no_tests"))
        trial = await try_program(code, tests, self.sandbox)
        scored = record.scored(tests=trial.passed) if trial.ran else record
        return Prepared(scored, Drop(f"code:{trial.wrong}", trial.evidence) if trial.wrong else None)
