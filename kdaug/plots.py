"""The plots of a report, by section: Plotly's data and layout, made of the report's numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from kdaug.measures import COSINE, ROUGE, Numbers

SERIES = ("--a", "--b")  # colours are names of the page's CSS variables, so that plots follow light and dark
TOPICS = tuple(f"--t{number}" for number in range(12))
VERBS = 20  # of the figure, with 4 nouns each, as in Self-Instruct's
Trace = dict[str, Any]


@dataclass(frozen=True)
class Plot:
    """`data` and `layout` are Plotly's. `note`: one sentence on how to read it."""

    title: str
    note: str
    data: Sequence[Trace]
    layout: Mapping[str, Any] = field(default_factory=dict)
    height: int = 300
    wide: bool = False


def sections_of(numbers: Numbers) -> dict[str, list[Plot]]:
    """By the section's name; a plot without data has nothing to show."""
    datasets: list[Numbers] = numbers["datasets"]
    two = len(datasets) > 1
    return {
        "Shape": [*_lengths(datasets), _turns(datasets)],
        "Tasks": [
            *(_verb_noun(d, two) for d in datasets),
            *(_openings(d, color, two) for d, color in _colored(datasets)),
        ],
        "Topics": [_topics(numbers), _map(numbers)],
        "Copies": [_nearest(datasets), _novelty(datasets)],
        "Scores": _scores(datasets),
        "Drops": [_drops(d, two) for d in datasets],
    }


def _lengths(datasets: Sequence[Numbers]) -> list[Plot]:
    names = {"prompt": "Prompt length", "answer": "Answer length", "rejected": "Length of rejected answers"}
    return [
        Plot(
            title,
            "Words between spaces (characters of Chinese and the like), without system messages; the last bar holds "
            "all that are longer.",
            [
                _histogram(d, color, known["bins"], 0, known["width"], "words", last_is_open=True)
                for d, color in _colored(datasets)
                if (known := d["lengths"].get(part))
            ],
            _axes("words", "share of texts (%)"),
        )
        for part, title in names.items()
    ]  # fmt: skip


def _turns(datasets: Sequence[Numbers]) -> Plot:
    if all(set(d["turns"]) <= {"1"} for d in datasets):
        return Plot("Turns", "", [])
    most = 20
    data = []
    for d, color in _colored(datasets):
        counts = [0] * (most + 1)
        for turns, n in d["turns"].items():
            counts[min(int(turns), most)] += n
        while len(counts) > 2 and not counts[-1]:
            counts.pop()
        data.append(_histogram(d, color, counts, -0.5, 1, "turns"))
    note = "Messages of the user in the prompt; 20 stands for more as well."
    return Plot("Turns", note, data, _axes("turns", "share of records (%)"))


def _verb_noun(dataset: Numbers, named: bool) -> Plot:
    verbs: dict[str, list[tuple[str, int]]] = {}
    for verb, noun, number in dataset["verb_noun"]["pairs"]:
        verbs.setdefault(verb, []).append((noun, number))
    # The verbs of most pairs, as the pairs are sorted by number: in all, not by the top pair.
    order = sorted(verbs, key=lambda v: (-sum(n for _, n in verbs[v]), v))[:VERBS]
    trace: dict[str, list[Any]] = {"ids": [], "labels": [], "parents": [], "values": []}
    colors: list[str] = []
    for place, verb in enumerate(order):
        nouns = verbs[verb][:4]
        rows = [(verb, verb, "", sum(n for _, n in nouns)), *((f"{verb} {noun}", noun, verb, n) for noun, n in nouns)]
        for row in rows:
            for column, value in zip(trace, row, strict=True):
                trace[column].append(value)
            colors.append(TOPICS[place % len(TOPICS)])
    known = dataset["verb_noun"]
    data = [
        {
            "type": "sunburst",
            **trace,
            "branchvalues": "total",
            "marker": {"colors": colors, "line": {"color": "--card", "width": 1.5}},
            "leaf": {"opacity": 0.86},
            "insidetextfont": {"color": "--on-color"},
            "hovertemplate": "%{id}: %{value} instructions<extra></extra>",
            "sort": False,
        }
    ]
    share = percent(known["with_pair"] / known["instructions"] if known["instructions"] else None)
    return Plot(
        "Verbs and their objects" + _of(dataset, named),
        f"The {VERBS} most frequent leading verbs and their 4 most frequent nouns. {share} of the sampled instructions "
        f"have such a pair, {known['different']:,} different ones: a rule for English, not a parser.",
        data if order else [],
        {"margin": {"l": 4, "r": 4, "t": 4, "b": 4}},
        height=430,
    )


