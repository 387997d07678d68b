"""Runs Python code that nobody has read: in a process without network, files, keys or time of its own.

What it is: new user, pid, mount, network, IPC and UTS namespaces, a root of which only a private /tmp can be written,
no capability, a seccomp filter, limits, and an environment made from nothing (kdaug/jail.py, kdaug/seccomp.py). What it
is not: a machine of its own. Code that breaks the kernel breaks out.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import sysconfig
from asyncio.subprocess import Process
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

from kdaug.errors import ConfigError
from kdaug.seccomp import filter_for
from kdaug.teacher import Until, patiently

Exit = Literal["ok", "error", "timeout", "memory", "output", "killed"]

SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/nix/store", "/etc/ld.so.cache")
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONHASHSEED": "0",  # the same order of sets in every run
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
GRACE = 5.0  # seconds that a jail has to end
PATIENCE = 10.0  # the clock's seconds for one of CPU time


@dataclass(frozen=True)
class Limits:
    """What a program may use. CPU time decides (it is the same on a busy machine); the clock only ends what sleeps."""

    cpu: int = 5  # seconds, of each process
    wall: float = 0.0  # seconds, of all; 0: what `cpu` takes on a machine that is very busy
    memory: int = 512  # MB: the address space of each process, and what all of them hold
    output: int = 64_000  # bytes of stdout, and as many of stderr
    processes: int = 16  # threads count
    files: int = 32  # MB, in all of /tmp

    def __post_init__(self) -> None:
        if self.cpu < 1 or self.wall < 0 or self.memory < 64 or self.processes < 1 or self.files < 1:
            raise ConfigError("sandbox: cpu, processes and files must be positive, and Python needs 64 MB of memory")

    @property
    def clock(self) -> float:
        return self.wall or (self.cpu + 1) * PATIENCE  # one more, for the start

    def rlimits(self) -> list[tuple[int, int, int]]:
        # The warden and process 1 count as the prisoner's own, but for root's.
        processes = self.processes + (0 if os.geteuid() == 0 else 2)
        both = {
            resource.RLIMIT_AS: self.memory << 20,
            resource.RLIMIT_NPROC: processes,
            resource.RLIMIT_FSIZE: self.files << 20,
            resource.RLIMIT_NOFILE: 128,
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_MSGQUEUE: 0,
        }
        cpu = (resource.RLIMIT_CPU, self.cpu, self.cpu + 1)
        return [cpu, *((what, most, most) for what, most in both.items())]


@dataclass(frozen=True)
class Result:
    """How a program ended: `error` is an exit code other than 0, `killed` a signal. The texts are cut at the limit."""

    exit: Exit
    stdout: str = ""
    stderr: str = ""


@dataclass(frozen=True)
class Sandbox:
    """Runs one program after the other, each in a jail of its own, as many at once as the machine has cores.

    `packages`: the program sees what is installed beside kdaug (numpy, …), read only; else Python's own library alone.

    A part that holds one says `needs = ("sandbox",)`, so that a machine without is told before any call.
    """

    limits: Limits = field(default_factory=Limits)
    packages: bool = False

    async def run(
        self, code: str, *, stdin: str = "", files: Mapping[str, str] | None = None, until: Until = patiently
    ) -> Result:
        """Runs `code` as the main program in /tmp, beside `files` (by their names). No network, nothing is kept.
        `until`: of a run that may end before it is this program's turn (`Generate.until`).

        When it returns, or is cancelled, all processes of the program have ended. Raises ConfigError where the kernel
        gives no sandbox: nothing is ever run outside of one.
        """
        require_sandbox()
        files = files or {}
        if sum(map(len, (code, stdin, *files.values()))) * 4 > self.limits.files << 20:
            return Result("error", stderr="the program is too large for its files")
        job = _job(self.limits, self.packages, code, stdin, files)
        slots = _slots()
        await until(slots.acquire())
        try:
            return await _run(job, self.limits)
        finally:
            slots.release()


@cache
def require_sandbox() -> None:
    """Tries the jail once, from within. Raises ConfigError where there is none, or where it does not hold."""
    if sys.platform != "linux":
        raise ConfigError(f"running code needs the sandbox, and that needs Linux; this is {sys.platform}")
    limits = Limits(processes=4, memory=128)
    told, tell = os.pipe()
    try:
        ended = subprocess.run(
            _jail(tell), input=_job(limits, False, PROBE, "", {}), capture_output=True, pass_fds=[tell], env={},
            start_new_session=True, timeout=limits.clock + GRACE,
        )  # fmt: skip
    finally:
        os.close(tell)
    with os.fdopen(told, "rb") as file:
        said = json.loads(file.read() or b"{}")
    found = ended.stdout.decode(errors="replace").strip()
    if said.get("status") != 0 or found != "held":
        raise _refused(
            said.get("refused") or found or ended.stderr.decode(errors="replace").strip()[-200:] or str(said)
        )


# Run in the jail: says what does not hold.
PROBE = """
import os, socket
wrong = []
for path in ("/etc/passwd", "/proc/self", "/sys/kernel", "/var"):
    if os.path.exists(path):
        wrong.append(f"{path} can be seen")
for path in ("/probe", "/usr/probe", "/dev/probe"):
    try:
        open(path, "w")
        wrong.append(f"{path} can be written")
    except OSError:
        pass
