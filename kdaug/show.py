"""What a run did: its funnel, and the whole story of one record, from the seed to the verdict."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdaug.errors import ConfigError
from kdaug.journal import Call, Journal
from kdaug.prices import Bill, Price, dollars, spent, tokens
from kdaug.recipes import GATES
from kdaug.record import Drop, Message, Record, text_of
from kdaug.tallies import commonest_failure, fits, tally, usage
from kdaug.teacher import Completion


@dataclass(frozen=True)
class Found:
    """A record and its place in the run. `drop` is None where it was kept, `stage` where it is a seed."""

    record: Record
    stage: int | None = None
    job: int = 0
    child: int = 0
    drop: Drop | None = None


class Story:
    """Looks into a run folder, also while the run goes on. Raises ConfigError when it is none."""

    def __init__(self, run: Path) -> None:
        self._journal = Journal.read_only(run)
        self._run = run
        recipe = self._journal.meta("recipe") or {"stages": []}
        self._stages = len(recipe["stages"])
        self._places: dict[str, tuple[int, int, int, bool]] = {}
        self._falls: dict[str, list[tuple[int, int, int]]] = {}  # every time that a text was dropped

    def facts(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self._run / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as e:
            raise ConfigError(f"{self._run}/run.json cannot be read ({e}): run the recipe again to renew it") from e
        return found

    def funnel(self) -> Iterator[str]:
        """Lines: what was asked, proposed, dropped by which reason, kept, and what it took."""
        facts = self.facts()
        if facts["ended_by"] and self._journal.meta("recipe") is None:
            raise ConfigError(f"{self._run}/journal.sqlite is empty: put back the one that this run had")
        recipe = facts["recipe"]
        yield f"{self._run}: {recipe['name']}, {facts['status']}" + (
            f" ({facts['ended_by']})" if facts["ended_by"] else ""
        )
        seeds = facts["seeds"]
        many = f"seeds: {seeds['count']}" if seeds["count"] else f"data: {seeds.get('rows', 'not all')} rows read"
        yield many + (f" from {seeds['source']}" if seeds["source"] else "")
        for index, stage in enumerate(facts["stages"]):
            # From the journal: run.json is only as new as the last time that the run ended.
            jobs, kept, dropped = tally(self._journal, index)
            yield f"{stage['name']}: {jobs} jobs proposed {kept + sum(dropped.values())}, kept {kept}"
            for reason, count in sorted(dropped.items(), key=lambda item: (-item[1], item[0])):
                yield f"    {count:>7}  {reason}"
        if selected := facts.get("selected"):
            yield f"select.{selected['rule']}: of {selected['of']}, kept {selected['kept']} (n {selected['n']})"
            for reason, count in sorted(selected["dropped"].items(), key=lambda item: (-item[1], item[0])):
                yield f"    {count:>7}  {reason}"
        bill = Bill(usage(self._journal), _prices(facts), min(kept, recipe["target"] or kept))
        for teacher, used in bill.by_teacher().items():
            failed = f" ({used['failed']} failed)" if used["failed"] else ""
            yield f"{teacher}: {used['calls']:,} calls{failed}, {tokens(used)}" + _cost(used["cost"])
        if words := commonest_failure(self._journal):
            yield f"the commonest failure: {words}"
        if cost := spent(bill.to_json()):
            yield cost
        for teacher, forms in fits(self._journal).items():
            counts = ", ".join(f"{count:,} {outcome}" for outcome, count in forms.items())
            yield f"{teacher}: of {sum(forms.values()):,} replies to a schema {counts}"
        for kind, splits in facts.get("splits", {}).items():
            yield f"dataset: {kind}: " + ", ".join(f"{count} {split}" for split, count in splits.items())

    def newest(self, count: int) -> list[Found]:
        """The last stage's first `count` kept records."""
        found: list[Found] = []
        for job, commit in enumerate(self._journal.commits(self._stages - 1)):
            found += [Found(k.record, self._stages - 1, job, k.child) for k in commit.kept]
            if len(found) >= count:
                break
        return found[:count]

    def find(self, prefix: str) -> Found:
        """The record whose id begins with `prefix`. Raises ConfigError when there is none, or several."""
        hits = sorted(i for i in self._index() if i.startswith(prefix))
        if len(hits) == 1:
            return self._at(hits[0])
        seed = self._journal.seed(prefix)
        if seed is not None:
            return Found(seed)
        if not hits:
            raise ConfigError(f"{self._run} has no record {prefix!r}: ids are in its dataset and in dropped.parquet")
        raise ConfigError(f"{len(hits)} records begin with {prefix!r}: {', '.join(hits[:5])}, …")

    def tell(self, prefix: str) -> Iterator[str]:
        """The story of a record: its ancestors first, each with the calls that made it and the verdict on it. Of a row
        that is no record, given by its place (`data.jsonl:17`): what is wrong with it."""
        if any(sign in prefix for sign in (":", " ")):
            yield from self._row(prefix)
            return
        told: set[str] = set()
        for found in self._ancestry(self.find(prefix).record.id, told):
            yield from self._chapter(found)

    def _row(self, place: str) -> Iterator[str]:
        rows = (row.drop for _, row in self._journal.dropped(0) if row.record is None)
        drop = next((d for d in rows if str(d.detail.get("place", "")).endswith(place)), None)
        if drop is None:
            raise ConfigError(f"{self._run} dropped no row {place!r}: places are in the details of dropped.parquet")
        yield f"── {drop.detail['place']}"
        yield f"   {drop.detail['row']}"
        yield f"   dropped: {drop.reason}: {drop.detail['wrong']}"
        yield ""

    def _ancestry(self, id: str, told: set[str]) -> Iterator[Found]:
        if id in told:
            return
        told.add(id)
        seed = None if id in self._index() else self._journal.seed(id)
        if id not in self._index() and seed is None:
            return
        found = Found(seed) if seed is not None else self._at(id)
        for parent in found.record.parents:
            yield from self._ancestry(parent, told)
        yield found

    def _chapter(self, found: Found) -> Iterator[str]:
        record = found.record
        if found.stage is None:
            yield f"── seed {record.id}"
            yield from _body(record)
            yield ""
            return
        yield f"── {record.id} by {record.by} (stage {found.stage}, job {found.job}, child {found.child})"
        if record.parents:
            yield f"   parents: {', '.join(record.parents)}"
        for call in self._journal.calls(found.stage, found.job):
            scope = call.key.split("/")[2]
            if not scope or scope.startswith(f"{found.child}."):
                yield from _call(call, scope)
        yield from _body(record)
        for name, score in record.scores.items():
            yield f"   score {name}: {score:g}"
        left = self._left_out(record.id) if found.drop is None and found.stage == self._stages - 1 else None
        if left is not None:
            yield f"   kept, but not selected: {left.reason} {json.dumps(left.detail, ensure_ascii=False)}"
        elif found.drop is None:
            yield "   kept"
            yield from self._copies(record.id)
        else:
            yield f"   dropped: {found.drop.reason}" + (
                f" {json.dumps(found.drop.detail, ensure_ascii=False)}" if found.drop.detail else ""
            )
            yield from self._gate(found.stage, found.drop)
        yield ""

    def _copies(self, id: str) -> Iterator[str]:
        """The same text may be made again, and is then dropped: an id is a text's."""
        for stage, job, child in self._falls.get(id, ()):
            drop = next(d.drop for d in self._journal.commit(stage, job).dropped if d.child == child)
            detail = f" {json.dumps(drop.detail, ensure_ascii=False)}" if drop.detail else ""
            yield f"   the same text again, dropped (stage {stage}, job {job}, child {child}): {drop.reason}{detail}"

    def _gate(self, stage: int, drop: Drop) -> Iterator[str]:
        """How the gate was set that dropped it: its threshold and all else."""
        address = GATES.get(drop.reason.partition(":")[0])
        for gate in self._journal.meta("recipe")["stages"][stage]["gates"]:
            fields = {k: v for k, v in gate.items() if k not in ("type", "templates")}
            if gate["type"] == address and fields:
                yield f"   the gate: {json.dumps(fields, ensure_ascii=False)}"

    def _left_out(self, id: str) -> Drop | None:
        """Why the selection left a record out, when the dataset was derived last."""
        import pyarrow.parquet as pq

        path = self._run / "dropped.parquet"
        if not path.is_file() or not self.facts().get("selected"):
            return None
        rows = pq.read_table(path, columns=["reason", "detail"], filters=[("id", "==", id)]).to_pylist()
        found = [row for row in rows if row["reason"].startswith("select:")]
        return Drop(found[0]["reason"], json.loads(found[0]["detail"])) if found else None

    def _index(self) -> dict[str, tuple[int, int, int, bool]]:
        """Where every record of the run is; where it passed several stages unchanged, the last one counts."""
        if not self._places:
            for stage in range(self._stages):
                for job, commit in enumerate(self._journal.commits(stage)):
                    for row in commit.dropped:
                        if row.record is not None:
                            self._falls.setdefault(row.record.id, []).append((stage, job, row.child))
                            place = (stage, job, row.child, False)
                            # A copy's fall says nothing of a record that the same stage kept.
                            if self._places.setdefault(row.record.id, place)[0] < stage:
                                self._places[row.record.id] = place
                    for kept in commit.kept:
                        self._places[kept.record.id] = (stage, job, kept.child, True)
        return self._places

    def _at(self, id: str) -> Found:
        stage, job, child, kept = self._index()[id]
        commit = self._journal.commit(stage, job)
        if kept:
            return next(Found(k.record, stage, job, child) for k in commit.kept if k.child == child)
        row = next(d for d in commit.dropped if d.child == child and d.record is not None)
        assert row.record is not None
        return Found(row.record, stage, job, child, row.drop)