def _openings(dataset: Numbers, color: str, named: bool) -> Plot:
    rows = [row for row in dataset["openings"] if row[1] > 1][::-1]
    return Plot(
        "Most frequent openings" + _of(dataset, named),
        f"The first three words of the {dataset['words']['prompt']['texts']:,} sampled prompts: a few that repeat mean "
        "prompts of one form.",
        [_bars([text for text, _ in rows], [n for _, n in rows], color, "prompts")] if rows else [],
        _axes("prompts", ""),
        height=430,
    )


def _topics(numbers: Numbers) -> Plot:
    datasets = numbers["datasets"]
    names = [_short(name) for name in numbers["topics"]][::-1]
    data = []
    for d, color in _colored(datasets):
        counts = d["semantic"].get("topics", [])[::-1]
        total = sum(counts) or 1
        shades: Any = [TOPICS[place] for place in range(len(names))][::-1] if len(datasets) == 1 else color
        bars = _bars(names, [100 * n / total for n in counts], shades, "", d["name"])
        bars |= {
            "customdata": counts,
            "hovertemplate": "%{y}: %{customdata} prompts, %{x:.1f} %<extra>" + _text(d["name"]) + "</extra>",
        }
        data.append(bars)
    return Plot(
        "Topics",
        "Clusters of the sampled prompts' embeddings (k-means), named by the words that set them apart.",
        data if names else [],
        _axes("share of prompts (%)", ""),
        height=430,
    )  # fmt: skip


def _map(numbers: Numbers) -> Plot:
    datasets, names = numbers["datasets"], numbers["topics"]
    groups: list[tuple[str, str, list[Any]]] = []
    if len(datasets) == 1:
        points = datasets[0]["semantic"].get("map", [])
        groups = [(name, TOPICS[t], [p for p in points if p[2] == t]) for t, name in enumerate(names)]
    else:
        groups = [(d["name"], color, d["semantic"].get("map", [])) for d, color in zip(datasets, SERIES, strict=True)]
    data = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": _text(_short(name)),
            "x": [p[0] for p in points],
            "y": [p[1] for p in points],
            "text": [_wrapped(p[3]) for p in points],
            "marker": {"color": color, "size": 6, "opacity": 0.7, "line": {"width": 0}},
            "hovertemplate": "%{text}" + _extra(_short(name)),
        }
        for name, color, points in groups
        if points
    ]
    bare = {"showticklabels": False, "zeroline": False, "showgrid": False, "ticks": ""}
    return Plot(
        "Map of the prompts",
        "Each point is a sampled prompt: near ones say like things. The two directions of largest variance (PCA); "
        "the axes have no unit.",
        data,
        {
            "xaxis": {**bare, "title": {"text": "first direction"}},
            "yaxis": {**bare, "title": {"text": "second direction"}},
            "showlegend": len(datasets) > 1,
            "hovermode": "closest",
        },
        height=430,
    )


def _nearest(datasets: Sequence[Numbers]) -> Plot:
    data = [
        _histogram(d, color, d["semantic"]["nearest"], 0.0, 0.05, "cosine")
        for d, color in _colored(datasets)
        if d["semantic"].get("nearest")
    ]
    return Plot(
        "Likeness to the nearest other prompt",
        f"Cosine of each sampled prompt with the one most like it: mass right of {COSINE:g} is near-copies.",
        data,
        {**_axes("cosine", "share of prompts (%)"), **_threshold(COSINE)},
    )


def _novelty(datasets: Sequence[Numbers]) -> Plot:
    data = [
        _histogram(d, color, known["bins"], 0.0, 0.05, "ROUGE-L")
        for d, color in _colored(datasets)
        if (known := d["novelty"]) and known["compared"]
    ]
    own = sum((d["novelty"] or {}).get("seeds_own", 0) for d in datasets)
    apart = f" {own:,} that are a seed's own text are left out." if own else ""
    return Plot(
        "Likeness to the seeds",
        f"Highest ROUGE-L F of each sampled instruction with a seed: left is new, right of {ROUGE:g} a near-copy."
        + apart,
        data,
        {**_axes("ROUGE-L F", "share of instructions (%)"), **_threshold(ROUGE)},
    )


def _scores(datasets: Sequence[Numbers]) -> list[Plot]:
    plots = []
    for name in dict.fromkeys(name for d in datasets for name in d["scores"]):
        known = [(d, color, d["scores"][name]) for d, color in _colored(datasets) if name in d["scores"]]
        means = ", ".join(f"{s['mean']:.3g}{_of(d, len(datasets) > 1)}" for d, _, s in known)
        least, most = known[0][2]["from"], known[0][2]["to"]
        width = (most - least) / len(known[0][2]["bins"]) or 1.0
        data = [_histogram(d, color, s["bins"], least, width, "score") for d, color, s in known]
        plots.append(
            Plot(
                f"Score: {name}", f"Mean {means}. Higher is better.", data, _axes("score", "share of records (%)"), 260
            )
        )
    return plots  # fmt: skip


