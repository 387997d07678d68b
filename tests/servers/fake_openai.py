"""A fast, faulty OpenAI-compatible server on loopback, for tests and benchmarks.

    python fake_openai.py --port 0                        the first line printed is http://127.0.0.1:PORT/v1
    python fake_openai.py --latency-ms 200 --dist lognormal --sigma 0.6
    python fake_openai.py --fault 429=0.03 --fault reset=0.03 --retry-after 1

    POST /v1/chat/completions   an answer that depends on nothing but the messages and the request's seed
    GET  /v1/models             the one model
    GET  /__stats[?full=1]      counters; full=1 adds [attempts, ok, last user text] for every distinct prompt
    GET  /__trace               with --trace: every call's arrival, departure, outcome, URL, authorization and body
    POST /__config              JSON of options; those not named are as on the command line; zeroes the counters

The key of a prompt is a hash of its `messages`. Faults are drawn from a generator seeded by (seed, key, attempt number
of that key): the same prompts fail in the same way in every run and for every client, in whatever order they come.
With fault_once only a prompt's first attempt can fail. A prompt that holds `@@FAIL:reset@@` always meets that fault,
one that holds `@@FAIL:reset*2@@` in its first two attempts.

Faults: a status (400, 401, 402, 403, 404, 408, 413, 422, 429, 500, 502, 503, 504), and
    context     400: prompt and max_tokens do not fit         blank       200 with no body
    policy      400: the content filter refused the prompt    nochoices   200, JSON without choices
    quota       429: no money left                            html        200 with an HTML page
    filter      200, finish_reason content_filter             wrongtype   200, the bare answer as text/plain
    empty       200, an empty answer                          badutf8     200, the answer holds invalid UTF-8
    reset       the connection is cut, no reply               surrogate   200, the answer holds a lone surrogate
    trunc       200, half of the JSON                         huge        200, a body of huge_mb megabytes
    hang        the answer comes after hang_s seconds         trickle     200, ten bytes every 100 ms
    redirect    302 to another page                           inband      200, an error object in place of choices
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import heapq
import random
import re
import resource
import signal
import ssl
import time
from collections import Counter
from dataclasses import fields, replace
from typing import Any

import httptools
import orjson
import uvloop
from replies import ANSWERED, Call, Config, answer, error, failure, http

MARK = re.compile(rb"@@FAIL:(\w+)(?:\*(\d+))?@@")


class State:
    """The configuration and everything that was counted since it was last set."""

    def __init__(self, config: Config) -> None:
        self.base = self.config = config
        self.reset()

    def reset(self) -> None:
        self.prompts: dict[str, list[Any]] = {}  # key: attempts, ok, last user text
        self.outcomes: Counter[str] = Counter()
        self.fields: Counter[str] = Counter()  # of the request bodies
        self.pages: Counter[str] = Counter()  # other paths that were asked for
        self.trace: list[dict[str, Any]] = []
        self.total = self.connections = self.clients_gone = 0
        self.prompt_tokens = self.completion_tokens = 0
        self.inflight = self.max_inflight = 0
        self.inflight_seconds = 0.0
        self.moved = time.monotonic()
        self.first = self.last = self.last_arrival = 0.0
        self.bucket, self.bucket_time = 0.0, time.monotonic()
        self.tokens_left, self.tokens_time = self.config.tps, time.monotonic()
        self.hands: list[float] = []  # when each of `works_on` is free
        self.cpu = cpu_seconds()

    def move(self, step: int) -> None:
        """One call more or less in flight."""
        now = time.monotonic()
        self.inflight_seconds += self.inflight * (now - self.moved)
        self.moved = now
        self.inflight += step
        self.max_inflight = max(self.max_inflight, self.inflight)

    def over_limit(self) -> bool:
        config = self.config
        if config.max_inflight and self.inflight > config.max_inflight:
            return True
        now = time.monotonic()
        if config.tps:
            self.tokens_left = min(config.tps, self.tokens_left + (now - self.tokens_time) * config.tps)
            self.tokens_time = now
            if self.tokens_left <= 0:
                return True
        if not config.rps:
            return False
        self.bucket = min(config.rps, self.bucket + (now - self.bucket_time) * config.rps)
        self.bucket_time = now
        if self.bucket < 1:
            return True
        self.bucket -= 1
        return False

    def queued(self, seconds: float) -> float:
        """How long a call takes that is worked on for so long, its waiting for a free hand included."""
        if not self.config.works_on:
            return seconds
        now = time.monotonic()
        free = now if len(self.hands) < self.config.works_on else max(now, heapq.heappop(self.hands))
        heapq.heappush(self.hands, free + seconds)
        return free + seconds - now

    def stats(self, full: bool) -> dict[str, Any]:
        attempts = [p[0] for p in self.prompts.values()]
        ok = [p[1] for p in self.prompts.values()]
        span = self.last - self.first
        return {
            "total": self.total,
            "outcomes": self.outcomes,
            "distinct": len(attempts),
            "ok_distinct": sum(1 for n in ok if n),
            "ok_repeated": sum(n - 1 for n in ok if n > 1),
            "attempts_repeated": sum(n - 1 for n in attempts),
            "max_attempts": max(attempts, default=0),
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "inflight": self.inflight,
            "max_inflight": self.max_inflight,
            "mean_inflight": round(self.inflight_seconds / span, 1) if span > 0 else 0.0,
            "connections": self.connections,
            "clients_gone": self.clients_gone,
            "first": self.first,
            "last": self.last,
            "last_arrival": self.last_arrival,
            "fields": self.fields,
            "pages": self.pages,
            "server_cpu": round(cpu_seconds() - self.cpu, 3),
            **({"prompts": self.prompts} if full else {}),
        }


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Server(asyncio.Protocol):
    """One connection."""

    def __init__(self, state: State, loop: asyncio.AbstractEventLoop) -> None:
        self.state, self.loop = state, loop
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.state.connections += 1
        self.parser = httptools.HttpRequestParser(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.close()

    def on_message_begin(self) -> None:
        self.url, self.authorization, self.body = b"", b"", b""

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"authorization":
            self.authorization = value
        elif name == b"expect":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        path, _, query = self.url.partition(b"?")
        if path.endswith(b"/chat/completions"):
            self.chat()
        else:
            self.transport.write(self.page(path.decode("latin1"), query))

    def page(self, path: str, query: bytes) -> bytes:
        state = self.state
        if path == "/__stats":
            return http(200, orjson.dumps(state.stats(b"full=1" in query)))
        if path == "/__trace":
            return http(200, orjson.dumps(state.trace))
        if path == "/__config":
            try:
                state.config = replace(state.base, **orjson.loads(self.body or b"{}"))
            except TypeError as e:
                return error(400, str(e), None)
            state.reset()
            return http(200, orjson.dumps(state.config))
        state.pages[path] += 1
        if path.endswith("/models"):
            model = {"id": state.config.model, "object": "model", "created": 1700000000, "owned_by": "fake"}
            return http(200, orjson.dumps({"object": "list", "data": [model]}))
        return error(404, f"no such path {path}", None)

    def chat(self) -> None:
        state, config = self.state, self.state.config
        close = not self.parser.should_keep_alive()
        call = Call(time.time(), self.url.decode("latin1"), self.authorization.decode("latin1"), self.body, close)
        state.first = state.first or call.arrived
        state.last_arrival = call.arrived
        state.total += 1
        state.move(1)
        try:
            request = orjson.loads(call.body)
            messages = request["messages"]
            text = messages[-1]["content"]
            raw = orjson.dumps(messages)
        except (ValueError, LookupError, TypeError) as e:
            call.outcome = "400"
            return self.later(0.0, call, error(400, f"not a chat request: {e!r}", None))
        if not isinstance(text, str):
            text = "".join(part.get("text", "") for part in text or ())
        state.fields.update(request.keys())
        call.key = hashlib.blake2b(raw, digest_size=8).hexdigest()
        seen = state.prompts.setdefault(call.key, [0, 0, text[:120]])
        seen[0] += 1
        rng = random.Random(f"{config.seed}:{call.key}:{seen[0]}")
        seconds = self.latency(rng)
        call.outcome = self.fate(call, request, raw, seen[0], rng)
        if call.outcome in ANSWERED:
            reply = answer(call, request, text, config)
            seconds = config.hang_s if call.outcome == "hang" else state.queued(seconds)
            state.tokens_left -= sum(call.tokens)
        else:
            reply = b"" if call.outcome == "reset" else failure(call.outcome, config, call.authorization)
            seconds = seconds if config.fault_latency else 0.0
        return self.later(seconds, call, reply)

    def latency(self, rng: random.Random) -> float:
        config = self.state.config
        mean = config.latency_ms / 1000
        if mean and config.dist == "lognormal":
            return mean * rng.lognormvariate(-(config.sigma**2) / 2, config.sigma)
        if mean and config.dist == "uniform":
            return mean * 2 * rng.random()
        return mean

    def fate(self, call: Call, request: dict[str, Any], raw: bytes, attempt: int, rng: random.Random) -> str:
        """`ok`, or the fault that this call meets."""
        state, config = self.state, self.state.config
        if config.api_key and call.authorization != f"Bearer {config.api_key}":
            return "401"
        if config.max_completion_tokens and "max_tokens" in request:
            return "max_tokens"
        if config.schemas == "refuse" and not request.keys().isdisjoint(("response_format", "structured_outputs")):
            return "schema"
        mark = MARK.search(raw)
        if mark and (not mark[2] or attempt <= int(mark[2])):
            return mark[1].decode()
        if state.over_limit():
            return "429"
        if config.faults and not mark and not (config.fault_once and attempt > 1):
            draw = rng.random()
            for fault, probability in config.faults.items():
                draw -= probability
                if draw < 0:
                    return fault
        return "ok"

    def later(self, seconds: float, call: Call, reply: bytes) -> None:
        if seconds > 0:
            self.loop.call_later(seconds, self.send, call, reply)
        else:
            self.send(call, reply)

    def send(self, call: Call, reply: bytes) -> None:
        state = self.state
        state.move(-1)
        state.last = time.time()
        state.prompt_tokens += call.tokens[0]  # whoever hangs up pays all the same
        state.completion_tokens += call.tokens[1]
        state.outcomes[call.outcome] += 1
        if self.closed or self.transport.is_closing():
            state.clients_gone += 1
        else:
            if call.outcome == "ok":
                state.prompts[call.key][1] += 1
            self.write(call, reply)
        if state.config.trace:
            seen = {"arrived": call.arrived, "departed": state.last, "outcome": call.outcome, "key": call.key}
            plain = call.body.decode("utf-8", "replace")
            state.trace.append({**seen, "url": call.url, "authorization": call.authorization, "body": plain})

    def write(self, call: Call, reply: bytes) -> None:
        if call.outcome == "reset":
            self.transport.abort()
        elif call.outcome == "trickle":
            self.trickle(reply)
        else:
            self.transport.write(reply)
            if call.close:
                self.transport.close()

    def trickle(self, rest: bytes) -> None:
        if rest and not self.closed:
            self.transport.write(rest[:10])
            self.loop.call_later(0.1, self.trickle, rest[10:])


async def serve(config: Config, port: int, certificate: str, key: str) -> None:
    loop = asyncio.get_running_loop()
    state = State(config)
    tls = None
    if certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate, key)
    server = await loop.create_server(lambda: Server(state, loop), "127.0.0.1", port, backlog=4096, ssl=tls)
    print(f"http{'s' if tls else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8399, help="0: any free one; see the first line printed")
    parser.add_argument("--certificate", default="", help="speak TLS with this PEM file")
    parser.add_argument("--key", default="", help="the certificate's key")
    parser.add_argument("--fault", action="append", default=[], metavar="FAULT=PROBABILITY")
    for option in fields(Config):
        flag = "--" + option.name.replace("_", "-")
        if option.type == "bool":
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=option.default)
        elif option.name != "faults":
            parser.add_argument(flag, type=type(option.default), default=option.default)
    given = vars(parser.parse_args())
    listen = [given.pop(option) for option in ("port", "certificate", "key")]
    pairs = (fault.split("=") for fault in given.pop("fault"))
    uvloop.run(serve(Config(**given, faults={name: float(p) for name, p in pairs}), *listen))


if __name__ == "__main__":
    main()
