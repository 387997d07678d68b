"""What a run's journal adds up to: jobs, records and reasons, calls and tokens, failures and forms."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from kdaug.errors import shorten, snake_case
from kdaug.journal import SECOND_TURN, STAGE_BITS, Journal

# What a provider's words may quote: `Incorrect API key provided: sk-abc123`, `Bearer abc`.
KEY = re.compile(r"(?i)\b(sk-|bearer[ :]+|api[_-]?key[ =:]+(?=\S*\d))[\w.*~+/-]+")


@dataclass(frozen=True, slots=True)
class Used:
    """What one stage asked of one teacher. `unclear_…`: tokens at most of attempts that may have been billed too."""

    stage: int
    teacher: str
    calls: int
    failed: int
    prompt_tokens: int
    completion_tokens: int
    unclear_prompt_tokens: int
    unclear_completion_tokens: int


@dataclass(frozen=True, slots=True)
class Asked:
    calls: int
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class JobUse:
    """What one decided job kept, and what it asked, by teacher."""

    kept: int
    used: Mapping[str, Asked]


def tally(journal: Journal, stage: int) -> tuple[int, int, dict[str, int]]:
    """How many jobs the stage has decided, how many records it kept, and how many it dropped for which reason."""
    span = (stage << STAGE_BITS, (stage + 1) << STAGE_BITS)
    [(jobs, kept)] = journal.select(
        "SELECT count(*), sum(json_array_length(CAST(kept AS TEXT))) FROM commits WHERE id >= ? AND id < ?", *span
    )
    reasons = journal.select(
        "SELECT json_extract(value, '$[2]') AS reason, count(*) FROM commits, json_each(CAST(dropped AS TEXT)) "
        "WHERE commits.id >= ? AND commits.id < ? GROUP BY reason ORDER BY reason",
        *span,
    )
    dropped = Counter(dict(reasons))
    for failed in journal.superseded(stage):
        dropped.subtract(d.drop.reason for d in journal.commit(stage, failed.job).dropped if d.child == failed.child)
    return jobs, kept or 0, dict(+dropped)


def overlaps(journal: Journal, stage: int) -> dict[str, dict[str, int]]:
    """By benchmark, of what the stage dropped for overlapping with it: the records, the rows of the benchmark that they
    name, and the most words in a row that one of them shares."""
    rows = journal.select(
        "SELECT json_extract(value, '$[3].benchmark') AS benchmark, count(*),"
        " count(DISTINCT json_extract(value, '$[3].row')), max(json_extract(value, '$[3].words'))"
        " FROM commits, json_each(CAST(dropped AS TEXT)) WHERE commits.id >= ? AND commits.id < ?"
        " AND json_extract(value, '$[2]') LIKE 'decontaminate:%' GROUP BY benchmark ORDER BY benchmark",
        stage << STAGE_BITS,
        (stage + 1) << STAGE_BITS,
    )
    return {name: {"records": n, "items": items, "longest": longest or 0} for name, n, items, longest in rows}


def usage(journal: Journal) -> list[Used]:
    """What was asked and answered, by stage and teacher."""
    rows = journal.select(
        "SELECT stage, teacher, sum(calls), sum(failed), sum(p), sum(c), sum(unclear_p), sum(unclear_c) FROM ("
        " SELECT stage, teacher, 1 AS calls, failed, prompt_tokens AS p, completion_tokens AS c,"
        " 0 AS unclear_p, 0 AS unclear_c FROM replies UNION ALL"
        " SELECT stage, teacher, 0, 0, 0, 0, prompt_tokens, completion_tokens FROM reservations)"
        " GROUP BY stage, teacher ORDER BY stage, teacher"
    )
    return [Used(*row) for row in rows]


def job_uses(journal: Journal, stage: int) -> list[JobUse]:
    """Of every job that the stage has decided, in order."""
    asked: dict[int, dict[str, Asked]] = {}
    for job, teacher, *counts in journal.select(
        "SELECT job, teacher, count(*), sum(prompt_tokens), sum(completion_tokens) FROM replies WHERE stage = ? "
        "GROUP BY job, teacher",
        stage,
    ):
        asked.setdefault(job, {})[teacher] = Asked(*counts)
    return [JobUse(len(commit.kept), asked.get(job, {})) for job, commit in enumerate(journal.commits(stage))]


def failures(journal: Journal) -> dict[str, int]:
    """The calls that were given up, by their cause."""
    rows = journal.select(
        "SELECT json_extract(CAST(reply AS TEXT), '$.error') AS cause, count(*) FROM replies WHERE failed "
        "GROUP BY cause ORDER BY count(*) DESC, cause"
    )
    return {snake_case(cause): count for cause, count in rows}


def commonest_failure(journal: Journal) -> str:
    """What was said most often of the calls that were given up for the commonest cause; empty where none were. Whatever
    looks like a key is blotted out."""
    rows = journal.select(
        "SELECT message FROM ("
        " SELECT json_extract(plain, '$.error') AS cause, json_extract(plain, '$.message') AS message"
        " FROM (SELECT CAST(reply AS TEXT) AS plain FROM replies WHERE failed))"
        " GROUP BY cause, message"
        " ORDER BY sum(count(*)) OVER (PARTITION BY cause) DESC, cause, count(*) DESC, message LIMIT 1"
    )
    return shorten(KEY.sub(r"\1***", rows[0][0]), 240) if rows else ""


def cut_replies(journal: Journal) -> dict[str, tuple[int, int]]:
    """By teacher, how many replies there are, and how many of them ended at `max_tokens`."""
    rows = journal.select(
        "SELECT teacher, count(*), sum(json_extract(CAST(reply AS TEXT), '$.finish_reason') = 'length') FROM replies "
        "WHERE NOT failed GROUP BY teacher ORDER BY teacher"
    )
    return {teacher: (number, cut or 0) for teacher, number, cut in rows}


def fits(journal: Journal) -> dict[str, dict[str, int]]:
    """By teacher, what became of the replies that had to have a form: `valid` at once, `repaired`, `corrected` in a
    second turn, or `failed`."""
    rows = journal.select(
        "SELECT teacher, fit, second, cut, count(*) FROM ("
        " SELECT teacher, key LIKE ? AS second, json_extract(plain, '$.fit') AS fit,"
        " json_extract(plain, '$.finish_reason') = 'length' AS cut"
        " FROM (SELECT teacher, key, CAST(reply AS TEXT) AS plain FROM replies"
        "  WHERE instr(reply, CAST('\"fit\":' AS BLOB))))"  # far quicker than to parse them all
        " GROUP BY teacher, fit, second, cut",
        f"%{SECOND_TURN}",
    )
    found: dict[str, dict[str, int]] = {}
    for teacher, fit, second, cut, count in rows:
        outcome = "corrected" if second else fit
        if fit == "wrong":  # what was corrected is counted by its second turn
            outcome = "failed" if second or cut else ""
        if outcome:
            of_teacher = found.setdefault(teacher, dict.fromkeys(("valid", "repaired", "corrected", "failed"), 0))
            of_teacher[outcome] += count
    return found