try:
    socket.socket()
    wrong.append("the network is open")
except PermissionError:
    pass
children = 0
try:
    for _ in range(8):
        if os.fork() == 0:
            os.read(os.pipe()[0], 1)
        children += 1
    wrong.append("the number of processes has no limit")
except BlockingIOError:
    pass
print("; ".join(wrong) or "held")
"""


def _refused(why: str) -> ConfigError:
    return ConfigError(
        f"running code needs the sandbox, and here it does not hold ({why}): allow user namespaces (sysctl "
        "user.max_user_namespaces > 0, kernel.unprivileged_userns_clone = 1, "
        "kernel.apparmor_restrict_unprivileged_userns = 0; in a container --security-opt seccomp=unconfined), "
        "on Linux 5.14 or newer"
    )


def _jail(tell: int) -> list[str]:
    return [sys.executable, "-I", "-S", "-B", str(Path(__file__).with_name("jail.py")), str(tell)]


def _job(limits: Limits, packages: bool, code: str, stdin: str, files: Mapping[str, str]) -> bytes:
    python, prefix = os.path.realpath(sys.executable), os.path.realpath(sys.base_prefix)
    if Path.home().is_relative_to(prefix):
        raise ConfigError(f"running code would show the home folder, as Python lies in {prefix}: use another Python")
    installed = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}) if packages else []
    for name in files:
        if Path(name).name != name or name == "main.py":
            raise ValueError(f"{name!r} is no name of a file beside main.py")
    job: dict[str, Any] = {
        "limits": {"wall": limits.clock, "memory": limits.memory, "files": limits.files},
        "rlimits": limits.rlimits(),
        "filter": filter_for(os.uname().machine).hex(),
        "show": [*SYSTEM, prefix, python, *installed],
        "argv": [python, "-s", "-S", "-B", "main.py"],
        "env": {**ENVIRONMENT, **({"PYTHONPATH": ":".join(installed)} if installed else {})},
        "files": {**files, "main.py": code},
        "stdin": stdin,
    }
    return json.dumps(job).encode()


_running: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


def _slots() -> asyncio.Semaphore:
    """One bound for all sandboxes of an event loop."""
    return _running.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(os.cpu_count() or 1))


async def _run(job: bytes, limits: Limits) -> Result:
    told, tell = os.pipe()
    try:
        jail = await asyncio.create_subprocess_exec(
            *_jail(tell), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[tell],
            env={}, start_new_session=True, limit=1 << 16,
        )  # fmt: skip
    except BaseException:
        os.close(told)
        raise
    finally:
        os.close(tell)
    with os.fdopen(told, "rb") as report:
        try:
            texts = await _converse(jail, job, limits)
        except BaseException:
            _tell_to_end(jail)
            raise
        finally:
            await _ended(jail)
        said = json.loads(report.read() or b"{}")
    return _result(said, limits, *texts)


async def _converse(jail: Process, job: bytes, limits: Limits) -> tuple[bytes, bytes]:
    """Hands the job in and reads both outputs, until they end or one of them is too long."""
    stdin, stdout, stderr = jail.stdin, jail.stdout, jail.stderr
    assert stdin is not None and stdout is not None and stderr is not None

    async def hand_in() -> None:
        with suppress(ConnectionError):  # it ended before it had read all: its report says why
            stdin.write(job)
            await stdin.drain()
        stdin.close()

    async def read(stream: asyncio.StreamReader) -> bytes:
        text = b""
        while piece := await stream.read(1 << 16):
            if len(text) <= limits.output:
                text += piece
                if len(text) > limits.output:
                    _tell_to_end(jail)  # and reads on: asyncio waits for the ends of both
        return text

    _, out, err = await asyncio.gather(hand_in(), read(stdout), read(stderr))
    return out, err


def _tell_to_end(jail: Process) -> None:
    with suppress(ProcessLookupError):
        jail.send_signal(signal.SIGTERM)


async def _ended(jail: Process) -> None:
    """Waits for the warden, which waits for all others."""
    try:
        await asyncio.wait_for(jail.wait(), GRACE)
    except TimeoutError:
        with suppress(ProcessLookupError):
            jail.kill()
        await jail.wait()


def _result(said: Mapping[str, Any], limits: Limits, out: bytes, err: bytes) -> Result:
    if "status" not in said and "ended" not in said:
        raise _refused(said.get("refused", "the jail ended early"))
    stdout, stderr = (text[: limits.output].decode("utf-8", "replace") for text in (out, err))
    return Result(_exit(said, limits, max(len(out), len(err)), stderr), stdout, stderr)


def _exit(said: Mapping[str, Any], limits: Limits, length: int, stderr: str) -> Exit:
    if length > limits.output:
        return "output"
    if "ended" in said:
        return "memory" if said["ended"] == "memory" else "timeout"
    status = said["status"]
    if os.WIFSIGNALED(status):
        by = os.WTERMSIG(status)
        return "timeout" if by == signal.SIGXCPU or (by == signal.SIGKILL and said["cpu"] >= limits.cpu) else "killed"
    if os.WEXITSTATUS(status) == 0:
        return "ok"
    return "memory" if stderr.rstrip().rpartition("\n")[2].startswith("MemoryError") else "error"
