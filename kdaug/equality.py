"""Whether two final answers are the same in mathematics, by math-verify, which reads LaTeX and asks SymPy."""

from __future__ import annotations

from collections.abc import Sequence

from kdaug.teacher import Until, patiently
from kdaug.worker import Worker, serve

_worker = Worker("kdaug.equality", cpu=10, memory=4096)


async def equal(answer: str, reference: str, until: Until = patiently) -> bool | None:
    """Whether they are the same; None where that is not told within the limits (`10^{10^{10}}`)."""
    said: bool | None = await _worker.ask([answer, reference], until)
    return said


def compare(question: Sequence[str]) -> bool:
    """The worker's side of `equal`. math-verify's own limits are by the clock, so there are none here."""
    import logging

    from math_verify import parse, verify

    logging.disable(logging.ERROR)  # it warns that it has no limit of time: the worker has
    given, wanted = (parse(f"\\boxed{{{text}}}", parsing_timeout=0) for text in question)
    return bool(given and wanted and verify(wanted, given, timeout_seconds=0))


if __name__ == "__main__":
    serve(compare)
