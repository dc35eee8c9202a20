"""Kernel calls for the sandbox that Python doesn't offer, and the sandbox's system-call filter."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from functools import lru_cache

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
MNT_DETACH = 2
_AT_RECURSIVE, _MOUNT_ATTR_RDONLY, _MOUNT_ATTR_NOSUID = 0x8000, 1, 2
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 1, 38, 22
_CAPABILITY_VERSION_3, _SECCOMP_MODE_FILTER, _MOUNT_SETATTR = 0x20080522, 2, 442

_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_NUMBERS = {
    "x86_64": {
        "pivot_root": 155, "clone": 56, "clone3": 435, "socket": 41, "unshare": 272, "setns": 308,
        "ptrace": 101, "shmget": 29, "msgget": 68, "semget": 64, "mq_open": 240, "memfd_create": 319,
        "memfd_secret": 447, "bpf": 321, "add_key": 248, "request_key": 249, "keyctl": 250, "syslog": 103,
        "io_uring_setup": 425, "userfaultfd": 323, "perf_event_open": 298, "process_vm_readv": 310,
        "process_vm_writev": 311, "personality": 135, "flock": 73, "fcntl": 72, "setsockopt": 54,
    },
    "aarch64": {
        "pivot_root": 41, "clone": 220, "clone3": 435, "socket": 198, "unshare": 97, "setns": 268,
        "ptrace": 117, "shmget": 194, "msgget": 186, "semget": 190, "mq_open": 180, "memfd_create": 279,
        "memfd_secret": 447, "bpf": 280, "add_key": 217, "request_key": 218, "keyctl": 219, "syslog": 116,
        "io_uring_setup": 425, "userfaultfd": 282, "perf_event_open": 241, "process_vm_readv": 270,
        "process_vm_writev": 271, "personality": 92, "flock": 32, "fcntl": 25, "setsockopt": 208,
    },
}  # fmt: skip
_REFUSED = (
    "unshare", "setns", "ptrace", "shmget", "msgget", "semget", "mq_open", "memfd_create", "memfd_secret",
    "bpf", "add_key", "request_key", "keyctl", "syslog", "io_uring_setup", "userfaultfd", "perf_event_open",
    "process_vm_readv", "process_vm_writev", "personality", "flock",
)  # fmt: skip
"""Refused calls: new namespaces, others' memory, memory that no limit counts, risky kernel features."""

_REFUSED_ARGUMENTS = (
    ("fcntl", 24, (6, 7, 37, 38, 1024, 1031)),  # F_SETLK, F_SETLKW, F_OFD_SETLK(W), F_SETLEASE, F_SETPIPE_SZ
    ("setsockopt", 32, (7, 8, 32, 33)),  # SO_SNDBUF, SO_RCVBUF and as root with FORCE
)
"""Refused arguments: call, the argument's offset in struct seccomp_data, its refused values. These are locks
that hold outside the sandbox, and kernel buffers, which no limit counts."""

_libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> int:
    """Call a libc function that returns a negative number on failure.

    Raises:
        OSError: the call failed; the message names it.
    """
    result = getattr(_libc, name)(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return int(result)


def unshare(flags: int) -> None:
    """Move the calling process into new namespaces; a new process namespace is for its next children."""
    call("unshare", flags)


def set_child_process_namespace(descriptor: int) -> None:
    """Let the next children start in this process namespace."""
    call("setns", descriptor, CLONE_NEWPID)


def mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    encoded = [None if text is None else text.encode() for text in (source, target, kind, options)]
    try:
        call("mount", *encoded[:3], ctypes.c_ulong(flags), encoded[3])
    except OSError as error:
        raise OSError(error.errno, f"mount {kind or source} on {target}: {error.strerror}") from error


def unmount(target: str) -> None:
    call("umount2", target.encode(), MNT_DETACH)


def enter_root(folder: str) -> None:
    """Make folder the root of this mount namespace, and detach the old root."""
    os.chdir(folder)
    call("syscall", _numbers()["pivot_root"], b".", b".")
    unmount(".")
    os.chdir("/")


def make_read_only(folder: str) -> None:
    """Make every mount from folder on read-only, in one call, without touching flags that the host locked."""
    attributes = struct.pack("=QQQQ", _MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NOSUID, 0, 0, 0)
    size = ctypes.c_size_t(len(attributes))
    call("syscall", _MOUNT_SETATTR, -100, folder.encode(), _AT_RECURSIVE, attributes, size)


def die_with_parent() -> None:
    call("prctl", _PR_SET_PDEATHSIG, 9, 0, 0, 0)


def drop_privileges() -> None:
    """Drop all capabilities for good, also over execve, and install the filter for all descendants."""
    call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call("capset", struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), bytes(24))
    code = _filter()
    descriptor = struct.pack("@HP", len(code) // 8, ctypes.addressof(code))
    call("prctl", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, descriptor, 0, 0)


def _numbers() -> dict[str, int]:
    machine = platform.machine()
    if machine not in _NUMBERS:
        raise OSError(f"system calls of {machine} are not known, only those of {', '.join(_NUMBERS)}")
    return _NUMBERS[machine]


@lru_cache(1)
def _filter() -> ctypes.Array[ctypes.c_char]:
    """Return classic BPF over struct seccomp_data: nr at 0, arch at 4, the low half of argument 0 at 16.

    It refuses the calls and arguments listed above, clone with a new user namespace, and any socket that is
    not AF_UNIX, since a network namespace doesn't contain AF_VSOCK. clone3 seems missing, so libc uses clone.
    """
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, refuse, absent, kill = 0x7FFF0000, 0x50001, 0x50026, 0x80000000
    numbers = _numbers()
    code = [
        (load, 0, 0, 4), (equal, 1, 0, _AUDIT[platform.machine()]), (give, 0, 0, kill),
        (load, 0, 0, 0), (at_least, 0, 1, 0x40000000), (give, 0, 0, kill),
        (equal, 0, 1, numbers["clone3"]), (give, 0, 0, absent),
    ]  # fmt: skip
    for name in _REFUSED:
        code += [(equal, 0, 1, numbers[name]), (give, 0, 0, refuse)]
    code += [(equal, 0, 3, numbers["clone"]), (load, 0, 0, 16), (any_bit, 0, 5, CLONE_NEWUSER)]
    code += [(give, 0, 0, refuse)]
    code += [(equal, 0, 3, numbers["socket"]), (load, 0, 0, 16), (equal, 1, 0, 1), (give, 0, 0, refuse)]
    for name, place, values in _REFUSED_ARGUMENTS:
        code += [(equal, 0, 2 + 2 * len(values), numbers[name]), (load, 0, 0, place)]
        for value in values:
            code += [(equal, 0, 1, value), (give, 0, 0, refuse)]
        code += [(load, 0, 0, 0)]
    code += [(give, 0, 0, allow)]
    packed = b"".join(struct.pack("=HBBI", *each) for each in code)
    return ctypes.create_string_buffer(packed, len(packed))
