"""What method each recipe is: its `method:` block, and what its parts say of it."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from kdaug.errors import ConfigError
from kdaug.recipe import parts
from kdaug.recipe_file import RecipeFile, builtin_names, load, unknown
from kdaug.recipes import stages_in
from kdaug.stage import Stage
from kdaug.teacher import role_option

# How knowledge is elicited, how it is distilled, and for which skill: the axes of the survey (arXiv 2402.13116).
FAMILIES = {
    "labeling": "a teacher answers what is given",
    "expansion": "new inputs grow out of given ones",
    "curation": "data is made from topics, documents or code",
    "feature": "a student learns from what a teacher holds inside: its probabilities, its hidden states",
    "feedback": "a teacher criticises, ranks or mends what a student wrote",
    "self-knowledge": "a student learns from what it wrote itself",
}
ALGORITHMS = ("sft", "divergence", "reinforcement", "ranking")
SKILLS = (
    *("instruction", "multi-turn", "rag", "retrieval"),
    *("thinking", "preference", "value", "judging"),
    *("tool", "planning", "recommendation"),
    *("nlu", "summaries", "knowledge", "reasoning", "maths", "code", "sql"),
    *("law", "medicine", "finance", "science", "multimodal"),
)
# What cannot be seen from the roles, and what to say of it.
NEEDS = {
    "sandbox": "runs code that models wrote, in a sandbox: see kdaug doctor",
    "white-box": "a teacher whose probabilities can be read: local or vllm",
    "raw-prompt": "a teacher that goes on from a bare text: local or vllm",
    "documents": "documents of yours in the place of seeds",
    "training": "a student of yours, trained between the rounds: kdaug loop",
}
REQUIRED = ("family", "algorithm", "skill", "paper", "faithful")
FIELDS = (*REQUIRED, "departs", "needs")


@dataclass(frozen=True)
class Method:
    """A method as its recipe has it. `seeds`: what the recipe names, or ""; `source`: how parents are drawn from them,
    where the recipe says so; `given`: roles that the recipe gives; `loop`: how it is trained between its rounds;
    `file`: the recipe's path, where it is none of ours."""

    name: str
    family: str
    algorithm: str
    skills: tuple[str, ...]
    paper: str
    faithful: str
    departs: str
    needs: tuple[str, ...]
    description: str
    seeds: str
    stages: Sequence[Stage]
    given: tuple[str, ...] = ()
    loop: Mapping[str, Any] = field(default_factory=dict)
    source: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    file: str = ""

    @property
    def roles(self) -> list[str]:
        """Whom its parts ask, the teacher first."""
        asked = {role for stage in self.stages for part in parts(stage) for role in part.roles}
        return sorted(asked, key=lambda role: (role != "teacher", role != "student", role))

    @property
    def generators(self) -> list[str]:
        return list(dict.fromkeys(stage.generator.name for stage in self.stages))

    @property
    def command(self) -> str:
        """What runs it: every role is given that it cannot do without."""
        trained = "training" in self.needs
        words = ["kdaug", "loop" if trained else "run", shlex.quote(self.file or self.name)]
        if not self.seeds:
            words.append("--seeds seeds.jsonl")
        for role in self.roles:
            if role in self.given or (role == "judge" and "teacher" in self.roles):
                continue
            looked_into = role == "student" or {"white-box", "raw-prompt"} & {*self.needs}
            spec = "vllm:MODEL" if looked_into else "openai:MODEL"
            words.append(role_option(role, "MODEL" if trained and role == "student" else spec))
        return " ".join([*words, f"--rounds 3 --out loops/{self.name}" if trained else f"--out runs/{self.name}"])


@cache
def methods() -> tuple[Method, ...]:
    """Every built-in recipe that is a method, by family and name. Raises ConfigError for a block that is wrong."""
    found = [method for name in builtin_names() if (method := method_of(load(name)))]
    return tuple(sorted(found, key=lambda method: (list(FAMILIES).index(method.family), method.name)))


def find(name: str) -> Method:
    """A method by its recipe's name, with hyphens or underscores, or by the recipe's file.

    Raises ConfigError for one that is not there, or whose recipe says nothing of a method.
    """
    plain = name.replace("_", "-")
    if plain not in builtin_names():
        if not Path(name).is_file():
            known = [method.name for method in methods()]
            close = get_close_matches(plain.lower(), known, 1, cutoff=0.6)
            hint = f": did you mean {close[0]}?" if close else ""
            raise ConfigError(f"no method {name!r}{hint} (kdaug methods lists all {len(known)})")
        plain = name
    file = load(plain)
    if (method := method_of(file)) is None:
        raise file.error("it has no `method:` block: it is a recipe, and no method of its own")
    return method


def method_of(file: RecipeFile) -> Method | None:
    """What a recipe's `method:` block says; None where it has none. Raises ConfigError, with the line, for a field or a
    word that is not known, and for one that is missing."""
    block = file.values.get("method")
    if block is None:
        return None
    if not isinstance(block, dict):
        raise file.error(f"expected a mapping with {', '.join(REQUIRED)}", "method")
    for key in block:
        if key not in FIELDS:
            raise file.error(unknown("field", str(key), FIELDS), "method", str(key))
    if missing := [key for key in REQUIRED if key not in block]:
        raise file.error(f"needs {' and '.join(missing)}", "method")
    [family] = _words(file, "family", tuple(FAMILIES), many=False)
    [algorithm] = _words(file, "algorithm", ALGORITHMS, many=False)
    roles, source = file.values.get("roles"), file.values.get("source")
    return Method(
        name=file.name,
        family=family,
        algorithm=algorithm,
        skills=_words(file, "skill", SKILLS),
        paper=_text(file, block, "paper"),
        faithful=_text(file, block, "faithful"),
        departs=_text(file, block, "departs") if "departs" in block else "",
        needs=_words(file, "needs", tuple(NEEDS)) if "needs" in block else (),
        description=" ".join(str(file.values.get("description") or "").split()),
        seeds=str(file.values.get("seeds") or ""),
        stages=stages_in(file),
        given=tuple(roles) if isinstance(roles, dict) else (),
        loop=file.values.get("loop") or {},
        source=source if isinstance(source, dict) else {source: {}} if source else {},
        file=file.where if file.folder is not None else "",
    )


def settings(part: object) -> Iterator[tuple[str, Any]]:
    """A part's fields and their values, as the recipe has them."""
    if dataclasses.is_dataclass(part):
        yield from ((one.name, getattr(part, one.name)) for one in dataclasses.fields(part) if one.init)
    else:
        yield from ((name, value) for name, value in vars(part).items() if not name.startswith("_"))


def _words(file: RecipeFile, field: str, known: Sequence[str], *, many: bool = True) -> tuple[str, ...]:
    """One word of those that are known, or a list of them."""
    written = file.values["method"][field]
    words = written if many and isinstance(written, list) else [written]
    for word in words:
        if not isinstance(word, str):
            raise file.error(f"expected one of {', '.join(known)}, found {word!r}", "method", field)
        if word not in known:
            raise file.error(unknown("word", word, known), "method", field)
    if not words:
        raise file.error("an empty list: leave it out, or name one at least", "method", field)
    return tuple(words)


def _text(file: RecipeFile, block: dict[str, Any], field: str) -> str:
    written = block[field]
    if not isinstance(written, str) or not written.strip():
        raise file.error(f"expected a text, found {written!r}", "method", field)
    return " ".join(written.split())
