"""A seccomp filter for code that nobody has read: system calls that no program of ours needs and that reach around the
sandbox's other limits, or far into the kernel."""

from __future__ import annotations

import struct
from typing import NamedTuple

from kdaug.errors import ConfigError


class Machine(NamedTuple):
    """An architecture as the kernel's audit knows it, and which of the two columns of numbers is its own."""

    audit: int
    column: int


MACHINES = {"x86_64": Machine(0xC000003E, 0), "aarch64": Machine(0xC00000B7, 1)}

# Numbers on x86-64 and on ARM64.
DENIED = {
    # memory that neither RLIMIT_AS nor the size of /tmp counts
    "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
    "memfd_create": (319, 279), "memfd_secret": (447, 447),
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438),
    # namespaces and mounts of its own
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    # keys of the user who runs kdaug
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    # parts of the kernel where holes are found
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "userfaultfd": (323, 282), "bpf": (321, 280), "perf_event_open": (298, 241), "fanotify_init": (300, 262),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106),
}  # fmt: skip
CLONE, CLONE3, SOCKET = (56, 220), (435, 435), (41, 198)
NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID and NET
AF_UNIX = 1

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
EPERM, ENOSYS = 1, 38
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _FIRST = 0, 4, 16  # offsets in struct seccomp_data; of an argument its lower half


def filter_for(machine: str) -> bytes:
    """The filter as an array of `struct sock_filter`.

    What it denies fails with EPERM, so that a program may go on. `clone3`, whose flags a filter cannot see, is said
    not to exist: libc then uses `clone`. Sockets are of the family AF_UNIX alone: others (vsock) know no namespace.

    Raises ConfigError for a machine whose numbers are not known.
    """
    if machine not in MACHINES:
        raise ConfigError(f"the sandbox knows the system calls of {' and '.join(MACHINES)}, not of {machine}")
    audit, column = MACHINES[machine]
    steps = [
        _step(_LOAD, _ARCH),
        _step(_EQUAL, audit, 1, 0),
        _step(_RETURN, KILL),
        _step(_LOAD, _NUMBER),
        _step(_AT_LEAST, 0x40000000, 0, 1),  # the x32 numbers of x86-64
        _step(_RETURN, KILL),
    ]
    for numbers in DENIED.values():
        steps += [_step(_EQUAL, numbers[column], 0, 1), _step(_RETURN, ERRNO | EPERM)]
    steps += [_step(_EQUAL, CLONE3[column], 0, 1), _step(_RETURN, ERRNO | ENOSYS)]
    steps += [
        _step(_EQUAL, CLONE[column], 0, 3),
        _step(_LOAD, _FIRST),
        _step(_ANY_BIT, NEW_NAMESPACES, 0, 5),
        _step(_RETURN, ERRNO | EPERM),
        _step(_EQUAL, SOCKET[column], 0, 3),
        _step(_LOAD, _FIRST),
        _step(_EQUAL, AF_UNIX, 1, 0),
        _step(_RETURN, ERRNO | EPERM),
        _step(_RETURN, ALLOW),
    ]
    return b"".join(steps)


def _step(code: int, value: int, when: int = 0, otherwise: int = 0) -> bytes:
    """One instruction; `when` and `otherwise`: how many to skip where a comparison holds, and where not."""
    return struct.pack("HBBI", code, when, otherwise, value)
