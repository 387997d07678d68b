"""The card of a student: what it was trained on and how, whose words are in that, and how its loss went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdaug.prompts import render
from kdaug.terms import terms_of
from kdaug.train.student import replacing


def write_card(folder: Path, told: Mapping[str, Any]) -> None:
    """README.md in a student's folder. `told`: what its training.json holds, with `results`."""
    facts, results = told["facts"], told["results"]
    about = {name: value for name, value in told.items() if name not in ("facts", "results", "status")}
    card = render(
        "model.md",
        section="card",
        method=facts["method"],
        terms=[terms_of(teacher) for teacher in told["teachers"]],
        facts=facts,
        **about,
        **results,
    )
    with replacing(folder / "README.md") as tmp:
        tmp.write_text(card + "\n", encoding="utf-8", newline="\n")


def draw_curve(metrics: Sequence[dict[str, Any]], file: Path) -> None:
    """The loss of every step, and over it the mean of each step's neighbours (a tenth of all steps)."""
    from matplotlib.figure import Figure

    steps, losses = [m["step"] for m in metrics], [m["loss"] for m in metrics]
    reach = len(losses) // 20
    near = [losses[max(0, i - reach) : i + reach + 1] for i in range(len(losses))]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    marker = "." if len(steps) < 50 else ""
    axes.plot(steps, losses, color="tab:blue", alpha=0.4, linewidth=1, marker=marker, label="each step")
    axes.plot(steps, [sum(n) / len(n) for n in near], color="tab:blue", linewidth=2, label=f"mean of {2 * reach + 1}")
    axes.set(xlabel="step", ylabel="loss (nats)", xlim=(min(steps), max(steps)) if len(steps) > 1 else None)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with replacing(file) as tmp:
        figure.savefig(tmp, format="png", dpi=150)
