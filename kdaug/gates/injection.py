"""Suspected prompt injections: text that would speak to a model over the head of who asks it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from kdaug.errors import ConfigError, shorten
from kdaug.gate import Gate, Prepared
from kdaug.generator import Generate
from kdaug.record import Drop, Json, Part, Record, spoken

_WHAT = r"(?:instructions?|prompts?|rules?|directions?|guidelines|messages?|context|text|conversation)"
_OVERRIDE = re.compile(
    r"\b(?:ignore|disregard|forget|override|bypass) (?:(?:all|any|everything|of|the|your|my|these|those|that|and"
    rf"|was|said|previous|prior|above|earlier|preceding|system|original|initial) ){{0,6}}"
    rf"(?:{_WHAT}|above|before|previous)\b"
    r"|\b(?:from now on|starting now),? you (?:are|will|must)\b|\byou are now (?:an?|in|the)\b"
    r"|\bignorier\w* (?:alle |die |sämtliche |vorherigen |obigen |bisherigen ){1,4}\w+"
    r"|\b(?:vergiss|vergesst|vergessen|missachte\w*) (?:sie |bitte |alle[ns]? |die |deine |ihre |sämtliche |was |oben "
    r"|vorher\w* |obigen |bisherigen |früheren |ursprünglichen ){1,5}"
    r"(?:anweisung|anleitung|instruktion|regel|vorgabe|befehl|aufgabe|prompt|kontext|davor|zuvor|vorher|bisher)\w*"
    r"|\b(?:ignora|olvida) (?:todas? |las |los |tus |anteriores ){1,4}\w+"
    r"|\bignore[zr]? (?:toutes? |les |tes |vos |précédentes ){1,4}\w+"
    r"|(?:忽略|无视|忘记)[^。\n]{0,8}(?:指令|指示|提示|内容)",
    re.IGNORECASE,
)
_LEAK = re.compile(
    r"\b(?:reveal|print|repeat|show|output|leak|tell me|what (?:is|are)) (?:me |us )?(?:your|the) (?:(?:system|initial"
    r"|hidden|secret|original) ){1,2}(?:prompt|instructions?|message|rules)\b",
    re.IGNORECASE,
)
# Tokens and tags by which chat templates mark turns.
_TOKENS = re.compile(
    r"<[|｜][\w▁./ -]{1,40}[|｜]>|\[/?INST\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>|</?(?:bos|eos|pad|unk)>"
    r"|\[(?:SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]",
    re.IGNORECASE,
)
_ROLES = re.compile(
    r"^[ \t>*#]*(?:human|assistant|system|user|ai)[*_]*[ \t]*:"
    r"|^#{2,}[ \t]*(?:instruction|response|input|system)s?[ \t]*:",
    re.IGNORECASE | re.MULTILINE,
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f]")
# Overrides and embeddings of direction, what has no width, and tag characters but for those in the flag of a region.
_HIDDEN = re.compile(
    "[\u202a-\u202e\u2066-\u2069\u200b\u2060-\u2064\U000e0001]|(?<!^)\ufeff|(?<![\U0001f3f4\U000e0020-\U000e007f])[\U000e0020-\U000e007f]"
)
_MARKS = re.compile("(?<=[!-~])[\u200c\u200d](?=[!-~])|[\u200e\u200f\u061c]")
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff]")


def hidden(text: str) -> Iterator[str]:
    """Marks of direction belong into Arabic and Hebrew, and joiners between letters of many scripts."""
    yield from (m.group() for m in _HIDDEN.finditer(text))
    if not _RIGHT_TO_LEFT.search(text):
        yield from (m.group() for m in _MARKS.finditer(text))


_UNSEEN = re.compile("[\u00ad\u034f\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufe00-\ufe0f\ufeff]")


def as_read(text: str) -> str:
    """A text as a reader takes it: one space between words, look-alike letters (NFKC) plain, what is not seen gone."""
    return " ".join(unicodedata.normalize("NFKC", _UNSEEN.sub("", text)).split())


def _said(pattern: re.Pattern[str]) -> Callable[[str], Iterator[str]]:
    return lambda text: (m.group() for m in pattern.finditer(as_read(text)))


def _of(pattern: re.Pattern[str]) -> Callable[[str], Iterator[str]]:
    return lambda text: (m.group() for m in pattern.finditer(text))


KINDS: Mapping[str, Callable[[str], Iterator[str]]] = {
    "override": _said(_OVERRIDE),
    "leak": _said(_LEAK),
    "tokens": _of(_TOKENS),
    "roles": _of(_ROLES),
    "control": _of(_CONTROLS),
    "hidden": hidden,
}


@dataclass(frozen=True)
class Injection(Gate):
    """Flags records whose text looks as if it wanted to steer a model: `meta.injection` names what was found, and
    `scores["injection_free"]` is 1 where nothing was, else 1 / (1 + the number of kinds). With `drop` they go.

    `override`: "ignore the above" and its kin, in five languages. `leak`: asks for the system prompt. Both are sought
    whatever the spacing, in full-width letters too, and across soft hyphens and what has no width. `tokens`: the
    tokens of chat templates (`<|im_start|>`, `[INST]`). `roles`: lines that begin as a turn does ("Human:"). `control`:
    NUL and other control characters. `hidden`: what has no width, and controls of direction that no script needs there.
    `kinds`: which of them to look for; `on`: where. A suspicion, not a proof: text about injections has them too, and
    one that is merely well put is not seen.
    """

    kinds: Sequence[str] = tuple(KINDS)
    on: Part = "record"
    drop: bool = False

    name: ClassVar[str] = "injection"

    def __post_init__(self) -> None:
        if unknown := [kind for kind in self.kinds if kind not in KINDS]:
            raise ConfigError(f"injection: no kind {unknown[0]!r}; there are {', '.join(KINDS)}")
        if self.on not in ("prompt", "completion", "record"):
            raise ConfigError(f"injection: on must be prompt, completion or record, not {self.on!r}")

    async def prepare(self, record: Record, generate: Generate) -> Prepared:
        found = self.found(record)
        marked = record.scored(injection_free=1 / (1 + len(found)))
        if found:
            marked = replace(marked, meta={**record.meta, "injection": [*found]})
        return Prepared(marked, found)

    def decide(self, prepared: Prepared) -> Drop | None:
        found: Mapping[str, str] = prepared.evidence
        if not (self.drop and found):
            return None
        evidence: dict[str, Json] = dict(found)
        return Drop(f"injection:{next(iter(found))}", evidence)

    def found(self, record: Record) -> dict[str, str]:
        """By kind, what was found first: characters that cannot be seen as their escapes."""
        text = "\n".join(message.content for message in spoken(record, self.on))
        firsts = {kind: next(KINDS[kind](text), None) for kind in self.kinds}
        return {kind: shorten(ascii(first)[1:-1], 80) for kind, first in firsts.items() if first is not None}
