"""The page of a report: one HTML file that holds its plots, its script and its styles, and loads nothing."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import orjson

from kdaug.measures import COSINE, ROUGE, Numbers
from kdaug.plots import figure, percent, sections_of
from kdaug.prompts import render, shipped


def page(numbers: Numbers) -> str:
    """The page's HTML. Whatever the records say is shown as text: it is escaped, and the page's policy allows no script
    but its own two, by their hash, and no connection."""
    from plotly.offline import get_plotlyjs

    sections = {name: [p for p in plots if p.data] for name, plots in sections_of(numbers).items()}
    plots = [plot for group in sections.values() for plot in group]
    scripts = [get_plotlyjs().replace("\r\n", "\n"), _file("page.js")]
    return (
        render(
            "page.html",
            section="report",
            style=_file("page.css"),
            scripts=scripts,
            hashes=[base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts],
            numbers=numbers,
            datasets=numbers["datasets"],
            headline=headline(numbers),
            sections=sections,
            place={id(plot): number for number, plot in enumerate(plots)},
            id=id,
            data=_embedded([{"data": p.data, "layout": p.layout} for p in plots]),
            percent=percent,
            figure=figure,
            thresholds={"rouge": ROUGE, "cosine": COSINE},
        )
        + "\n"
    )


def _file(name: str) -> str:
    return (shipped() / "report" / name).read_text(encoding="utf-8")


def _embedded(value: Any) -> str:
    """JSON that may stand in a script element: nothing in it ends the element or opens another one."""
    text = orjson.dumps(value).decode()
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def headline(numbers: Numbers) -> list[dict[str, Any]]:
    """The figures at the top: what they are called, each dataset's value, and what the value means."""
    datasets = numbers["datasets"]

    def row(name: str, meaning: str, values: list[str]) -> dict[str, Any]:
        return {"name": name, "meaning": meaning, "values": values}

    def of(*path: str) -> list[Any]:
        found = []
        for dataset in datasets:
            value: Any = dataset
            for key in path:
                value = (value or {}).get(key)
            found.append(value)
        return found

    rows = [
        row("Records", "all of them are counted", [f"{n:,}" for n in of("records")]),
        row("Prompt, median", "words", [figure(n) for n in of("lengths", "prompt", "median")]),
        row("Answer, median", "words", [figure(n) for n in of("lengths", "answer", "median")]),
        row(
            "Vendi score",
            f"as many unlike prompts, of {' and '.join(f'{n:,}' for n in dict.fromkeys(of('sampled')))} sampled",
            [figure(n) for n in of("semantic", "vendi")],
        ),
        row(
            "Near-copies",
            f"prompts with an earlier one of cosine > {COSINE:g}",
            [percent(n) for n in of("semantic", "near_copies_cosine")],
        ),
        row("Exact copies", "prompts that came before, of all", [percent(n) for n in of("copies")]),
        row(
            "Distinct-2",
            "different word pairs, of all in the sampled prompts",
            [percent(n) for n in of("words", "prompt", "distinct_2")],
        ),
        row(
            "Self-BLEU",
            "likeness of the prompts: 0 none, 1 copies",
            [figure(n) for n in of("words", "prompt", "self_bleu")],
        ),
        row("Refusals", "answers that begin with one", [percent(n) for n in of("health", "refusals")]),
        row("Cut off", "answers that end within a sentence", [percent(n) for n in of("health", "cut_off")]),
    ]
    return [r for r in rows if any(value != "–" for value in r["values"])]
