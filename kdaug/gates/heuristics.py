"""Heuristics: what small models get wrong in plain sight, found without a model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from kdaug.errors import ConfigError, shorten
from kdaug.gate import Gate, Prepared
from kdaug.gates.languages import LANGUAGES, foreign_to
from kdaug.gates.novelty import compared
from kdaug.record import Drop, Record, text_of
from kdaug.words import count_words, words

REFUSAL_WORDS = (
    80  # a refusal is shorter; a longer answer with an apology in it is an answer (WizardLM, 2304.12244, §3.2)
)
REFUSAL_OPENING = 200  # characters: a refusal begins with it, a story may have it further down
LOOP_WORDS = 8  # a phrase this long does not come back in lists and tables, where a few words differ each time
LOOP_SHORTEST = 16  # words: below this a repetition is a pattern that was asked for ("0 1 0 1 0 1")

_CANNOT = (
    r"(?:can ?not|can't|could not|couldn't|won't|will not|must decline to"
    r"|(?:am |'m )(?:unable|not (?:able|allowed|permitted|programmed|designed)) to)"
)
_SERVE = (
    r"(?:assist|help (?:you|with)|fulfil|comply|provide|answer|generate|create|engage|discuss|offer|respond"
    r"|continue with|complete (?:this|that|your)|do (?:that|this|so))"
)
_REFUSALS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # As an AI language model, I do not … (but not: As an AI engineer, I …)
        r"\bas an? (?:ai|artificial intelligence|(?:large )?language model|chatbot)(?: (?:language )?model| assistant"
        rf"| system)?(?: \w+ by \w+)?,? i(?: \w+)??(?: |(?='))(?:{_CANNOT}|do not|don't|am not|'m not)\b",
        rf"\bi(?:'m| am) (?:just |only )?an? (?:ai|language model)\b[^.]*\b{_CANNOT}",
        # I'm sorry, but I can't help with that. Sorry, I cannot.
        r"\b(?:sorry|apologi[sz]e|unfortunately)\b[^.!?\n]{0,60}?\bi(?: |(?='))"
        rf"{_CANNOT}(?: (?:\w+ )?{_SERVE}|[.!]?\s*$)",
        rf"(?:^|[.!?:\n] ?)(?:no, )?i(?: |(?=')){_CANNOT} (?:\w+ )?{_SERVE}\b",
        r"\bi do(?: not|n't) have (?:access to|the (?:ability|capability)|personal (?:opinion|feeling|experience))",
        r"\b(?:is|would be|it's) (?:not |un|in)(?:ethical|appropriate|possible) for me to\b",
        r"\b(?:against|violates?) my (?:programming|guidelines|policy|policies|principles)\b",
        r"\bes tut mir leid\b[^.!?\n]{0,40}\bkann\b[^.!?\n]{0,60}\bnicht\b",
        r"\blo siento\b[^.!?\n]{0,30}\bno puedo\b",
        r"\bdésolée?\b[^.!?\n]{0,30}\bje ne (?:peux|suis) pas\b",
        r"(?:抱歉|对不起|對不起)[^。！？\n]{0,12}(?:无法|不能|無法)",
        r"(?:申し訳|すみません)[^。！？\n]{0,20}(?:できません|できかねます)",
    )
)
_PLACEHOLDERS = (
    # [Your name], [Insert date here], not a link: [your profile](…)
    re.compile(
        r"\[(?:your|my|insert|enter|add|fill in|name of|recipient|sender|company|client|customer|employer)\b"
        r"[^\[\]\n]{0,60}\](?!\()",
        re.IGNORECASE,
    ),
    re.compile(  # [Name], [Landlord's Name], [Today's date]
        r"(?<!\w)\[(?:[\w'’/-]+ ){0,3}"
        r"(?:name|date|address|city|country|company|phone|phone number|email|title|link|url|topic)\](?!\()",
        re.IGNORECASE,
    ),
    re.compile(r"<(?:insert|your|enter|add|fill)\b[^<>\n]{0,60}>", re.IGNORECASE),
    re.compile(r"\blorem ipsum\b", re.IGNORECASE),
    re.compile(r"^\s*(?:#|//|/\*|--|<!--|;|\*)?\s*TODO\b.*$|(?:#|//|/\*|--|<!--)\s*TODO\b.*$", re.MULTILINE),
    re.compile(
        r"(?:#|//|/\*|--|<!--)\s*(?:\.\.\. ?)?(?:(?:add|insert|put|write|implement) )?(?:your|the rest of (?:the|your)"
        r"|rest of (?:the|your)) (?:own )?(?:code|logic|implementation)\b.*",
        re.IGNORECASE,
    ),
)
_WANTS_TEMPLATE = re.compile(
    r"\b(?:templates?|placeholders?|fill[- ]in[- ]the[- ]blanks?|boilerplate)\b", re.IGNORECASE
)
_LIST_MARKER = re.compile(r"^\s*(?:[-*•]|\(?\d{1,3}[.):])\s+", re.MULTILINE)
_STUTTER = re.compile(r"(\S{1,8}?)\1{63,}")  # aaaa…, !!!!…, hahaha… without a space


@dataclass
class Heuristics(Gate):
    """Drops the answers (or, where there is none yet, the prompts) that are wrong in plain sight.

    Always: `heuristics:empty`. With each rule's field (None or False turns it off):
    `min_words`, `max_words` → `too_short`, `too_long`: words between spaces (characters of Chinese and the like).
    `max_repetition` → `repetition`: the share of the words (of 16 or more) that only say again a phrase of eight words,
    list numbers aside, or the share of the characters in one long run such as `!!!!`.
    `refusals` → `refusal`: an answer under 80 words that begins with "I'm sorry, but I can't help", "As an AI language
    model, I do not" and the like (English; the plainest forms in five other languages). Never a prompt.
    `placeholders` → `placeholder`: "[Your name]", "<insert text>", "lorem ipsum", "# TODO"; not where the prompt has it
    itself or asks for a template.
    `unfinished` → `unfinished`: an answer that ends with a colon, so it announces what does not come.
    `language`, such as "en" → `language`: another script, or the small words of another language that kdaug knows
    (`kdaug.gates.languages` says which). Near relatives and rare languages it cannot tell apart; code does not count.
    """

    name: ClassVar[str] = "heuristics"
    min_words: int | None = None
    max_words: int | None = None
    max_repetition: float | None = 0.6
    refusals: bool = True
    placeholders: bool = True
    unfinished: bool = True
    language: str | None = None

    def __post_init__(self) -> None:
        if self.max_repetition is not None and not 0 <= self.max_repetition <= 1:
            raise ConfigError(f"heuristics: max_repetition must be between 0 and 1, not {self.max_repetition!r}")
        if self.language is not None and self.language not in LANGUAGES:
            raise ConfigError(f"heuristics: language must be one of {', '.join(LANGUAGES)}, not {self.language!r}")
        for name in ("min_words", "max_words"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise ConfigError(f"heuristics: {name} must be 0 or more, not {value}")
        if self.min_words is not None and self.max_words is not None and self.min_words > self.max_words:
            raise ConfigError(f"heuristics: min_words {self.min_words} is more than max_words {self.max_words}")

    def decide(self, prepared: Prepared) -> Drop | None:
        record = prepared.record
        text = _said(record)
        if not text.strip():
            calls = any(m.tool_calls for m in record.completion or ())
            return None if calls else Drop("heuristics:empty")
        return next(self._wrongs(record, text), None)

    def _wrongs(self, record: Record, text: str) -> Iterator[Drop]:
        """Cheapest rules first."""
        length, prompt = count_words(text), text_of(record.prompt)
        is_answer = record.completion is not None
        if self.min_words is not None and length < self.min_words:
            yield Drop("heuristics:too_short", {"words": length, "min_words": self.min_words})
        if self.max_words is not None and length > self.max_words:
            yield Drop("heuristics:too_long", {"words": length, "max_words": self.max_words})
        if self.refusals and is_answer and length < REFUSAL_WORDS and (phrase := refusal(text)):
            yield Drop("heuristics:refusal", {"phrase": phrase, "words": length})
        if self.placeholders and (phrase := placeholder(text, prompt if is_answer else "")):
            yield Drop("heuristics:placeholder", {"phrase": phrase})
        if self.unfinished and is_answer and text.rstrip("*_ \n\t").endswith((":", "：")):
            yield Drop("heuristics:unfinished", {"end": text.rstrip()[-60:]})
        if self.max_repetition is not None:
            share, phrase = repetition(text)
            if share > self.max_repetition:
                yield Drop("heuristics:repetition", {"share": round(share, 3), "phrase": phrase})
        if self.language is not None and (why := foreign_to(self.language, text)):
            yield Drop("heuristics:language", {"expected": self.language, "found": why})


def _said(record: Record) -> str:
    """What the assistant says, without tool results; of a record without a completion, what its prompt says."""
    if record.completion is None:
        return compared(record, "prompt")
    return "\n\n".join(m.content for m in record.completion if m.role == "assistant" and m.content)


def refusal(answer: str) -> str | None:
    """The words with which the answer refuses; None where it does not begin so."""
    opening = answer.replace("’", "'").lstrip()[:REFUSAL_OPENING]
    found = next((m for pattern in _REFUSALS if (m := pattern.search(opening))), None)
    return shorten(found.group()) if found else None


def placeholder(text: str, prompt: str = "") -> str | None:
    """A gap that the text leaves to be filled in, where `prompt` neither has it nor asks for a template."""
    if _WANTS_TEMPLATE.search(prompt):
        return None
    given = prompt.lower()
    hits = (m.group().strip() for pattern in _PLACEHOLDERS for m in pattern.finditer(text))
    return next((shorten(hit) for hit in hits if hit.lower() not in given), None)


def repetition(text: str) -> tuple[float, str]:
    """The share of the text that says again what it said before, from 0 to 1, and the phrase said most often."""
    run = max(_STUTTER.finditer(text), key=lambda m: len(m.group()), default=None)
    stutter = len(run.group()) / len("".join(text.split())) if run else 0.0
    loop, phrase = _loop(words(_LIST_MARKER.sub("", text)))
    return (stutter, shorten(run.group(), 40)) if run and stutter > loop else (loop, phrase)


def _loop(said: list[str]) -> tuple[float, str]:
    """The share of the words within a phrase of LOOP_WORDS that came before."""
    if len(said) < LOOP_SHORTEST:
        return 0.0, ""
    times: dict[tuple[str, ...], int] = {}
    again, covered_to = 0, 0
    for at in range(len(said) - LOOP_WORDS + 1):
        phrase = tuple(said[at : at + LOOP_WORDS])
        times[phrase] = times.get(phrase, 0) + 1
        if times[phrase] > 1:
            again += at + LOOP_WORDS - max(at, covered_to)
            covered_to = at + LOOP_WORDS
    most = max(times, key=lambda phrase: times[phrase])
    return again / len(said), " ".join(most)
