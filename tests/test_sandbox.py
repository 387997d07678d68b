"""The sandbox is attacked: everything is contained, named as what it is, and nothing stays behind.

Where the kernel allows no sandbox, what is looked at is that nothing is run at all.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdaug import sandbox
from kdaug.errors import ConfigError
from kdaug.sandbox import Limits, Result, Sandbox, require_sandbox
from kdaug.seccomp import DENIED, filter_for

# The clock decides nothing here, however busy the machine is.
QUICK = Limits(cpu=1, wall=120, memory=128, output=10_000, processes=8, files=4)


@pytest.fixture(autouse=True, scope="module")
def _allowed() -> None:
    """On a machine without user namespaces, what there is to see is the refusal; one that has them cannot skip."""
    try:
        require_sandbox()
    except ConfigError as e:
        unshare = shutil.which("unshare")
        could = unshare and subprocess.run([unshare, "-Urmnp", "--fork", "true"], capture_output=True).returncode == 0
        assert not could, f"user namespaces work here, and yet: {e}"
        assert "allow user namespaces" in str(e)
        with pytest.raises(ConfigError):
            attack("print(1)")
        pytest.skip(f"no sandbox on this machine, and it says so: {e}")


def attack(code: str, limits: Limits = QUICK, **given: object) -> Result:
    return asyncio.run(Sandbox(limits).run(code, **given))  # type: ignore[arg-type] # what the test gives


def processes_with(mark: str) -> list[str]:
    """Of the whole machine."""
    found = []
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in cmdline.read_bytes():
                found.append(cmdline.parent.name)
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


def test_a_program_runs_with_its_input_and_files_and_nothing_else() -> None:
    code = """
import os, sys, json, notes
print(json.dumps([input(), notes.WORD, os.getcwd(), sorted(os.listdir()), sys.argv, dict(os.environ).get("HOME")]))
print("é", file=sys.stderr)
"""
    got = attack(code, stdin="näh\n", files={"notes.py": "WORD = 'ö'"})
    assert got == Result(
        "ok", '["n\\u00e4h", "\\u00f6", "/tmp", ["main.py", "notes.py"], ["main.py"], "/tmp"]\n', "é\n"
    )
    assert attack("import os; print(os.path.exists('/tmp/notes.py'), len(os.listdir('/tmp')))").stdout == "False 1\n"


def test_the_same_program_says_the_same_again() -> None:
    code = "print({'a', 'b', 'c', 'd'}, hash('x')); import time; print(time.tzname)"
    assert attack(code) == attack(code)


@pytest.mark.parametrize(
    ("code", "exit_"),
    [
        ("raise SystemExit(3)", "error"),
        ("def f(:", "error"),
        ("\x00", "error"),
        ("print('\ud800')", "error"),
        ("1 / 0", "error"),
        ("while True: pass", "timeout"),
        ("import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", "timeout"),
        ("def f(): f()\nf()", "error"),
        ("import os; os.abort()", "killed"),
        ("x = 'a' * 10**10", "memory"),
        ("x = []\nwhile True: x.append('a' * 10**6 + str(len(x)))", "memory"),
        ("while True: print('x' * 1000)", "output"),
        ("import sys\nwhile True: print('x' * 1000, file=sys.stderr)", "output"),
        ("import os\nos.write(1, b'x' * 20_000)", "output"),
        ("import os; os.closerange(0, 256)\nwhile True: pass", "timeout"),
        ("import os; os.kill(os.getpid(), 9)", "killed"),
        ("x" * (5 << 20), "error"),
    ],
)
def test_how_a_program_ends_has_a_name(code: str, exit_: str) -> None:
    assert attack(code).exit == exit_


def test_signals_reach_nobody_else() -> None:
    code = f"""
import os
for who in (os.getppid(), 1, -1, {os.getpid()}, {os.getppid()}):
    for signal in (15, 9):
        try:
            os.kill(who, signal)
        except OSError:  # nobody there, or not allowed
            pass
print("still here")
"""
    assert attack(code) == Result("ok", "still here\n")


def test_what_sleeps_is_ended_by_the_clock() -> None:
    assert attack("import time; time.sleep(1000)", Limits(wall=0.5)).exit == "timeout"
    assert attack("input(); import time; time.sleep(1000)", Limits(wall=0.5), stdin="x").exit == "timeout"


def test_a_fork_bomb_stays_below_the_limit() -> None:
    bomb = """
import os
while True:
    try:
        os.fork()
    except BlockingIOError:
        if os.getpid() == 2:
            print("full")
            break
        os.read(os.pipe()[0], 1)
"""
    got = attack(bomb)
    assert (got.exit, got.stdout) == ("ok", "full\n")
    threads = "import threading, time\nfor _ in range(50): threading.Thread(target=time.sleep, args=(0.2,)).start()"
    assert attack(threads).exit == "error"


def test_many_processes_together_hold_no_more_than_one_may() -> None:
    code = """
import os, time
for _ in range(5):
    if os.fork() == 0:
        x = bytearray(os.urandom(1 << 20)) * 60
        time.sleep(1000)
