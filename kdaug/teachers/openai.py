"""A model behind an OpenAI-compatible endpoint, whole: its limits are kept and its failures are mended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

from kdaug.declared import check_fields
from kdaug.record import Json
from kdaug.teacher import Completion, Request, Teacher
from kdaug.teachers.endpoint import OPENAI_KEY, OPENAI_URL, Endpoint
from kdaug.teachers.limit import Limit
from kdaug.teachers.retry import Retry


@dataclass(eq=False)
class OpenAI:
    """A model behind any endpoint that speaks OpenAI's chat completions API: `Retry(Limit(Endpoint(…)))`.

    `base_url`, `api_key_env`, `api_key_file`, `timeout`, `extra_body`, `send_seed`, `tokenizer` and `proxies` are
    `Endpoint`'s; `rpm`, `tpm` (requests and tokens a minute) and `adaptive` are `Limit`'s; `tries` and `patience`
    (seconds) are `Retry`'s. `concurrency`: the most requests in flight; `adaptive` finds out whether fewer do better.

    Raises ConfigError for an argument of the wrong type or out of its range.
    """

    model: str
    _: KW_ONLY
    base_url: str = OPENAI_URL
    api_key_env: str = OPENAI_KEY
    api_key_file: str | Path | None = None
    concurrency: int = 64
    timeout: float = 120.0
    extra_body: Mapping[str, Json] = field(default_factory=dict)
    send_seed: bool = False
    tokenizer: str | None = None
    proxies: bool = True
    rpm: float | None = None
    tpm: float | None = None
    adaptive: bool = True
    tries: int = 6
    patience: float = 60.0

    def __post_init__(self) -> None:
        check_fields(self)
        endpoint = Endpoint(
            self.model,
            base_url=self.base_url,
            api_key_env=self.api_key_env,
            api_key_file=self.api_key_file,
            concurrency=self.concurrency,
            timeout=self.timeout,
            extra_body=self.extra_body,
            send_seed=self.send_seed,
            tokenizer=self.tokenizer,
            proxies=self.proxies,
        )
        limit = Limit(endpoint, rpm=self.rpm, tpm=self.tpm, adaptive=self.adaptive)
        self._whole = Retry(limit, tries=self.tries, patience=self.patience)

    @property
    def name(self) -> str:
        return self._whole.name

    @property
    def once(self) -> Teacher:
        """Without the repeating of failed calls."""
        return self._whole.once

    @property
    def status(self) -> str:
        return self._whole.status

    async def open(self, state: Path) -> None:
        """Read the key and set up the connections. Raises ConfigError for a missing key, CA bundle or proxy."""
        await self._whole.open(state)

    async def generate(self, request: Request) -> Completion:
        return await self._whole.generate(request)

    async def flush(self) -> None:
        await self._whole.flush()

    async def aclose(self) -> None:
        await self._whole.aclose()
