"""What a client makes of calls that fail, of a kill and of a bad seed: kdaug and each peer that is installed.

    python benchmarks/faults.py --peers ~/peers        the peers' environments: ~/peers/curator/bin/python, …

500 prompts, 64 in flight, 50 ms, unless a row says otherwise. What was called is what the server counted; what was
lost is the prompts without their own answer in what the client wrote. The server draws its faults by prompt and
attempt, so that every client meets the same.

mixed      10 % of the calls fail: 429 with Retry-After 1, 500, connection reset
truncated  3 % of the answers are half of their JSON
hang       1 % of the prompts get no answer at first; the timeout is 5 s
kill       kill -9 at half of the prompts, then the same command again
key        a wrong key (401)
refused    one prompt always gets a 400
null, missing, empty   the prompt field of one seed
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clients import KDAUG, Client, Task, peers, write_prompts
from harness import Bound, Ran, finish, options, run, table

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from servers.run import FakeOpenAI

BAD_LINE = 7  # the seed that `refused`, `null`, `missing` and `empty` change
Row = dict[str, Any]  # Any: JSON


@dataclass(frozen=True)
class Scenario:
    """`server`: the options of the fake server; `prompt`: what becomes of one seed's prompt; `limit` in seconds."""

    title: str
    limit: float
    server: Mapping[str, Any] = field(default_factory=dict)
    prompt: Callable[[str], Row] | None = None
    timeout: float | None = None
    kill: bool = False


SCENARIOS = {
    "mixed": Scenario("10 % of 429, 500, reset", 100, {"faults": {"429": 0.034, "500": 0.033, "reset": 0.033}}),
    "truncated": Scenario("truncated JSON, 3 %", 60, {"faults": {"trunc": 0.03}}),
    "hang": Scenario("1 % hang, 5 s timeout", 75, {"faults": {"hang": 0.01}, "fault_once": True}, timeout=5),
    "kill": Scenario("kill -9 at half, run again", 60, {"latency_ms": 200}, kill=True),
    "key": Scenario("wrong key (401)", 60, {"api_key": "another"}),
    "refused": Scenario("one permanent 400", 60, prompt=lambda text: {"prompt": f"{text} @@FAIL:400@@"}),
    "null": Scenario("a prompt that is null", 40, prompt=lambda text: {"prompt": None}),
    "missing": Scenario("a seed without a prompt", 40, prompt=lambda text: {"note": text}),
    "empty": Scenario("a prompt that is empty", 40, prompt=lambda text: {"prompt": ""}),
}


def meet(client: Client, scenario: Scenario, number: int, in_flight: int, server: FakeOpenAI) -> Row:
    """One client in one scenario."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prompts = write_prompts(folder / "prompts.jsonl", number)
        if scenario.prompt:
            change_line(prompts, scenario.prompt)
        task = Task(server.url, prompts, number, folder, in_flight, timeout=scenario.timeout, resume=scenario.kill)
        server.configure(**{"latency_ms": 50, **scenario.server})
        row: Row = {}
        if scenario.kill:
            run_task(client, task, scenario.limit, kill=lambda: answered(server) >= number // 2)
            time.sleep(0.5)  # until the server has seen the connections close and written off what it still had to send
            row["in_flight_at_kill"] = server.stats()["clients_gone"]
        ran = run_task(client, task, scenario.limit)
        return row | outcome(client, task, ran, server)


def run_task(client: Client, task: Task, limit: float, kill: Callable[[], bool] = lambda: False) -> Ran:
    return run(client.command(task), env=client.environment(task), limit=limit, kill=kill)


def answered(server: FakeOpenAI) -> int:
    return int(server.stats()["outcomes"].get("ok", 0))


def change_line(prompts: Path, change: Callable[[str], Row]) -> None:
    lines = prompts.read_text("utf-8").splitlines()
    lines[BAD_LINE] = json.dumps(change(json.loads(lines[BAD_LINE])["prompt"]))
    prompts.write_text("\n".join(lines) + "\n", "utf-8")


def outcome(client: Client, task: Task, ran: Ran, server: FakeOpenAI) -> Row:
    """The server's counters beside what the client wrote."""
    seen = server.stats(full=True)
    asked = [json.loads(line).get("prompt") for line in task.prompts.read_text("utf-8").splitlines()]
    good, doubled, wrong, blank = set[str](), 0, 0, 0
    for prompt, answer in client.answers(task):
        doubled += prompt in good
        blank += not answer
        if answer and prompt[:80] in answer:
            good.add(prompt)
        elif answer:
            wrong += 1
    starts = {(prompt or "")[:120] for prompt in asked}
    return {
        "exit_code": ran.exit_code,  # None: it had not ended when its time was up
        "wall_s": round(ran.wall_s, 1),
        "calls": seen["total"],
        "outcomes": seen["outcomes"],
        "asked": seen["distinct"],
        "calls_repeated": seen["attempts_repeated"],
        "answers_repeated": seen["ok_repeated"],
        "most_attempts": seen["max_attempts"],
        "lost": sum(1 for prompt in asked if prompt and prompt not in good),
        "doubled": doubled,
        "wrong": wrong,
        "blank": blank,
        "made_up": [text for _, _, text in seen["prompts"].values() if text not in starts or not text],
        "words": ran.words.strip().splitlines()[-1:] if ran.exit_code else [],
    }


