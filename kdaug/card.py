"""The dataset card: what is in the data, what made it, what was dropped and why, and under whose terms it stands."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdaug.prices import dollars
from kdaug.prompts import render
from kdaug.record import Json, Kind
from kdaug.terms import shared_licence, terms_of


@dataclass(frozen=True)
class Counts:
    """Records by kind and split, by the teacher whose words are in them, and by reason those left out; `unsaid` of them
    have an answer and name no teacher."""

    splits: Mapping[Kind, Mapping[str, int]] = field(default_factory=dict)
    teachers: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    unsaid: int = 0

    @property
    def total(self) -> int:
        return sum(sum(by_split.values()) for by_split in self.splits.values())

    @property
    def largest(self) -> Kind | None:
        """The default configuration: the kind with the most records, the first of equals."""
        return max(self.splits, key=lambda kind: sum(self.splits[kind].values()), default=None)


def write_card(facts: Mapping[str, Any], counts: Counts, hashes: Mapping[Kind, str] | None = None) -> str:
    """The text of README.md. `facts` is what a run knows of itself (its run.json); every key may be missing. `hashes`:
    of each kind's data files."""
    teachers = _teachers(facts, counts)
    return (
        render(
            "dataset.md",
            section="card",
            cell=cell,
            dollars=dollars,
            code=code,
            fence=fence,
            front_matter=_front_matter(counts, teachers, hashes or {}),
            facts={name: facts.get(name) or None for name in _FACTS},
            counts=counts,
            columns=_COLUMNS,
            teachers=teachers,
            authors=[code(t["name"]) for t in teachers if t["records"]],
            drops=_drops(facts, counts),
            coverage=_coverage(facts),
            recipe=_yaml(facts["recipe"]).rstrip() if facts.get("recipe") else "",
        )
        + "\n"
    )


_FACTS = (
    *("kdaug", "command", "fingerprint", "status", "ended_by", "holdout", "seeds", "stages", "templates"),
    *("bill", "forms", "judges", "mixed", "selected"),
)

# What is trained on, by kind.
_COLUMNS: dict[Kind, tuple[str, ...]] = {
    "prompt": ("prompt",),
    "completion": ("prompt", "completion"),
    "preference": ("prompt", "chosen", "rejected"),
    "unpaired": ("prompt", "completion", "label"),
}


def _front_matter(counts: Counts, teachers: Sequence[Mapping[str, Any]], hashes: Mapping[Kind, str]) -> str:
    """The Hub's metadata. One configuration a kind; without a default, `load_dataset(folder)` would refuse.

    `datasets` caches a folder by its name and this metadata alone, so without a hash of the data it would give the rows
    of another run, or of this one before it went on.
    """
    front: dict[str, Json] = {}
    licence = None if counts.unsaid else shared_licence([t["terms"] for t in teachers])
    if licence:
        front["license"] = licence
    if licence == "other":
        front["license_name"] = "terms-of-the-teachers"
    front["task_categories"] = ["text-generation"]
    front["size_categories"] = [_size(counts.total)]
    front["tags"] = ["kdaug", "synthetic", "knowledge-distillation"] if teachers or not counts.total else ["kdaug"]
    configs: list[Json] = []
    for kind, by_split in counts.splits.items():
        config: dict[str, Json] = {"config_name": kind}
        if kind == counts.largest:
            config["default"] = True
        if kind in hashes:
            config["description"] = f"data {hashes[kind]}"
        config["data_files"] = [{"split": split, "path": f"data/{kind}/{split}-*.parquet"} for split in by_split]
        configs.append(config)
    if configs:
        front["configs"] = configs
    return _yaml(front).rstrip()


def _teachers(facts: Mapping[str, Any], counts: Counts) -> list[dict[str, Any]]:
    """Every model of the run and every one whose words are in a record, with its terms."""
    roles: dict[str, list[str]] = {name: [] for name in counts.teachers}
    for role, teacher in (facts.get("teachers") or {}).items():
        roles.setdefault(teacher["name"], []).append(role)
    usage = facts.get("usage") or {}
    return [
        {
            "name": name,
            "roles": ", ".join(roles[name]),
            "records": counts.teachers.get(name, 0),
            "terms": terms_of(name),
            "usage": usage.get(name),
        }
        for name in roles
    ]


def _drops(facts: Mapping[str, Any], counts: Counts) -> list[tuple[str, str, int]]:
    """(stage, reason, records), the most frequent of a stage first."""
    drops = [
        (stage["name"], reason, number)
        for stage in facts.get("stages") or ()
        for reason, number in sorted((stage.get("dropped") or {}).items(), key=lambda item: (-item[1], item[0]))
    ]
    selected = facts.get("selected") or {}
    for reason, number in sorted((selected.get("dropped") or {}).items(), key=lambda item: (-item[1], item[0])):
        drops.append((f"select.{selected['rule']}", reason, number))
    return [*drops, *(("dataset", reason, number) for reason, number in counts.left_out.items())]


def _coverage(facts: Mapping[str, Any]) -> list[tuple[str, str, list[tuple[str, int]], list[str]]]:
    """(stage, axis, records by value, values without any), the most frequent value first. Values that were to be drawn
    are known from the source; elsewhere there are those alone that were met."""
    axes = ((facts.get("recipe") or {}).get("source") or {}).get("axes") or {}
    rows = []
    for stage in facts.get("stages") or ():
        counted = (stage.get("reports") or {}).get("coverage") or {}
        for axis in dict.fromkeys((*axes, *counted)) if counted else ():
            found = counted.get(axis, {})
            if isinstance(found, Mapping):
                kept = sorted(found.items(), key=lambda item: (-item[1], item[0]))
                rows.append((stage["name"], axis, kept, [v for v in map(str, axes.get(axis, ())) if v not in found]))
    return rows


def _size(number: int) -> str:
    """The Hub's size category."""
    bounds = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((name for bound, name in bounds if number < bound), "1M<n<10M" if number < 10_000_000 else "n>10M")


def _yaml(value: Json) -> str:
    import yaml

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)


def cell(text: object) -> str:
    """Text as plain text in a table's cell: nothing in it is markup."""
    escaped = re.sub(r"([\\`*_\[\]|~])", r"\\\1", _one_line(text))
    return escaped.replace("<", "&lt;").replace(">", "&gt;")


def code(text: object) -> str:
    """Text as a code span that may stand in a table: the fence is longer than any run of backticks in it."""
    line = _one_line(text)
    ticks = "`" * (_longest_run(line) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{pad}{line}{pad}{ticks}".replace("|", r"\|")


def fence(text: str, language: str = "") -> str:
    """Text as a code block that it cannot end itself."""
    ticks = "`" * max(3, _longest_run(text) + 1)
    return f"{ticks}{language}\n{text}\n{ticks}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
