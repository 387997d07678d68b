"""Starts the test servers as processes of their own, on a free port, and ends them."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

HERE = Path(__file__).parent
# The servers' own pages are asked for directly, whatever proxy a test sets.
_unverified = ssl.create_default_context()
_unverified.check_hostname, _unverified.verify_mode = False, ssl.CERT_NONE
_direct = build_opener(ProxyHandler({}), HTTPSHandler(context=_unverified))


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class FakeOpenAI:
    """`with FakeOpenAI(latency_ms=50, faults={"429": 0.1}) as server:` runs one; `server.url` is its base URL.

    The options are the fields of `Config` in fake_openai.py. `configure` sets them anew (what it does not name is the
    default again) and zeroes the counters. `port` 0 is any free one; with the files
    `certificate` and `key` it speaks TLS.
    """

    def __init__(
        self, *, port: int = 0, certificate: Path | None = None, key: Path | None = None, **config: Any
    ) -> None:
        self._config = config
        self._listen = ["--port", str(port)]
        if certificate:
            self._listen += ["--certificate", str(certificate), "--key", str(key)]

    def __enter__(self) -> FakeOpenAI:
        command = [sys.executable, str(HERE / "fake_openai.py"), *self._listen]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url.startswith("http"), "fake_openai.py did not start"
        self.root = self.url.removesuffix("/v1")
        self.configure(**self._config)
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it now: its port then refuses connections."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def configure(self, **config: Any) -> None:
        self._ask("/__config", json.dumps(config).encode())

    def stats(self, *, full: bool = False) -> dict[str, Any]:
        counters: dict[str, Any] = self._ask("/__stats?full=1" if full else "/__stats")
        return counters

    def trace(self) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = self._ask("/__trace")
        return calls

    def _ask(self, path: str, body: bytes | None = None) -> Any:  # Any: JSON as it comes
        with _direct.open(Request(self.root + path, data=body), timeout=10) as reply:
            return json.load(reply)


class FakeBatches:
    """`with FakeBatches() as server:` runs fake_batches.py; `configure` takes the options that it lists."""

    def __enter__(self) -> FakeBatches:
        command = [sys.executable, str(HERE / "fake_batches.py"), "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url.startswith("http"), "fake_batches.py did not start"
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def configure(self, **options: Any) -> None:
        self._ask("/__config", json.dumps(options).encode())

    def stats(self) -> dict[str, Any]:
        found: dict[str, Any] = self._ask("/__stats")
        return found

    def cancel(self, batch: str) -> None:
        self._ask(f"/v1/batches/{batch}/cancel", b"")

    def wait_for(self, step: str) -> None:
        """Until a pause has begun, or a batch stands in that state."""
        for _ in range(1000):
            stats = self.stats()
            if stats["reached"].get(step) or any(b["status"] == step for b in stats["batches"]):
                return
            time.sleep(0.03)
        raise AssertionError(f"no batch came to {step}")

    def _ask(self, path: str, body: bytes | None = None) -> Any:  # Any: JSON as it comes
        with _direct.open(Request(self.url.removesuffix("/v1") + path, data=body), timeout=10) as reply:
            return json.load(reply)