def cell(name: str, row: Row) -> str:
    """One cell of the table, in the words of what matters there."""
    blank = f", {row['blank']} rows without an answer" if row["blank"] else ""
    wrong = "".join(f", {row[key]} {key}" for key in ("doubled", "wrong") if row[key])
    lost = f"{row['lost']:,} lost{blank}{wrong}"
    end = f"exit {row['exit_code']}" if row["exit_code"] is not None else f"not ended after {row['wall_s']:.0f} s"
    bad_end = "" if row["exit_code"] == 0 else f", {end}"
    if name == "key":
        return f"{row['calls']:,} call{'s' * (row['calls'] != 1)}, {end}{blank}"
    if name == "refused":
        return f"asked {row['most_attempts']} times, {row['lost'] - 1} other lost{blank}{bad_end}"
    if name == "kill":
        paid = f"{row['answers_repeated']:,} answers paid again (+{row['in_flight_at_kill']} in flight)"
        return f"{paid}, {lost}{bad_end}"
    if name in ("null", "missing", "empty"):
        sent = f", sends {' and '.join(map(repr, row['made_up']))}" if row["made_up"] else ""
        return f"{row['calls']:,} calls{sent}, {lost}, {end}"
    return f"{lost}, {row['wall_s']} s{bad_end}"


def bounds_of(rows: Mapping[str, Row], number: int, in_flight: int) -> list[Bound]:
    """What kdaug promises."""
    none_lost = sum(rows[name]["lost"] for name in ("mixed", "truncated", "hang", "kill"))
    mistaken = sum(row[key] for row in rows.values() for key in ("doubled", "wrong", "blank"))
    unread = sum(rows[name]["calls"] for name in ("null", "missing", "empty"))
    told = sum(rows[name]["exit_code"] == 2 for name in ("null", "missing", "empty"))
    most = [
        (
            "exit code of a run that can succeed",
            max(rows[n]["exit_code"] or 0 for n in ("mixed", "truncated", "hang")),
            0,
        ),
        ("calls with a wrong key", rows["key"]["calls"], 1),
        ("calls of a prompt that is refused", rows["refused"]["calls"] - number + 1, 1),
        ("others lost beside a refused one", rows["refused"]["lost"] - 1, 0),
        ("calls of a run with a bad seed", unread, 0),
        ("calls repeated after a kill", rows["kill"]["calls_repeated"], in_flight),
        ("answers doubled, wrong or blank", mistaken, 0),
        ("answers lost", none_lost, 0),
    ]
    least = [
        Bound("exit code with a wrong key", rows["key"]["exit_code"] or 0, 1),
        Bound("bad seeds of 3 that end as the user's mistake (exit 2)", told, 3),
    ]
    return [*least, *(Bound(words, figure, limit, most=True) for words, figure, limit in most)]


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--peers", type=Path, help="the folder of the peers' environments")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, help="these, without bounds and without a file")
    given = parser.parse_args()
    number, killed, kill_flight = (200, 600, 64) if given.quick else (500, 2_000, 128)
    everyone = [KDAUG, *([] if given.quick else peers(given.peers))]
    found = [c for c in everyone if c.python]
    rows: dict[str, dict[str, Row]] = {c.name: {} for c in found}
    with FakeOpenAI() as server:
        for name in given.only or SCENARIOS:
            scenario = SCENARIOS[name]
            size = (killed, kill_flight) if scenario.kill else (number, 64)
            for client in found:
                rows[client.name][name] = row = meet(client, scenario, *size, server)
                print(f"{client.name}, {scenario.title}: {cell(name, row)}", flush=True)
    versions = {c.name: c.version() for c in found}
    head = ["", *(f"{c.name} {versions.get(c.name, '')}".strip() for c in everyone)]
    lines = [
        [SCENARIOS[n].title, *(cell(n, rows[c.name][n]) if c.python else "not installed" for c in everyone)]
        for n in given.only or SCENARIOS
    ]
    print(table(head, lines))
    if given.only:
        return 0
    figures = {"prompts": number, "killed_prompts": killed, "versions": versions, "clients": rows}
    return finish("faults", given, figures, bounds_of(rows["kdaug"], number, kill_flight))


if __name__ == "__main__":
    raise SystemExit(main())