time.sleep(1000)
"""
    assert attack(code).exit == "memory"


def test_memory_that_no_limit_counts_cannot_be_had() -> None:
    code = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
try:
    os.memfd_create("x")
except OSError as e:
    print(e.errno)
print(libc.shmget(0, 1 << 20, 0o1600), ctypes.get_errno(), libc.unshare(0x10000000), ctypes.get_errno())
print(libc.ptrace(16, 1, 0, 0), ctypes.get_errno(), libc.chroot(b"/tmp"), ctypes.get_errno())
print(libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0), ctypes.get_errno())
"""
    got = attack(code)
    lines = got.stdout.splitlines()
    assert lines[:3] == ["1", "-1 1 -1 1", "-1 1 -1 1"]
    assert lines[3] == "-1 1" or os.uname().machine != "x86_64"


def test_there_is_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        code = f"""
import ctypes, socket
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, 40):
    try:
        socket.socket(family, socket.SOCK_STREAM).connect(("127.0.0.1", {port}))
        print("connected")
    except PermissionError:
        print("no")
a, b = socket.socketpair()
a.send(b"within")
print(b.recv(9))
"""
        got = attack(code)
        assert (got.exit, got.stdout) == ("ok", "no\n" * 4 + "b'within'\n")
        with pytest.raises(TimeoutError):
            server.accept()


def test_no_key_and_no_file_of_the_user_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = f"sk-{os.urandom(12).hex()}"
    monkeypatch.setenv("OPENAI_API_KEY", secret)
    (tmp_path / "key").write_text(secret)
    code = f"""
import os
print(os.environ.get("OPENAI_API_KEY"))
os.symlink({str(tmp_path)!r}, "link")
for path in ({str(tmp_path / "key")!r}, "link/key", "/proc/1/environ", "/proc/self/environ", "/etc/passwd",
             "/dev/mem", "/dev/vda", "/etc/shadow", {__file__!r}, {os.environ.get("SHELL_HISTORY", "/root/.bashrc")!r}):
    try:
        print(open(path).read())
    except OSError as e:
        print(type(e).__name__)
for fd in range(3, 128):
    try:
        print("open", fd, os.readlink(f"/proc/self/fd/{{fd}}"), os.fstat(fd))
    except OSError:
        pass
"""
    got = attack(code)
    assert got.exit == "ok"
    assert secret not in got.stdout + got.stderr
    assert set(got.stdout.split()[1:]) <= {"FileNotFoundError", "NotADirectoryError", "PermissionError"}


def test_nothing_of_the_home_folder_but_the_interpreter_can_be_seen() -> None:
    got = attack(f"import os\nfor n, d, f in os.walk({str(Path.home())!r}): print(n)")
    prefix = os.path.realpath(sys.base_prefix)
    allowed = {str(p) for p in (Path(prefix), *Path(prefix).parents)}
    seen = {n for n in got.stdout.splitlines() if not n.startswith(prefix)}
    assert seen <= allowed


def test_nothing_outside_its_tmp_can_be_written(tmp_path: Path) -> None:
    prefix = os.path.realpath(sys.base_prefix)
    outside = [str(tmp_path / "x"), "/x", "/usr/x", "/dev/x", f"{prefix}/x", "/tmp/../x", "/etc/x", "/root/x"]
    code = f"""
import os
for path in {outside!r}:
    try:
        open(path, "w").write("x")
        print("wrote", path)
    except OSError:
        pass
    try:
        os.symlink(path, "link"); open("link", "w").write("x"); print("wrote through a link", path)
    except OSError:
        pass
    finally:
        if os.path.lexists("link"): os.remove("link")
for attempt in (lambda: os.link("/usr/bin/env", "hard"), lambda: os.mknod("node", 0o60600, 0x0801),
                lambda: os.setuid(0), lambda: os.setgroups([0]), lambda: os.chmod("/usr", 0o777)):
    try:
        attempt()
        print("did")
    except OSError:
        pass
open("mine", "w").write("x"); print(open("mine").read())
"""
    got = attack(code)
    assert (got.exit, got.stdout) == ("ok", "x\n")
    assert not (tmp_path / "x").exists()


def test_files_have_a_limit_and_are_gone_afterwards() -> None:
    code = """
import os
done = 0
try:
    for n in range(100):
        open(f"f{n}", "wb").write(b"x" * (1 << 20))
        done += 1
except OSError as e:
    print(done <= 4, e.errno)
[os.remove(f"f{n}") for n in range(100) if os.path.exists(f"f{n}")]
try:
    open("huge", "wb").truncate(1 << 40)
except OSError as e:
    print(e.errno)
try:
    for n in range(10**6):
        open(f"f{n}", "wb").close()
except OSError as e:
    print(n < 2000, e.errno)
"""
    assert attack(code).stdout == "True 28\n27\nTrue 28\n"


