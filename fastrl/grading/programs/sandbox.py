"""Sandbox for generated programs, made of Linux namespaces: needs no root, no service, no further package.

A worker enters namespaces of its own (user, mount, process, network, IPC, host name, cgroup) once. It sees
only the libraries of the system and of Python, read-only, and no /proc. Each program then runs in a fork with
its own process namespace and an empty /tmp, the only place to write. When that namespace's first process
ends, the kernel kills all its other processes, even detached ones.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import stat
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from fastrl.grading.programs import sandbox_kernel as kernel

NOBODY = 65534
"""User id of programs if the trainer is root, since the limit on processes doesn't apply to root."""
NUM_FILES = 256
"""Number of files of the largest size that fit into a program's /tmp."""
NUM_OPEN_FILES = 64
_DEVICES = ("null", "zero", "random", "urandom")
_NEW_ROOT = "/tmp"
USR = ("/usr/bin", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libexec", "/usr/share/zoneinfo")
"""Folders of the system that programs see, in addition to Python's."""
_PAGE_BYTES = resource.getpagesize()


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one test: those of ProgramConfig in the kernel's units."""

    timeout_s: float
    memory_bytes: int
    num_processes: int
    file_bytes: int


class Namespaces:
    """The sandbox, entered by creating this object; the rest of the program runs inside, as process 1.

    Args:
        file_bytes: size of the largest file; a program's /tmp holds NUM_FILES of them.
        hidden: folder that programs must not see.
        packages: folders that programs see in addition to the system's and Python's.
    Raises:
        OSError: this machine refuses a step; the message names it.
    """

    def __init__(self, file_bytes: int, hidden: str, packages: Sequence[str] = ()) -> None:
        self._as_root = os.geteuid() == 0
        self._tmp_options = f"mode=1777,size={NUM_FILES * file_bytes},nr_inodes={4 * NUM_FILES}"
        visible = _libraries(hidden, packages)
        _enter_namespaces(self._as_root)
        self._proc = _build_root(visible)
        self._own = os.open("ns/pid", os.O_RDONLY, dir_fd=os.open("self", os.O_PATH, dir_fd=self._proc))
        self._mount_tmp()

    def fork(self) -> int:
        """Fork; the child is process 1 of its own process namespace."""
        kernel.unshare(kernel.CLONE_NEWPID)
        pid = os.fork()
        if pid:
            kernel.set_child_process_namespace(self._own)
        return pid

    def confine(self, limits: Limits) -> None:
        """Set the limits and drop all privileges, in a fork. Irreversible."""
        os.chdir("/tmp")
        set_limits(limits)
        # the limit counts processes of the same user: the checker too and, without root, the worker
        ours = 1 if self._as_root else 2
        resource.setrlimit(resource.RLIMIT_NPROC, (limits.num_processes + ours,) * 2)
        if self._as_root:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        kernel.drop_privileges()

    def part(self) -> None:
        """Give a checker's fork its own /tmp and network, so that only two pipes connect it with the program.

        Call it before confine.
        """
        kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWNET)
        self._mount_tmp()

    def memory_bytes(self) -> int:
        """Return the resident memory of all forks and their descendants, plus the content of /tmp."""
        tmp = os.statvfs("/tmp")
        total = (tmp.f_blocks - tmp.f_bfree) * tmp.f_frsize
        for name in os.listdir(self._proc):
            if name.isdigit() and name != "1":
                with suppress(FileNotFoundError, ProcessLookupError):
                    sizes = os.open(f"{name}/statm", os.O_RDONLY, dir_fd=self._proc)
                    with open(sizes) as file:
                        total += int(file.read().split()[1]) * _PAGE_BYTES
        return total

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    def clean(self) -> None:
        """Provide an empty /tmp after a test. Without root it is always a new one, since programs own it."""
        if not self._as_root or os.listdir("/tmp"):
            kernel.unmount("/tmp")
            self._mount_tmp()

    def _mount_tmp(self) -> None:
        kernel.mount("tmpfs", "/tmp", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, self._tmp_options)


class PlainProcesses:
    """Replacement without a sandbox: limits per process, and a process group that is killed."""

    def __init__(self) -> None:
        self._folders: list[str] = []

    def fork(self) -> int:
        self._folders.append(tempfile.mkdtemp(prefix="fastrl-program-"))
        pid = os.fork()
        if pid:
            os.setpgid(pid, pid)
        return pid

    def confine(self, limits: Limits) -> None:
        os.setpgid(0, 0)
        os.chdir(self._folders[-1])
        set_limits(limits)

    def part(self) -> None:
        """Do nothing: without a sandbox, checker and program are not separated."""

    def memory_bytes(self) -> int:
        return 0

    def kill(self, pid: int) -> None:
        os.killpg(pid, signal.SIGKILL)

    def clean(self) -> None:
        while self._folders:
            shutil.rmtree(self._folders.pop(), ignore_errors=True)  # programs may write undeletable files


