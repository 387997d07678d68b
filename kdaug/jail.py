"""The jail: a script of its own that the sandbox starts as `python -I -S jail.py FD` with a job on its stdin.

Three processes, of which the last is not trusted:

    warden     outside; in a new user namespace; watches wall time and memory of all the others, and ends them
    └─ init    process 1 of new pid, mount, network, IPC and UTS namespaces; builds the root that the prisoner sees
       └─ prisoner   no capabilities, limits, a seccomp filter, then the untrusted program

The kernel ends everything in a pid namespace with its process 1, so no daemon stays. The warden writes one line of JSON
to the file descriptor FD: `{"status": wait status, "cpu": seconds}`, `{"ended": why}`, or `{"refused": why}` where
there can be no jail.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
NOSUID, NODEV, NOEXEC, RDONLY, REMOUNT, BIND, REC, PRIVATE = 2, 4, 8, 1, 32, 4096, 16384, 1 << 18
DETACH = 2
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE = 442, -100, 0x8000
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV = 1, 2, 4

NO_RANDOM_ADDRESSES = 0x0040000

PRISONER = 1000  # its user in the jail
NOBODY = 65534  # its user outside, where root runs the jail: the kernel counts no processes of root
LOOK = 0.05  # seconds between two looks at the memory
PAGE = os.sysconf("SC_PAGE_SIZE")

libc = ctypes.CDLL(None, use_errno=True)
Job = dict[str, Any]


def call(name: str, *arguments: Any) -> None:
    """A function of libc. Raises OSError where it fails."""
    text = [a.encode() if isinstance(a, str) else a for a in arguments]
    if getattr(libc, name)(*text) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    call("mount", source, target, kind, ctypes.c_ulong(flags), options)


def main() -> None:
    report = int(sys.argv[1])
    os.set_inheritable(report, False)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM})
    call("prctl", PR_SET_PDEATHSIG, signal.SIGTERM)  # the jail ends with who asked for it
    try:
        job = json.load(sys.stdin.buffer)
        said = guard(job)
    except OSError as e:
        said = {"refused": e.strerror or str(e)}
    os.write(report, json.dumps(said).encode())


# The warden


def guard(job: Job) -> Job:
    """What the job came to."""
    enter_user_namespace()
    told, tell = os.pipe()
    init = os.fork()
    if init == 0:
        be_init(job, tell)
    os.close(tell)
    ended = watch(init, job["limits"])
    said = os.read(told, 65536).partition(b"\n")[0]  # the first word counts
    if ended:
        return {"ended": ended}
    return json.loads(said) if said else {"refused": "process 1 of the jail ended early"}


def enter_user_namespace() -> None:
    """The one that all limits hang on, and the namespaces that the next child is in; a helper that stays outside
    writes who is who."""
    outside, group = os.geteuid(), os.getegid()
    users, groups = (
        (f"0 0 1\n{PRISONER} {NOBODY} 1", f"0 0 1\n{PRISONER} {NOBODY} 1")
        if outside == 0
        else (f"{PRISONER} {outside} 1", f"{PRISONER} {group} 1")
    )
    warden, (waits, goes) = os.getpid(), os.pipe()
    helper = os.fork()
    if helper == 0:
        os.close(goes)
        os._exit(write_maps(warden, users, groups, outside) if os.read(waits, 1) else 1)
    os.close(waits)
    try:
        call("unshare", CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP)
        os.write(goes, b"!")
    finally:
        os.close(goes)
        _, status = os.waitpid(helper, 0)
    if status:
        raise OSError(0, "the users of the namespace cannot be mapped")


def write_maps(warden: int, users: str, groups: str, outside: int) -> int:
    try:
        if outside != 0:
            write(f"/proc/{warden}/setgroups", "deny")
        write(f"/proc/{warden}/uid_map", users)
        write(f"/proc/{warden}/gid_map", groups)
    except OSError:
        return 1
    return 0


def write(path: str, text: str) -> None:
    Path(path).write_text(text, encoding="utf-8", errors="surrogatepass")


def watch(init: int, limits: Job) -> str:
    """Waits for process 1; ends it, and so all, at a limit or where the warden is told to end. Says why."""
    deadline, ended = time.monotonic() + limits["wall"], ""
    while os.waitpid(init, os.WNOHANG)[0] == 0:
        woken = signal.sigtimedwait({signal.SIGCHLD, signal.SIGTERM}, LOOK)
        if woken is not None and woken.si_signo == signal.SIGTERM:
            ended = "told"
        elif time.monotonic() > deadline:
            ended = "timeout"
        elif resident(init) > limits["memory"] << 20:
            ended = "memory"
        if ended:
            os.kill(init, signal.SIGKILL)
            os.waitpid(init, 0)
            return ended
    return ""


def resident(process: int) -> int:
    """Bytes in memory of a process and its descendants."""
    try:
        about = Path(f"/proc/{process}")
        found = int((about / "statm").read_text().split()[1]) * PAGE
        children = [
            child for thread in (about / "task").iterdir() for child in (thread / "children").read_text().split()
        ]
    except (FileNotFoundError, ProcessLookupError, IndexError):  # it has just ended
        return 0
    return found + sum(resident(int(child)) for child in children)


# Process 1


def be_init(job: Job, tell: int) -> NoReturn:
    try:
        call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL)
        call("prctl", PR_SET_DUMPABLE, 0)  # nobody in the jail may look into this process, or change it
        call("unshare", CLONE_NEWNS)
        build_root(job)
        prisoner = os.fork()
        if prisoner == 0:
            be_prisoner(job, tell)
        while True:
            ended, status, usage = os.wait4(-1, 0)
            if ended == prisoner:
                break
        said: Job = {"status": status, "cpu": usage.ru_utime + usage.ru_stime}
    except OSError as e:
        said = {"refused": e.strerror or str(e)}
    os.write(tell, json.dumps(said).encode() + b"\n")
    os._exit(0)


def build_root(job: Job) -> None:
    """A new root, of which only /tmp can be written: parts of the old one, read only, and a few devices."""
    mount("none", "/", None, REC | PRIVATE)
    mount("tmpfs", "/tmp", "tmpfs", NOSUID | NODEV, "size=1m,mode=755")
    Path("/tmp/new").mkdir()
    Path("/tmp/old").mkdir()
    mount("/tmp/new", "/tmp/new", None, BIND)
    call("pivot_root", "/tmp", "/tmp/old")
    os.chdir("/")
    Path("/new/tmp").mkdir()
    size, owner = job["limits"]["files"], PRISONER
    mount(
        "tmpfs", "/new/tmp", "tmpfs", NOSUID | NODEV | NOEXEC,
        f"size={size}m,nr_inodes={256 + 64 * size},mode=700,uid={owner},gid={owner}",
    )  # fmt: skip
    for path in job["show"]:  # some of which may lie in /tmp
        show(path)
    Path("/new/dev").mkdir()
    for name in ("null", "zero", "full", "random", "urandom"):
        node = f"/new/dev/{name}"
        write(node, "")
        mount(f"/old/dev/{name}", node, None, BIND)
    call("umount2", "/old", DETACH)
    os.chdir("/new")
    call("pivot_root", ".", ".")
    call("umount2", ".", DETACH)
    os.chdir("/tmp")
    mount(None, "/", None, REMOUNT | BIND | RDONLY | NOSUID | NODEV)
    call("sethostname", "sandbox", 7)


def show(path: str) -> None:
    """A file, folder or link of the old root, read only, at the same place."""
    old, new = Path(f"/old{path}"), Path(f"/new{path}")
    if not os.path.lexists(old) or os.path.lexists(new):
        return
    new.parent.mkdir(parents=True, exist_ok=True)
    if old.is_symlink():
        new.symlink_to(old.readlink())
        return
    if old.is_dir():
        new.mkdir()
    else:
        new.touch()
    mount(str(old), str(new), None, BIND | REC)
    attributes = (ctypes.c_uint64 * 4)(ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV, 0, 0, 0)
    call("syscall", MOUNT_SETATTR, AT_FDCWD, str(new), AT_RECURSIVE, ctypes.byref(attributes), ctypes.c_size_t(32))


# The prisoner


def be_prisoner(job: Job, tell: int) -> NoReturn:
    try:
        if os.getuid() != PRISONER:
            os.setgroups([])
            os.setresgid(PRISONER, PRISONER, PRISONER)
            os.setresuid(PRISONER, PRISONER, PRISONER)
        for name, text in job["files"].items():
            write(name, text)
        put_stdin(job["stdin"])
        os.setsid()
        for what, soft, hard in job["rlimits"]:
            resource.setrlimit(what, (soft, hard))
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        call("personality", ctypes.c_ulong(NO_RANDOM_ADDRESSES))  # what is ordered by address is so in every run
        call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        install_filter(bytes.fromhex(job["filter"]))
        os.execve(job["argv"][0], job["argv"], job["env"])
    except OSError as e:
        os.write(tell, json.dumps({"refused": e.strerror or str(e)}).encode() + b"\n")
        os._exit(0)


def put_stdin(text: str) -> None:
    """A nameless file, as a pipe holds little."""
    place = os.open("/tmp", os.O_TMPFILE | os.O_RDWR, 0o600)
    with open(place, "wb", closefd=False) as file:
        file.write(text.encode("utf-8", "surrogatepass"))
    os.lseek(place, 0, os.SEEK_SET)
    os.dup2(place, 0)
    os.close(place)


def install_filter(filter_: bytes) -> None:
    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))

    program = Program(len(filter_) // 8, filter_)
    call("prctl", PR_SET_SECCOMP, 2, ctypes.byref(program), 0, 0)


if __name__ == "__main__":
    main()
