"""Personal data is what is valid as such; what only looks like it is kept, and the evidence does not repeat it."""

from __future__ import annotations

import pytest

from kdaug.errors import ConfigError
from kdaug.gate import Prepared
from kdaug.gates.pii import Pii
from kdaug.record import Drop, Record, assistant, user


def found(text: str, gate: Pii | None = None, *, prompt: str = "Hi") -> str | None:
    drop = (gate or Pii()).decide(Prepared(Record(prompt=user(prompt), completion=assistant(text))))
    return drop.reason if drop else None


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Write to jo.doe+x@mail.co.uk.", "email"),
        ("Call +44 20 7946 0018 or +49 30 901820.", "phone"),
        ("Card: 4111 1111 1111 1111, please.", "card"),
        ("5500005555555559", "card"),
        ("IBAN DE89 3704 0044 0532 0130 00 AND MORE", "iban"),
        ("GB82WEST12345698765432", "iban"),
        ("export KEY=sk-abcdefghijklmnopqrstuvwx", "secret"),
        ("-----BEGIN RSA PRIVATE KEY-----", "secret"),
    ],
)
def test_what_is_valid_is_found(text: str, kind: str) -> None:
    assert found(text) == f"pii:{kind}"
    assert found("Hello.", prompt=text) == f"pii:{kind}"


@pytest.mark.parametrize(
    "text",
    [
        "Write to jane@example.com, or to x@mail.test.",
        "The order 4111 1111 1111 1112 is late.",  # wrong check digit
        "DE88 3704 0044 0532 0130 00",
        "It costs 1234567890 in 2024, or 3.14159265358979.",
        "a @ b, user@host, sk-learn, version 1.2.3.4",
        "联系我们",
        "",
    ],
)
def test_what_only_looks_like_it_is_kept(text: str) -> None:
    assert found(text) is None


def test_a_number_without_a_country_needs_a_region() -> None:
    assert found("Call (415) 555-2671 or 650-253-0000.") is None
    assert found("Call 650-253-0000.", Pii(region="US")) == "pii:phone"


def test_only_the_kinds_that_are_asked_for_and_no_datum_in_the_evidence() -> None:
    assert found("jo@mail.com", Pii(kinds=("card",))) is None
    record = Record(prompt=user("Hi"), completion=assistant("No."), rejected=assistant("It is jo@mail.com."))
    assert Pii().decide(Prepared(record)) == Drop("pii:email", {"in": "rejected", "found": "jo…om"})


@pytest.mark.parametrize("fields", [{"kinds": ("name",)}, {"region": "Europe"}])
def test_wrong_fields_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Pii(**fields)  # type: ignore[arg-type] # by name