def test_a_daemon_ends_with_its_program() -> None:
    mark = f"mark{os.urandom(8).hex()}"
    code = f"""
import os, sys, signal
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.closerange(0, 20)
        os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(1000)", {mark!r}])
    os._exit(0)
os.wait()
print("parent done")
"""
    assert attack(code) == Result("ok", "parent done\n")
    assert processes_with(mark) == []


def test_who_cancels_leaves_nothing_behind_and_the_loop_is_never_blocked() -> None:
    mark = f"mark{os.urandom(8).hex()}"
    code = (
        f"import os, sys; os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(1000)', {mark!r}])"
    )

    async def go() -> None:
        task = asyncio.create_task(Sandbox(Limits(wall=60)).run(code))
        ticks = 0
        while not processes_with(mark):
            ticks += 1
            await asyncio.sleep(0.02)
        assert ticks > 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert processes_with(mark) == []

    asyncio.run(go())


def test_a_killed_parent_takes_the_jail_with_it() -> None:
    mark = f"mark{os.urandom(8).hex()}"
    inner = (
        f"import os, sys; os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(1000)', {mark!r}])"
    )
    code = f"import asyncio; from kdaug.sandbox import *; asyncio.run(Sandbox(Limits(wall=60)).run({inner!r}))"
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        try:
            assert _soon(lambda: any(Path(f"/proc/{p}/root").exists() for p in _sleeping(mark)))
        finally:
            parent.kill()
    assert _soon(lambda: processes_with(mark) == [])


def _sleeping(mark: str) -> list[str]:
    """Those that are the sleeper itself, not who was asked to start it."""
    return [p for p in processes_with(mark) if b"time.sleep(1000)\0" in Path(f"/proc/{p}/cmdline").read_bytes()]


def _soon(holds: object) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if holds():  # type: ignore[operator] # a function
            return True
        time.sleep(0.05)
    return False


def test_no_more_run_at_once_than_there_are_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    running, most = 0, 0
    real = sandbox._run

    async def counted(job: bytes, limits: Limits) -> Result:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            return await real(job, limits)
        finally:
            running -= 1

    async def go() -> list[Result]:
        return await asyncio.gather(*(Sandbox(QUICK).run(f"print({n})") for n in range(7)))

    monkeypatch.setattr(sandbox, "_run", counted)
    assert [r.stdout for r in asyncio.run(go())] == [f"{n}\n" for n in range(7)]
    assert most == min(7, os.cpu_count() or 1)


def test_installed_packages_are_seen_only_when_asked_for() -> None:
    code = "import numpy; print(numpy.arange(3).sum())"
    assert attack(code).exit == "error"
    got = asyncio.run(Sandbox(Limits(memory=1024), packages=True).run(code))
    assert (got.exit, got.stdout) == ("ok", "3\n")


def test_where_namespaces_are_forbidden_nothing_is_run() -> None:
    code = """
import asyncio, os
from kdaug import jail, sandbox
from kdaug.errors import ConfigError
from kdaug.seccomp import filter_for
jail.call("prctl", jail.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
jail.install_filter(filter_for(os.uname().machine))
try:
    asyncio.run(sandbox.Sandbox().run("print('ran')"))
except ConfigError as e:
    print(e)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.startswith(
        "running code needs the sandbox, and here it does not hold (unshare: Operation not permitted"
    )
    assert "allow user namespaces" in said


def test_a_jail_that_does_not_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "PROBE", "print('the network is open')")
    with pytest.raises(ConfigError, match="does not hold \\(the network is open\\)"):
        require_sandbox.__wrapped__()
    monkeypatch.setattr(sandbox, "filter_for", lambda machine: b"")
    with pytest.raises(ConfigError, match="does not hold"):
        require_sandbox.__wrapped__()
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ConfigError, match="needs Linux; this is darwin"):
        require_sandbox.__wrapped__()


def test_machines_whose_calls_are_not_known_and_limits_that_are_none() -> None:
    with pytest.raises(ConfigError, match="x86_64 and aarch64, not of riscv64"):
        filter_for("riscv64")
    assert len(filter_for("aarch64")) == len(filter_for("x86_64")) == 8 * (6 + 2 * len(DENIED) + 2 + 9)
    with pytest.raises(ConfigError, match="must be positive"):
        Limits(cpu=0)
    assert (Limits(cpu=5).clock, Limits(wall=0.5).clock) == (60, 0.5)
    with pytest.raises(ValueError, match="no name of a file"):
        attack("", files={"../x": ""})


def test_the_numbers_of_system_calls_are_those_of_the_kernel_s_headers() -> None:
    for header, column in (("x86_64-linux-gnu/asm/unistd_64.h", 0), ("asm-generic/unistd.h", 1)):
        file = Path("/usr/include", header)
        if not file.exists():
            pytest.skip(f"no {file} here")
        told = {}
        for line in file.read_text().splitlines():
            words = line.split()
            if len(words) >= 3 and words[1].startswith("__NR_") and words[2].isdigit():
                told[words[1].removeprefix("__NR_")] = int(words[2])
        assert {n: told[n] for n in DENIED if n in told} == {n: DENIED[n][column] for n in DENIED if n in told}
        assert len(told) > 200
