"""Personal data in plain sight: e-mail addresses, phone, card and account numbers, and keys, each checked as such."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from kdaug.errors import ConfigError, require
from kdaug.gate import Gate, Prepared
from kdaug.record import Drop, Record, text_of

_EMAIL = re.compile(
    r"(?<![\w.+-])[\w.+-]{1,64}@(?P<domain>(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,24})\b", re.I
)
_CARD = re.compile(r"(?<![\w.-])[2-6]\d{3}(?:[ -]?\d){8,15}(?![\w-])")
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}(?!\w)")
# Keys that say whose they are by how they begin: OpenAI and others, GitHub, AWS, Google, Slack, Hugging Face; PEM.
_SECRET = re.compile(
    r"(?<!\w)(?:sk-[\w-]{20,}|gh[pousr]_\w{36,}|github_pat_\w{22,}|AKIA[0-9A-Z]{16}|AIza[\w-]{35}|xox[abprs]-[\w-]{10,}"
    r"|hf_[A-Za-z]{30,})(?!\w)|-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----"
)
# Names that belong to nobody (RFC 2606, RFC 6761).
_NOBODY = re.compile(r"(?:^|\.)(?:example(?:\.(?:com|org|net|edu))?|test|invalid|localhost|local)$", re.I)


@dataclass(frozen=True)
class Pii(Gate):
    """Drops records with personal data or keys in prompt or answer: `pii:email`, `pii:phone`, and so on.

    What counts is a whole and valid one: a phone number that its country could give out (with a country code; with
    `region`, such as "US", also without one), a card number or IBAN whose check digits are right, an e-mail address at
    a domain that is not reserved for examples, a key by the way it begins. Names and postal addresses it cannot see.
    `kinds`: which of them to look for. The evidence has the first and last two characters, not the datum.
    """

    kinds: Sequence[str] = ("email", "phone", "card", "iban", "secret")
    region: str | None = None

    name: ClassVar[str] = "pii"

    def __post_init__(self) -> None:
        if unknown := [kind for kind in self.kinds if kind not in FINDERS]:
            raise ConfigError(f"pii: no kind {unknown[0]!r}; there are {', '.join(FINDERS)}")
        require("phonenumbers", "filters", "the pii gate")
        require("stdnum", "filters", "the pii gate")
        from phonenumbers import SUPPORTED_REGIONS

        if self.region is not None and self.region not in SUPPORTED_REGIONS:
            raise ConfigError(f"pii: region {self.region!r} is no country's code of two letters, such as US")

    def decide(self, prepared: Prepared) -> Drop | None:
        record = prepared.record
        return next((drop for where, text in _texts(record) if (drop := self._found(where, text))), None)

    def _found(self, where: str, text: str) -> Drop | None:
        for kind in self.kinds:
            if (found := next(FINDERS[kind](text, self.region), None)) is not None:
                return Drop(f"pii:{kind}", {"in": where, "found": f"{found[:2]}…{found[-2:]}"})
        return None


def _texts(record: Record) -> Iterator[tuple[str, str]]:
    yield "prompt", text_of(record.prompt)
    for where, answer in (("completion", record.completion), ("rejected", record.rejected)):
        if answer is not None:
            yield where, text_of(answer)


def emails(text: str, region: str | None) -> Iterator[str]:
    return (m.group() for m in _EMAIL.finditer(text) if not _NOBODY.search(m["domain"]))


def phones(text: str, region: str | None) -> Iterator[str]:
    from phonenumbers import PhoneNumberMatcher

    return (match.raw_string for match in PhoneNumberMatcher(text, region))


def cards(text: str, region: str | None) -> Iterator[str]:
    from stdnum import luhn

    return (m.group() for m in _CARD.finditer(text) if luhn.is_valid(re.sub(r"\D", "", m.group())))


def ibans(text: str, region: str | None) -> Iterator[str]:
    """Words may follow one that is written in groups: its country says how long it is."""
    from stdnum import iban

    for match in _IBAN.finditer(text):
        groups = match.group().split(" ")
        heads = (" ".join(groups[:n]) for n in range(len(groups), 0, -1))
        if (found := next((head for head in heads if iban.is_valid(head)), None)) is not None:
            yield found


def secrets(text: str, region: str | None) -> Iterator[str]:
    return (m.group() for m in _SECRET.finditer(text))


FINDERS: Mapping[str, Callable[[str, str | None], Iterator[str]]] = {
    "email": emails,
    "phone": phones,
    "card": cards,
    "iban": ibans,
    "secret": secrets,
}
