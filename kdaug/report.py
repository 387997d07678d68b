"""The diversity and health of a dataset, or of two side by side: a page, its numbers as JSON, a part of the card."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

import kdaug
from kdaug.dataset import Dataset, is_dataset
from kdaug.embedding import Embedder
from kdaug.errors import ConfigError, KdaugError, require
from kdaug.export import whole
from kdaug.gates.novelty import compared
from kdaug.journal import Journal
from kdaug.measures import Numbers, embed_all, measure, novelty
from kdaug.page import page
from kdaug.prompts import render
from kdaug.read import stream
from kdaug.record import Record
from kdaug.survey import survey
from kdaug.tallies import cut_replies, tally

SEEDS = 2_000  # seeds that are compared with
_SECTION = re.compile(r"\n*<!-- kdaug report -->.*?<!-- end of kdaug report -->\n*", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What to measure, and how.

    `sample`: records, drawn evenly by `seed`, of which more than counts is measured. `seeds`: what the sample is held
    against (by default a run's own seeds). `model`: the sentence encoder (None: kdaug's default). `split`: one split
    alone (by default all of a dataset of kdaug's, `train` of any other).
    """

    sample: int = 2_000
    seed: int = 0
    seeds: str | None = None
    model: str | None = None
    split: str | None = None

    def __post_init__(self) -> None:
        if self.sample < 1:
            raise ConfigError(f"report: sample must be at least 1, not {self.sample}")

    def measure(self, sources: Sequence[str | Path]) -> Numbers:
        """All numbers of one dataset or two, as plain JSON. Raises ConfigError for what cannot be read."""
        if not 1 <= len(sources) <= 2:
            raise ConfigError(f"report: give one dataset, or two to put side by side, not {len(sources)}")
        runs = [_run_of(Path(source)) for source in sources]
        seeds = [self._seeds(run) for run in runs]
        surveys = [survey(self._records(source), sample=self.sample, seed=self.seed) for source in sources]
        even = min(len(one.sample) for one in surveys)
        for one in surveys:  # what depends on the number of texts is measured on equally many
            one.thin(even, self.seed)
        datasets = measure(surveys)
        named: list[str] = []
        encoder = missing = ""
        try:
            embedder = Embedder(self.model)
            encoder = embedder.found.name
            require("faiss", "embed", "a report's topics")
            named, embedded = embed_all(surveys, embedder.embed, self.seed)
        except ConfigError as e:
            if self.model is not None:
                raise
            encoder, missing, embedded = "", str(e), [{} for _ in sources]
        for number, dataset in enumerate(datasets):
            dataset["name"] = _name(sources[number], sources)
            dataset["source"] = str(sources[number])
            dataset["semantic"] = embedded[number]
            dataset["novelty"] = novelty(surveys[number], seeds[number])
            dataset["run"] = _run(runs[number])
        return {
            "kdaug": kdaug.__version__,
            "sample": self.sample,
            "seed": self.seed,
            "topics": named,
            "encoder": encoder,
            "not_measured": missing,
            "datasets": datasets,
        }

    def write(self, sources: Sequence[str | Path], out: Path | None = None) -> Path:
        """Writes the page, beside it the JSON, and a section into the card of one dataset of kdaug's own.

        `out`: the page's file, by default `report.html` in the run folder, `NAME.report.html` beside any other folder
        or file, and `report.html` here for two. Returns it. Raises ConfigError without plotly, KdaugError where it
        cannot be written.
        """
        require("plotly", "report", "a report's page")
        target = out or _default_out(sources)
        if target.is_dir() or target.suffix.lower() not in (".html", ".htm"):
            raise ConfigError(f"report: --out is the page's file, such as report.html, not {target}")
        numbers = self.measure(sources)
        for path, body in (
            (target, page(numbers).encode(errors="replace")),
            (target.with_suffix(".json"), orjson.dumps(numbers, option=orjson.OPT_INDENT_2)),
        ):
            with whole(path) as fresh:
                fresh.write_bytes(body)
        if len(sources) == 1 and (folder := _dataset_of(Path(sources[0]))):
            _into_card(folder / "README.md", numbers)
        return target

    def _records(self, source: str | Path) -> Iterator[Record]:
        folder = _dataset_of(Path(source))
        if folder is not None and self.split is None:
            return Dataset(folder).records()
        if (Path(source) / "run.json").is_file():
            Dataset(Path(source))  # says what a run without a dataset lacks
        return stream(source, split=self.split or "train")

    def _seeds(self, run: Path | None) -> list[str]:
        """The instructions of the first 2,000 seeds that have one."""
        if self.seeds is not None:
            records: Iterator[Record] = stream(self.seeds)
        elif run is not None:
            records = _journalled(run)
        else:
            return []
        texts = (text for record in records if (text := compared(record, "instruction")).strip())
        return list(islice(dict.fromkeys(islice(texts, 50 * SEEDS)), SEEDS))


def _journalled(run: Path) -> Iterator[Record]:
    with closing(Journal.read_only(run)) as journal:
        yield from journal.seeds()


def _run(folder: Path | None) -> Numbers | None:
    """Of a run: by stage what was kept and dropped, and the replies that ended at `max_tokens`."""
    if folder is None:
        return None
    try:
        facts: dict[str, Any] = orjson.loads((folder / "run.json").read_bytes())
    except (OSError, orjson.JSONDecodeError) as e:
        raise ConfigError(f"{folder}/run.json cannot be read ({e}): run the recipe again to renew it") from e
    with closing(Journal.read_only(folder)) as journal:
        stages = []
        for index, stage in enumerate(facts.get("stages") or ()):
            jobs, kept, dropped = tally(journal, index)
            order = sorted(dropped.items(), key=lambda item: (-item[1], item[0]))
            stages.append({"name": stage["name"], "jobs": jobs, "kept": kept, "dropped": dict(order)})
        replies = {teacher: {"replies": n, "cut": cut} for teacher, (n, cut) in cut_replies(journal).items()}
    return {"status": facts.get("status"), "stages": stages, "replies": replies}


def _run_of(path: Path) -> Path | None:
    """The run folder that this is, or whose dataset it is."""
    for folder in (path, path.parent):
        if (folder / "run.json").is_file() and (folder / "journal.sqlite").is_file() and _dataset_of(path):
            return folder
    return None


def _dataset_of(path: Path) -> Path | None:
    return next((folder for folder in (path, path / "dataset") if is_dataset(folder)), None)


def _name(source: str | Path, sources: Sequence[str | Path]) -> str:
    """Short, unless both are called the same."""
    short = [Path(s).name or str(s) for s in sources]
    name = Path(source).name or str(source)
    return str(source) if short.count(name) > 1 else name


def _default_out(sources: Sequence[str | Path]) -> Path:
    path = Path(sources[0])
    if len(sources) > 1:
        return Path("report.html")
    if run := _run_of(path):
        return run / "report.html"
    # Beside the folder: what writes a dataset anew takes nothing for its own that it did not write.
    beside = path.resolve() if path.exists() else Path(path.name)
    return beside.with_name(f"{beside.name if path.is_dir() else beside.stem}.report.html")


def _into_card(card: Path, numbers: Numbers) -> None:
    """In place of the section of an earlier report, or at the end."""
    try:
        before = card.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise KdaugError(f"cannot read {card}: {e}") from e
    section = render("report.md", section="card", numbers=numbers, dataset=numbers["datasets"][0])
    with whole(card) as fresh:
        fresh.write_text(f"{_SECTION.sub('', before).rstrip()}\n\n{section}\n", encoding="utf-8", newline="\n")