def set_limits(limits: Limits) -> None:
    seconds = -int(-limits.timeout_s // 1)
    for kind, limit in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NOFILE, NUM_OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))


def _enter_namespaces(as_root: bool) -> None:
    """Return in a new process, which is process 1 of new namespaces; the caller waits for it and exits."""
    waiting, entered = os.pipe()
    helper = os.fork()
    if helper == 0:
        os.close(entered)
        _write_maps(os.getppid(), waiting, as_root)
    os.close(waiting)
    kernel.unshare(
        kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWNET
        | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWCGROUP
    )  # fmt: skip
    os.write(entered, b"1")
    os.close(entered)
    _, status = os.waitpid(helper, 0)
    if status:
        number = os.waitstatus_to_exitcode(status)
        raise OSError(number, f"user namespace, map of users: {os.strerror(number)}")
    first = os.fork()
    if first:
        os.waitpid(first, 0)
        os._exit(0)
    kernel.die_with_parent()


def _write_maps(pid: int, waiting: int, as_root: bool) -> None:
    """Map the own user and group to themselves, and NOBODY if root; runs in the old namespace, then exits."""
    if os.read(waiting, 1):
        try:
            if not as_root:
                _write(f"/proc/{pid}/setgroups", "deny")
            for name, mine in (("uid_map", os.getuid()), ("gid_map", os.getgid())):
                nobody = f"{NOBODY} {NOBODY} 1\n" if as_root else ""
                _write(f"/proc/{pid}/{name}", f"{mine} {mine} 1\n{nobody}")
        except OSError as error:
            os._exit(error.errno or 1)
    os._exit(0)


def _build_root(libraries: list[str]) -> int:
    """Enter a read-only root file system with system libraries, Python and four devices.

    Returns: a descriptor of this namespace's /proc, which has no path in it.
    """
    _write("/proc/self/oom_score_adj", "1000")  # if memory runs out, kill a program, not the trainer
    visible = [*libraries, *(f"/dev/{name}" for name in _DEVICES)]
    sources = {path: os.open(path, os.O_PATH) for path in visible}  # the new root may hide their paths
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    flags = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("tmpfs", _NEW_ROOT, "tmpfs", flags, "mode=755,size=1m")
    for path, source in sources.items():
        _bind(source, _NEW_ROOT + path)
        os.close(source)
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        if os.path.islink(f"/{name}"):
            os.symlink(os.readlink(f"/{name}"), f"{_NEW_ROOT}/{name}")
    os.symlink("/tmp", f"{_NEW_ROOT}/dev/shm")
    os.mkdir(f"{_NEW_ROOT}/proc")
    os.mkdir(f"{_NEW_ROOT}/tmp")
    kernel.mount("proc", f"{_NEW_ROOT}/proc", "proc", flags | kernel.MS_NOEXEC)
    proc = os.open(f"{_NEW_ROOT}/proc", os.O_RDONLY | os.O_DIRECTORY)
    kernel.enter_root(_NEW_ROOT)
    kernel.make_read_only("/")
    kernel.unmount("/proc")
    return proc


def visible_paths(packages: Sequence[str] = ()) -> list[str]:
    """Return the paths that a running Python needs, and packages; no path lies inside another.

    Only some folders of /usr are among them, since people keep projects and data under it.
    """
    system = [
        f"/{name}" for name in ("bin", "sbin", "lib", "lib32", "lib64") if not os.path.islink(f"/{name}")
    ]
    python = [f"{sys.base_prefix}/lib", sysconfig.get_path("stdlib"), os.path.realpath(sys.executable)]
    wanted = {*USR, "/etc/ld.so.cache", *system, *python, *packages}
    paths = sorted(path for path in wanted if os.path.exists(path))
    return [path for path in paths if not any(path.startswith(f"{other}/") for other in paths)]


def seen_through(path: str) -> str | None:
    """Return the visible path that contains a file or folder, symlinks resolved; None: it isn't visible."""
    real = os.path.realpath(path)
    return next(
        (seen for seen in visible_paths() if f"{real}/".startswith(f"{os.path.realpath(seen)}/")), None
    )


def _libraries(hidden: str, packages: Sequence[str] = ()) -> list[str]:
    """Return the visible paths, including packages.

    Raises: OSError: `hidden` lies inside one of them, or Python lies in /tmp.
    """
    paths = visible_paths(packages)
    in_tmp = next((path for path in paths if path.startswith("/tmp/")), None)
    if in_tmp is not None:
        raise OSError(f"{in_tmp} lies in /tmp, which a program has for itself")
    if seen_through(hidden):
        raise OSError(f"the working directory {hidden} lies where programs see Python and the system")
    return paths


def _bind(source: int, target: str) -> None:
    if stat.S_ISDIR(os.fstat(source).st_mode):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
    kernel.mount(f"/proc/self/fd/{source}", target, None, kernel.MS_BIND | kernel.MS_REC)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
