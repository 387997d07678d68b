"""The card of a student: what it was trained on and how, whose words are in that, how its loss went, how good it is.

models/alpaca/README.md    derived from training.json and evaluation.jsonl beside it, so it can be written again
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import yaml

from kdaug.card import cell, code, fence
from kdaug.errors import ConfigError
from kdaug.models import SMOLLM2, front_matter, locate_model
from kdaug.prompts import render
from kdaug.terms import Terms, shared_licence, terms_of
from kdaug.train import comparison
from kdaug.train.checkpoint import replacing
from kdaug.train.origin import short_name, terms_by, trainings

PRUNED = "pruned"
HASHED = {"student", "data", "teacher"}  # of the facts; the card has their names
OFF = {"steps", "lora_rank", "weight_decay", "clip", "spike", "eval_every", "ema", "hidden", "on_policy", "centring"}
PARTS = {  # settings that are of another one, which may be off
    **dict.fromkeys(("lora_alpha", "lora_dropout", "lora_targets"), "lora_rank"),
    **dict.fromkeys(("hidden_layers", "hidden_measure", "hidden_projection"), "hidden"),
    **dict.fromkeys(("max_new_tokens", "sampling_temperature"), "on_policy"),
}
EMBEDDED = f"HuggingFaceTB/{SMOLLM2}"  # where the embedded model is from


@dataclass(frozen=True, slots=True)
class Base:
    """The model that a student was made of: its `name` for people, its Hub id where it has one, its terms, and how many
    layers it was cut to (0: it has all of them)."""

    name: str
    hub: str | None
    terms: Terms
    layers: int = 0


def write_card(folder: Path, told: Mapping[str, Any]) -> None:
    """README.md in a student's folder. `told`: what its training.json holds, with `results`."""
    terms: dict[str, Terms] = {}
    for about in (told, *trainings(Path(told["student"]))):
        for teacher in about.get("teachers", ()):
            terms.setdefault(teacher, terms_by(about, teacher))
    base = base_of(told["student"])
    data = told.get("data") or {}
    card = render(
        "model.md",
        section="card",
        cell=cell,
        code=code,
        fence=fence,
        front_matter=_front_matter(told, base, list(terms.values())),
        method=told["facts"]["method"],
        base=base,
        terms=terms,
        told=told,
        settings=_telling(told["facts"]),
        results=told["results"],
        data=data,
        data_name=short_name(data["source"]) if data else "",
        recipe=_yaml(data["recipe"]) if data.get("recipe") else "",
        tables=[table.markdown() for table in comparison.read(folder)],
    )
    with replacing(folder / "README.md") as tmp:
        tmp.write_text(card + "\n", encoding="utf-8", newline="\n")


def _telling(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that say something: neither what is off or not of this loss, nor hashes of what has a name."""
    off = {
        name for name, value in facts.items() if value in (None, "") or value is False or (name in OFF and not value)
    }
    idle = {name for name, of in PARTS.items() if of in off}
    return {name: value for name, value in facts.items() if name not in off | idle | HASHED}


def rewrite_card(folder: Path) -> None:
    """The card anew, of what the folder holds by now."""
    write_card(folder, orjson.loads((folder / "training.json").read_bytes()))


def is_student(folder: Path) -> bool:
    """Whether kdaug trained the model in this folder, and finished."""
    file = folder / "training.json"
    return file.is_file() and orjson.loads(file.read_bytes()).get("status") == "finished"


def base_of(student: str) -> Base:
    """By the name that training.json has: a Hub id, or a folder. Of a student that kdaug itself trained or pruned, the
    Hub id is that of the model that it was made of."""
    try:
        model = locate_model(student)
    except ConfigError:  # it was there when the student was trained
        return Base(short_name(student), None, terms_of(short_name(student)))
    if model.where == "package":
        return Base(SMOLLM2, EMBEDDED, terms_of(EMBEDDED))
    if model.where == "hub":
        return Base(student, student, terms_of(student))
    file = Path(model.path) / "training.json"
    if file.is_file():
        return base_of(orjson.loads(file.read_bytes())["student"])
    name, head = short_name(student), front_matter(Path(model.path) / "README.md")
    terms = Terms(model.licence) if model.licence else terms_of(name)
    if PRUNED not in (head.get("tags") or ()):
        return Base(name, None, terms)
    config = orjson.loads((Path(model.path) / "config.json").read_bytes())
    layers = config.get("text_config", config).get("num_hidden_layers", 0)
    return Base(name, head.get("base_model"), terms, layers)


def write_pruned_card(folder: Path, model: str, kept: Sequence[int], layers: int) -> None:
    """README.md of a model of which only the layers `kept` of `layers` are left: so a student made of it knows its
    base."""
    base = base_of(model)
    front: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    if licence := shared_licence([base.terms]):
        front["license"] = licence
    if base.hub is not None:
        front["base_model"] = base.hub
    front["tags"] = ["kdaug", PRUNED]
    card = render(
        "pruned.md", section="card", code=code, front_matter=_yaml(front), base=base, kept=kept, layers=layers
    )
    (folder / "README.md").write_text(card + "\n", encoding="utf-8", newline="\n")


def _front_matter(told: Mapping[str, Any], base: Base, terms: Sequence[Terms]) -> str:
    """The Hub's metadata: https://huggingface.co/docs/hub/model-cards."""
    task = "text-classification" if told["facts"]["method"] == "RewardModel" else "text-generation"
    front: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": task}
    if licence := shared_licence([base.terms, *terms]):
        front["license"] = licence
        if licence == "other":
            front["license_name"] = "terms-of-the-base-model-and-the-teachers"
    if base.hub is not None:
        front["base_model"] = base.hub
    source = (told.get("data") or {}).get("source", "")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not Path(source).exists():
        front["datasets"] = [source]
    front["tags"] = ["kdaug", told["facts"]["method"].lower(), *(["knowledge-distillation"] if terms else [])]
    return _yaml(front)


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100).rstrip()


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
