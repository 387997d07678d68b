"""One address of OpenAI's chat completions API (OpenAI, vLLM, llama.cpp, Ollama, OpenRouter, …), asked over HTTP.

A thin client of our own on aiohttp: its CPU time is 1.05 to 1.25 times that of a bare aiohttp loop, where the `openai`
package takes 4 to 9 times as much (docs/benchmarks.md). One call is one HTTP request; limits and
retries stand around it, see `OpenAI`.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import orjson

from kdaug.chat import Chat
from kdaug.errors import AccessDenied, BadRequest, ConfigError, TeacherError, TeacherTimeout, shorten
from kdaug.models import find_model
from kdaug.record import Json, Message
from kdaug.teacher import Completion, Request, Schema
from kdaug.teachers.chat_api import UNCONSTRAINED, constraint, failure_of, failure_of_reply, read_completion, whole_body
from kdaug.teachers.oldest import Oldest
from kdaug.teachers.token_ids import BY_ID, BY_TEXT, Vocabulary, read_logprobs
from kdaug.teachers.weights import ALTERNATIVES

if TYPE_CHECKING:
    import aiohttp

OPENAI_URL = "https://api.openai.com/v1"
OPENAI_KEY = "OPENAI_API_KEY"
CONNECT_SECONDS = 10.0  # a reachable host takes a connection within a few round trips
DENIED_SECONDS = 60.0  # a denied key is tried again after this: an account may have been topped up, a key enabled


@dataclass(eq=False)
class Endpoint:
    """A model behind an OpenAI-compatible endpoint, plain: one call is one HTTP request.

    `api_key_env` names the environment variable that holds the key (or `api_key_file` a file); it is read when the
    teacher is opened and shown nowhere. Endpoints other than OpenAI's own may do without one. `timeout` is in seconds
    and covers one request from its sending to the last byte. `extra_body` adds fields to every request, such as
    `{"reasoning_effort": "low"}`; a field set to None is left out. `send_seed` sends a seed with every request (its
    sampling's own, else its nonce). `tokenizer`: the model's own, a folder or Hub id, by which the tokens of a reply's
    logprobs are told; a vLLM server says them itself. Proxies and CA bundles of the environment are honoured;
    `proxies=False` goes past the proxies.

    A schema constrains the reply where the endpoint takes `response_format` (JSON) or vLLM's `structured_outputs` (a
    regex, a choice); one that refuses the field is asked without it from then on.

    Until one call has come through, calls go one at a time: a wrong key costs one, and no other for a minute.
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

    def __post_init__(self) -> None:
        address = urlsplit(self.base_url)
        plain = self.base_url.isprintable() and " " not in self.base_url
        if address.scheme not in ("http", "https") or not address.hostname or not plain:
            raise ConfigError(f"base_url is no http(s) address: {self.base_url!r}")
        if address.username or address.password:
            raise ConfigError("base_url holds a user name or password: put the key into a variable, see api_key_env")
        if self.concurrency < 1 or self.timeout <= 0:
            raise ConfigError("concurrency and timeout must be more than zero")
        self.host = address.netloc
        self._official = address.hostname == urlsplit(OPENAI_URL).hostname
        # OpenAI's reasoning models take the new name only, most other servers the old one only.
        self._limit = "max_completion_tokens" if self._official else "max_tokens"
        self._unconstrained: set[str] = set()
        self._out = Oldest(self.timeout)
        self._session: aiohttp.ClientSession | None = None

    @property
    def name(self) -> str:
        return f"openai:{self.model}"

    @property
    def status(self) -> str:
        return self._out.status

    async def open(self, state: Path) -> None:
        """Read the key and set up the connections. Raises ConfigError for a missing key, CA bundle or proxy."""
        import aiohttp

        await self.aclose()
        self._key = self.read_key()
        headers = {"Content-Type": "application/json", "User-Agent": "kdaug"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        # Not aiohttp's own trust_env: it would read the environment and ~/.netrc in a thread for every single request.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=_ca_bundle() if self.base_url.startswith("https") else True),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=headers,
            proxy=_proxy_for(self.base_url) if self.proxies else None,
            timeout=aiohttp.ClientTimeout(total=self.timeout, sock_connect=CONNECT_SECONDS),
        )
        self._url = self.base_url.rstrip("/") + "/chat/completions"
        self._vocabulary = None
        if self.tokenizer is not None:
            path = find_model(self.tokenizer).path
            self._vocabulary = Vocabulary(await asyncio.to_thread(Chat.load, path))
        # The slots are counted here and not by the connector: waiting for one is no part of a call's time.
        self._slots = asyncio.Semaphore(self.concurrency)
        self._proven = self._heard = False
        self._trial: asyncio.Future[TeacherError | None] | None = None
        self._denied: AccessDenied | None = None

    async def generate(self, request: Request) -> Completion:
        """One HTTP request (none where an earlier one was denied). Raises TeacherError."""
        if self._session is None:
            raise ConfigError(f"{self.name} is not open: await teacher.open(folder) first")
        if self._denied is not None and time.monotonic() - self._denied_at >= DENIED_SECONDS:
            self._denied, self._proven = None, False
        while not self._proven:
            if self._trial is None:
                return await self._try_out(request)
            if fatal := await request.until(asyncio.shield(self._trial)):
                raise self._error(fatal, request)
        async with self._slots:
            return await self._ask(request)

    async def flush(self) -> None:
        pass

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _try_out(self, request: Request) -> Completion:
        """The call that goes alone, while the others wait for how it ends: they share its error if that is fatal."""
        fatal: TeacherError | None = None
        self._heard = False
        self._trial = asyncio.get_running_loop().create_future()
        try:
            completion = await self._ask(request)
            self._proven = True
            return completion
        except TeacherError as e:
            fatal = e if e.fatal else None
            # A request that it refuses shows that the endpoint works; behind one that hangs, the others must not queue.
            self._proven = isinstance(e, TeacherTimeout) or (self._heard and not (e.fatal or e.retryable))
            raise
        finally:
            self._trial.set_result(fatal)
            self._trial = None

    async def _ask(self, request: Request) -> Completion:
        import aiohttp

        assert self._session is not None
        if self._denied is not None:
            raise self._error(self._denied, request)
        limit, form = self._limit, self.form(request.sampling.schema)
        call = self._out.sent()
        try:
            async with self._session.post(self._url, data=self.body(request, form), allow_redirects=False) as reply:
                data = await whole_body(reply)
            self._heard = True
            if reply.status == 200:
                return self._measured(read_completion(data, reply.headers, request.weigh), data, request)
            raise failure_of_reply(reply.status, reply.headers, data, first=not self._proven)
        except (TeacherError, aiohttp.ClientError, OSError) as e:  # TimeoutError is an OSError
            failed = e
        finally:
            self._out.back(call)
        if limit == "max_tokens" and isinstance(failed, BadRequest) and "max_completion_tokens" in str(failed):
            self._limit = "max_completion_tokens"
            await request.again(request, failed)
            return await self._ask(request)
        if form and isinstance(failed, BadRequest) and UNCONSTRAINED.search(str(failed)):
            self._unconstrained |= form.keys()  # from now on, words alone tell the form
            await request.again(request, failed)
            return await self._ask(request)
        # The server's bare words may quote the key, and a ClientResponseError holds the request's headers.
        harmless = not isinstance(failed, TeacherError | aiohttp.ClientResponseError)
        raise self._error(failed, request) from (failed if harmless else None)

    def _measured(self, completion: Completion, data: bytes, request: Request) -> Completion:
        if not (top_k := request.sampling.logprobs):
            return completion
        try:
            view = read_logprobs(orjson.loads(data), request.messages, top_k, self._vocabulary)
        except TeacherError as e:
            e.billed = True
            raise
        return replace(completion, logprobs=view)

    def form(self, schema: Schema | None) -> dict[str, Json]:
        """The field that constrains the reply, where there is one that the endpoint is not known to refuse."""
        field = {} if schema is None else constraint(schema, official=self._official)
        return {} if field.keys() & self._unconstrained else field

    def body(self, request: Request, form: Mapping[str, Json]) -> bytes:
        """The request as the API wants it. Raises BadRequest for what the API cannot be asked."""
        how = request.sampling
        body: dict[str, Any] = {  # Any: JSON
            "model": self.model,
            "messages": [_plain(m) for m in request.messages],
            self._limit: how.max_tokens,
        }
        # OpenAI's reasoning models refuse these even at their default of 1; elsewhere, an absent field may mean the
        # server's own default (vLLM: the model's generation_config.json).
        if not self._official or how.temperature != 1.0:
            body["temperature"] = how.temperature
        if not self._official or how.top_p != 1.0:
            body["top_p"] = how.top_p
        if how.stop:
            body["stop"] = how.stop
        if how.presence_penalty:
            body["presence_penalty"] = how.presence_penalty
        if how.frequency_penalty:
            body["frequency_penalty"] = how.frequency_penalty
        if how.logprobs:
            # Without the model's tokenizer only a server that says ids can be read, which is vLLM.
            body |= {"top_logprobs": how.logprobs, **(BY_TEXT if self.tokenizer else BY_ID)}
        elif request.weigh:
            body |= {"top_logprobs": ALTERNATIVES, **BY_TEXT}
        if self.send_seed:
            body["seed"] = request.nonce if how.seed is None else how.seed
        if request.tools:
            body["tools"] = request.tools
        body |= form
        if self.extra_body:
            body = {name: value for name, value in {**body, **self.extra_body}.items() if value is not None}
        try:
            return orjson.dumps(body)
        except orjson.JSONEncodeError as e:
            raise BadRequest(f"the request cannot be written as JSON: {e}") from e

    def _error(self, cause: BaseException, request: Request) -> TeacherError:
        """Whatever went wrong as one of ours, in one line that says who failed whom; the key is never in it."""
        plain = failure_of(cause)
        if plain.teacher:
            words = str(plain)  # it went through here before: another call's error, shared
        else:
            words = shorten(str(plain), 300)
            if isinstance(cause, TimeoutError) and isinstance(plain, TeacherTimeout):
                words += f" (timeout={self.timeout:g})"
            words = f"{self.name} at {self.host}: {words.replace(self._key, '***') if self._key else words}"
        error = type(plain)(words, request=request, teacher=self.name, retry_after=plain.retry_after)
        error.billed = plain.billed and not plain.teacher  # of another call, only that one was paid
        if isinstance(error, AccessDenied) and self._denied is None:
            self._denied, self._denied_at = error, time.monotonic()
        return error

    def read_key(self) -> str:
        if self.api_key_file is not None:
            where = f"the file {self.api_key_file}"
            try:
                key = Path(self.api_key_file).expanduser().read_text().strip()
            except (OSError, UnicodeDecodeError) as e:
                raise ConfigError(f"no API key for {self.name}: cannot read {where} ({type(e).__name__})") from e
        else:
            where = f"the environment variable {self.api_key_env}"
            key = os.environ.get(self.api_key_env, "").strip()
        named = self._official or self.api_key_file is not None or self.api_key_env != OPENAI_KEY
        if not key and named:
            raise ConfigError(f"no API key for {self.name} at {self.host}: {where} is empty or not set")
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise ConfigError(f"the API key in {where} holds spaces or characters that no key has")
        return key


def _plain(message: Message) -> dict[str, Json]:
    plain: dict[str, Json] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        plain["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    return plain


def _ca_bundle() -> ssl.SSLContext | bool:
    """The CA bundle that the environment names (a file or a folder), else the system's."""
    for variable in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        if bundle := os.environ.get(variable):
            try:
                if Path(bundle).is_dir():
                    return ssl.create_default_context(capath=bundle)
                return ssl.create_default_context(cafile=bundle)
            except OSError as e:  # ssl.SSLError is one
                raise ConfigError(f"the CA bundle in {variable} cannot be read: {bundle} ({e})") from e
    return True


def _proxy_for(url: str) -> str | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names for this address, unless NO_PROXY exempts it."""
    address = urlsplit(url)
    if proxy_bypass(address.netloc):
        return None
    proxies = getproxies()
    proxy = proxies.get(address.scheme) or proxies.get("all")
    if proxy and urlsplit(proxy).scheme not in ("http", "https"):
        raise ConfigError("the proxy in the environment must be an http:// address; SOCKS proxies are not supported")
    return proxy