def _drops(dataset: Numbers, named: bool) -> Plot:
    stages = (dataset["run"] or {}).get("stages", [])
    rows = [(f"{reason} ({stage['name']})" if len(stages) > 1 else reason, n, place)
            for place, stage in enumerate(stages) for reason, n in stage["dropped"].items()]  # fmt: skip
    rows.sort(key=lambda row: row[1])
    rows = rows[-25:]
    bars = _bars(
        [name for name, _, _ in rows], [n for _, n, _ in rows], [TOPICS[p % 12] for _, _, p in rows], "records"
    )
    return Plot(
        "Dropped, by reason" + _of(dataset, named),
        "What the gates and parsers of the run turned down; its dropped.parquet holds every one with its evidence.",
        [bars] if rows else [],
        _axes("records", ""),
        height=max(220, 26 * len(rows) + 80),
        wide=not named,
    )


def _colored(datasets: Sequence[Numbers]) -> Iterator[tuple[Numbers, str]]:
    return zip(datasets, SERIES, strict=False)


def _of(dataset: Numbers, named: bool) -> str:
    return f" ({dataset['name']})" if named else ""


def _histogram(
    dataset: Numbers,
    color: str,
    counts: Sequence[int],
    start: float,
    width: float,
    unit: str,
    last_is_open: bool = False,
) -> Trace:
    """Shares in per cent of all counted; tooltips say the range and the number."""
    total = sum(counts) or 1
    ends = [(start + at * width, start + (at + 1) * width) for at in range(len(counts))]
    ranges = [f"{a:.4g}–{b:.4g}" for a, b in ends]
    if unit in ("words", "turns"):  # whole numbers
        first = [round(a + 0.5) if a % 1 else round(a) for a, _ in ends]
        ranges = [f"{a:,}" if width == 1 else f"{a:,}–{a + round(width) - 1:,}" for a in first]
    if last_is_open:
        ranges[-1] = f"{ends[-1][0]:,.0f} or more"
    return {
        "type": "bar",
        "name": _text(dataset["name"]),
        "x": [(a + b) / 2 for a, b in ends],
        "y": [100 * n / total for n in counts],
        "customdata": [[text, n] for text, n in zip(ranges, counts, strict=True)],
        "marker": {"color": color, "opacity": 0.85, "line": {"color": "--card", "width": 0.5}},
        "hovertemplate": f"%{{customdata[0]}} {unit}: %{{customdata[1]:,}} (%{{y:.1f}} %)" + _extra(dataset["name"]),
    }


def _bars(labels: Sequence[str], values: Sequence[float], color: Any, unit: str, name: str = "") -> Trace:
    return {
        "type": "bar",
        "orientation": "h",
        "name": _text(name),
        "y": [_text(_short(label)) for label in labels],
        "width": 0.7 if isinstance(color, list) or not name else None,
        "x": list(values),
        "marker": {"color": color, "opacity": 0.85},
        "hovertemplate": f"%{{y}}: %{{x:,}} {unit}<extra></extra>",
    }


def _axes(x: str, y: str) -> dict[str, Any]:
    return {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}, "automargin": True}, "barmode": "group"}


def _threshold(at: float) -> dict[str, Any]:
    line = {
        "type": "line",
        "x0": at,
        "x1": at,
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "line": {"color": "--muted", "dash": "dot", "width": 1.5},
    }
    return {"shapes": [line]}


def _extra(name: str) -> str:
    return f"<extra>{_text(name)}</extra>"


def _short(text: str, limit: int = 38) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _text(text: str) -> str:
    """Plotly reads a little HTML in labels: this has none."""
    return escape(text, quote=False)


def _wrapped(text: str, width: int = 48) -> str:
    """Lines for a tooltip. A text without spaces is cut at the width."""
    lines = [""]
    for word in text.split(" "):
        for piece in (word[i : i + width] for i in range(0, max(1, len(word)), width)):
            if lines[-1] and len(lines[-1]) + len(piece) >= width:
                lines.append("")
            lines[-1] += (" " if lines[-1] else "") + piece
    return "<br>".join(map(_text, lines))


def percent(share: float | None) -> str:
    if share is None:
        return "–"
    return f"{100 * share:.0f} %" if share in (0, 1) or share >= 0.1 else f"{100 * share:.2g} %"


def figure(value: float | None) -> str:
    """Three digits, thousands apart."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