def _prices(facts: dict[str, Any]) -> dict[str, Price | None]:
    """Those that the run was told or had looked up when it ended last."""
    known = facts.get("bill", {}).get("prices", {})
    return {name: None if price is None else Price(**price) for name, price in known.items()}


def _cost(cost: float | None) -> str:
    return f", {dollars(cost)}" if cost != 0 else ""


def _body(record: Record) -> Iterator[str]:
    yield from _messages("prompt", record.prompt)
    if record.completion is not None:
        yield from _messages("chosen" if record.rejected is not None else "completion", record.completion)
    if record.rejected is not None:
        yield from _messages("rejected", record.rejected)


def _messages(title: str, messages: tuple[Message, ...]) -> Iterator[str]:
    yield f"   {title}:"
    yield from (f"     {line}" for line in text_of(messages).splitlines() or [""])


def _call(call: Call, scope: str) -> Iterator[str]:
    yield f"   asked {call.teacher} as {call.role}" + (f" for {scope}" if scope else "") + f" [{call.key}]"
    for message in call.request["messages"]:
        yield f"     {message['role']}:"
        yield from (f"       {line}" for line in message["content"].splitlines())
    if isinstance(call.reply, Completion):
        usage = call.reply.usage
        yield f"     reply ({call.reply.finish_reason}, {usage.prompt_tokens}+{usage.completion_tokens} tokens):"
        yield from (f"       thought: {line}" for line in call.reply.reasoning.splitlines())
        yield from (f"       {line}" for line in call.reply.text.splitlines())
        yield from (f"       calls {tool.name}({tool.arguments})" for tool in call.reply.tool_calls)
    else:
        yield f"     failed: {call.reply}"
