"""What tokens cost: by the recipe, by the table of genai-prices, or unknown. Never silently zero."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from kdaug.errors import ConfigError
from kdaug.tallies import Used
from kdaug.teacher import Teacher

UNBILLED = ("local", "vllm", "serve", "fake")  # kinds of teacher that send no bill: your own machine, a script
BATCH_FACTOR = 0.5  # what the providers' batch APIs charge of the usual price (OpenAI, Anthropic and Google, 2026)
MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens, and where the figures come from."""

    input: float
    output: float
    source: str = "given"

    def __post_init__(self) -> None:
        if not (self.input >= 0 and self.output >= 0):
            raise ConfigError(f"a price is at least 0 US dollars per million tokens, not {self.input}, {self.output}")

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """In US dollars."""
        return (prompt_tokens * self.input + completion_tokens * self.output) / MILLION


def prices_of(teachers: Iterable[Teacher], given: Mapping[str, Price]) -> dict[str, Price | None]:
    """The price of each teacher by its name; None where nobody knows it."""
    return {teacher.name: price_of(teacher, given) for teacher in teachers}


def price_of(teacher: Teacher, given: Mapping[str, Price]) -> Price | None:
    """`given` names a teacher (`openai:gpt-x`) or a model (`gpt-x`), and goes before the table."""
    if several := getattr(teacher, "teachers", ()):  # a route: whichever is asked, it costs no more than the dearest
        prices = [price_of(one, given) for one in several]
        known = [price for price in prices if price is not None]
        return max(known, key=lambda p: p.input + p.output) if len(known) == len(prices) else None
    kind, _, model = teacher.name.partition(":")
    for name in (teacher.name, model):
        if name in given:
            return given[name]
    if kind in UNBILLED or getattr(teacher, "unbilled", False):
        return Price(0.0, 0.0, "no bill")
    base_url = getattr(teacher, "base_url", None)
    found = None if base_url and _is_near(base_url) else _from_table(model, base_url)
    if found is not None and kind == "batch":
        return Price(found.input * BATCH_FACTOR, found.output * BATCH_FACTOR, f"{found.source}, batch")
    return found


def check_named(priced: Iterable[str], teachers: Iterable[Teacher]) -> None:
    """Raises ConfigError where a price is for a model that no teacher is, so that it would count for nothing."""
    names = [one.name for teacher in teachers for one in (teacher, *getattr(teacher, "teachers", ()))]
    known = {*names, *(name.partition(":")[2] for name in names)}
    for model in priced:
        if model not in known:
            raise ConfigError(
                f"--price {model}=…: no teacher here is that model; there is {', '.join(names) or 'none'}"
            )


def _is_near(base_url: str) -> bool:
    """Whether an address is of this machine or network, which no table knows."""
    host = urlsplit(base_url).hostname or ""
    try:
        return ip_address(host).is_private
    except ValueError:
        return host == "localhost" or "." not in host


def _from_table(model: str, base_url: str | None) -> Price | None:
    """The price is the endpoint's, not the model's: a table without this endpoint knows nothing of it."""
    if find_spec("genai_prices") is None:
        return None
    from genai_prices import Usage, calc_price

    thousand = Usage(input_tokens=1000, output_tokens=1000)  # a usual call, so that no tier for long ones is met
    try:
        found = calc_price(thousand, model, provider_api_url=base_url)
    except LookupError:
        return None
    return Price(
        float(found.input_price) * 1000, float(found.output_price) * 1000, f"genai-prices: {found.provider.id}"
    )


def price_hint() -> str:
    """How an unknown price becomes known."""
    return "give --price" if find_spec("genai_prices") else "give --price, or pip install 'kdaug[prices]'"


def parse_price(text: str) -> tuple[str, Price]:
    """`MODEL=INPUT,OUTPUT` in US dollars per million tokens, as on the command line."""
    model, sign, figures = text.rpartition("=")
    try:
        low, high = (float(figure) for figure in figures.split(","))
    except ValueError:
        sign = ""
    if not sign or not model:
        raise ConfigError(
            f"--price {text}: expected MODEL=INPUT,OUTPUT in US dollars per million tokens: gpt-x=0.4,1.6"
        )
    return model, Price(low, high)


@dataclass(frozen=True, slots=True)
class Bill:
    """What a run has asked so far, by teacher and by stage. A cost is None where a price is unknown.

    `unclear`: US dollars at most for attempts that broke off and may have been billed all the same.
    """

    used: Sequence[Used]
    prices: Mapping[str, Price | None]
    kept: int

    @property
    def cost(self) -> float | None:
        return self._cost(self.used)

    @property
    def per_kept(self) -> float | None:
        cost = self.cost
        return None if cost is None or not self.kept else cost / self.kept

    @property
    def unclear(self) -> float | None:
        return self._sum(self.used, lambda u: (u.unclear_prompt_tokens, u.unclear_completion_tokens))

    def to_json(self) -> dict[str, Any]:
        return {
            "currency": "USD",
            "cost": self.cost,
            "per_kept": self.per_kept,
            "unclear": self.unclear,
            "prices": {
                name: None if price is None else {"input": price.input, "output": price.output, "source": price.source}
                for name, price in self.prices.items()
            },
        }

    def by_teacher(self) -> dict[str, dict[str, Any]]:
        return {name: self._row([u for u in self.used if u.teacher == name]) for name in self._names()}

    def of_stage(self, stage: int) -> dict[str, Any]:
        return self._row([u for u in self.used if u.stage == stage])

    def _names(self) -> list[str]:
        return list(dict.fromkeys(u.teacher for u in self.used))

    def _row(self, used: Sequence[Used]) -> dict[str, Any]:
        names = ("calls", "failed", "prompt_tokens", "completion_tokens")
        unclear = sum(u.unclear_prompt_tokens + u.unclear_completion_tokens for u in used)
        counts = {name: sum(getattr(u, name) for u in used) for name in names}
        return {**counts, "unclear_tokens": unclear, "cost": self._cost(used)}

    def _cost(self, used: Sequence[Used]) -> float | None:
        return self._sum(used, lambda u: (u.prompt_tokens, u.completion_tokens))

    def _sum(self, used: Sequence[Used], tokens: Callable[[Used], tuple[int, int]]) -> float | None:
        costs = [0.0]
        for row in used:
            price = self.prices.get(row.teacher)
            if price is None:
                return None
            costs.append(price.cost(*tokens(row)))
        return sum(costs)


def spent(bill: Mapping[str, Any]) -> str:
    """A line on what was billed or may have been; empty where that is nothing. `bill`: as `Bill.to_json` gives it."""
    if not bill["cost"] and not bill["unclear"]:
        return ""
    each = "" if bill["per_kept"] is None else f", {dollars(bill['per_kept'])} a kept record"
    unclear = f", and {dollars(bill['unclear'])} at most for calls that broke off" if bill["unclear"] else ""
    return f"cost: {dollars(bill['cost'])}{each}{unclear}"


def tokens(used: Mapping[str, Any]) -> str:
    """`1,200 prompt and 340 completion tokens`, and what else may have been billed. `used`: a row of a `Bill`."""
    plain = f"{used['prompt_tokens']:,} prompt and {used['completion_tokens']:,} completion tokens"
    unclear = used.get("unclear_tokens", 0)
    return plain + (f", and {unclear:,} at most for calls that broke off" if unclear else "")


def dollars(cost: float | None) -> str:
    """`$0.0042`, `$12.30`, `unknown`."""
    if cost is None:
        return "unknown"
    return f"${cost:,.2f}" if cost >= 1 or cost == 0 else f"${cost:.2g}"
