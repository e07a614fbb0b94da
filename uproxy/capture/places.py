"""Cgroups, network namespaces and mounts: what the user names, checked and opened."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from uproxy.errors import NotPermittedError, UproxyError, UsageError, in_words

NAMED_NAMESPACES: Final = Path("/run/netns")
"""Where `ip netns` keeps the namespaces that have names."""

_HERE: Final = Path("/proc/self/ns/net")
_OF_THE_MACHINE: Final = Path("/proc/sys/net/core/netdev_budget")
_CLONE_NEWNET: Final = 0x40000000
_NS_GET_NSTYPE: Final = 0xB703
"""ioctl_ns(2)."""
_SO_NETNS_COOKIE: Final = 71
_NOT_SEEN: Final = (FileNotFoundError, ProcessLookupError, PermissionError)
"""What opening a namespace says that has ended, or belongs to somebody else's process."""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Cgroup:
    """A control group of version 2."""

    path: Path
    id: int
    """The inode number of its folder, by which the kernel knows it.  A cgroup that is removed and
    made again at the same path has another one."""

    def contains(self, other: Cgroup) -> bool:
        """Whether `other` is this one or below it."""
        return other.path.is_relative_to(self.path)


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace."""

    path: Path
    """A file that stands for it.  It may go while the namespace lives on."""
    inode: int
    """The file's inode number, which the kernel may give to another namespace when this one is
    gone."""
    cookie: int = 0
    """A number that the kernel gives to one namespace only (SO_NETNS_COOKIE); 0: this kernel
    doesn't tell it."""

    def is_same(self, other: Namespace) -> bool:
        """Return whether both are the same namespace, as far as the kernel tells."""
        return (self.inode, self.cookie) == (other.inode, other.cookie)


@dataclass(frozen=True, slots=True)
class _Mount:
    point: Path
    kind: str


def find_cgroup(option: str, text: str) -> Cgroup:
    """Return the cgroup at a path.

    Raises:
        UsageError: there is none.
    """
    path = Path(os.path.realpath(text))
    if not path.is_dir():
        raise UsageError(f"{option} {text!r}: no such folder: is it below {cgroup_root()}?")
    kind = mount_of(path).kind
    if kind == "cgroup":
        raise UsageError(
            f"{option} {text!r}: of cgroup version 1; capture needs one below {cgroup_root()}"
        )
    if kind != "cgroup2":
        raise UsageError(f"{option} {text!r}: no cgroup: is it below {cgroup_root()}?")
    return Cgroup(path, path.stat().st_ino)


def cgroup_root() -> Path:
    """Return where cgroup version 2 is mounted; where it usually is if it isn't."""
    found = (mount.point for mount in _mounts().values() if mount.kind == "cgroup2")
    return next(found, Path("/sys/fs/cgroup"))


def find_namespace(text: str) -> Namespace:
    """Return the network namespace that a path, a name or a process id means.

    Raises:
        UsageError: there is none.
    """
    path = Path(text)
    if text.isdecimal():
        path = Path("/proc", text, "ns/net")
    elif "/" not in text:
        path = NAMED_NAMESPACES / text
    try:
        with opened(path) as descriptor:
            if fcntl.ioctl(descriptor, _NS_GET_NSTYPE) != _CLONE_NEWNET:
                raise UsageError(f"--netns {text!r}: another kind of namespace")
            return _identified(path, os.fstat(descriptor).st_ino)
    except PermissionError:
        raise NotPermittedError(
            f"--netns {text!r}: we may not look into {path}: CAP_SYS_PTRACE needed"
        ) from None
    except OSError as error:
        reason = in_words(error) if error.errno != errno.ENOTTY else "no namespace"
        raise UsageError(
            f"--netns {text!r}: {reason}: give a path (/proc/PID/ns/net), a name of `ip netns`, "
            "or a process id"
        ) from None


def follow_namespace(namespace: Namespace) -> Namespace | None:
    """Find a file that stands for a namespace now: its path, a name of `ip netns`, or a process's
    ns/net.  Return the namespace with that path; None: there is none.

    Raises:
        NotPermittedError: we may not enter it, to see whether it is another one.
    """
    for each in (namespace.path, *_ways()):
        with contextlib.suppress(OSError):
            if each.stat().st_ino == namespace.inode:
                found = _identified(each, namespace.inode)
                return found if found.is_same(namespace) else None
    return None


def enter_each() -> Iterator[Namespace]:
    """Yield every network namespace to which a way leads that we may see, while we are in it.

    Raises:
        NotPermittedError: we may enter none.
    """
    seen: set[int] = set()
    of_namespaces = _HERE.stat().st_dev
    with opened(_HERE) as here:
        for path in (_HERE, *_ways()):
            # one may end meanwhile, and what we may not see we can't have captured in
            with contextlib.suppress(*_NOT_SEEN), opened(path) as there:
                found = os.fstat(there)
                # a name can be left of one that is gone
                if found.st_dev == of_namespaces and found.st_ino not in seen:
                    seen.add(found.st_ino)
                    _enter(there)
                    try:
                        yield Namespace(path, found.st_ino)
                    finally:
                        _enter(here)


def _ways() -> Iterator[Path]:
    yield from NAMED_NAMESPACES.glob("*")
    # not [0-9]*/ns/net, which raises for a process that ends meanwhile
    yield from (process / "ns/net" for process in Path("/proc").glob("[0-9]*"))


def living(namespace: Namespace) -> Namespace:
    """As `follow_namespace`, but that it is gone is an error.

    Raises:
        UproxyError: it is gone.
        NotPermittedError: as `follow_namespace`.
    """
    found = follow_namespace(namespace)
    if found is None:
        raise UproxyError(f"the network namespace {namespace.path} is gone")
    return found


def _identified(path: Path, inode: int) -> Namespace:
    """Return the namespace at a path, with its cookie."""
    found = Namespace(path, inode)
    if _HERE.stat().st_ino == inode:  # which everybody may ask
        return replace(found, cookie=netns_cookie())
    with inside(found):
        return replace(found, cookie=netns_cookie())


def is_initial(namespace: Namespace) -> bool:
    """Return whether it is the machine's own network namespace, the only one in which settings of
    the whole machine can be seen."""
    with inside(namespace):
        return _OF_THE_MACHINE.exists()


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a file or folder for reading; close it afterwards."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def inside(namespace: Namespace) -> Iterator[None]:
    """Enter a network namespace, and leave it afterwards: sockets that are opened inside the `with`
    block belong to it, and so do files below /proc/sys/net.  It changes this thread alone.

    Raises:
        NotPermittedError: we may not enter it.
    """
    with opened(_HERE) as here:
        with opened(namespace.path) as there:
            if os.fstat(there).st_ino != namespace.inode:
                raise UproxyError(f"{namespace.path} leads to another network namespace by now")
            _enter(there)
        try:
            yield
        finally:
            _enter(here)


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        if code == errno.EPERM:
            raise NotPermittedError("entering a network namespace needs CAP_SYS_ADMIN")
        raise OSError(code, os.strerror(code))


def netns_cookie() -> int:
    """Return this namespace's number that eBPF programs see; 0: this kernel doesn't tell (before
    Linux 5.14)."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            raw = probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        except OSError:
            return 0
    return int.from_bytes(raw, "little")


def mount_of(path: Path) -> _Mount:
    """Return the mount that a file is on."""
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    return _mounts().get(wanted, _Mount(Path("/"), "unknown"))


def _mounts() -> dict[str, _Mount]:
    """Return the mounts by device (`major:minor`); if a device is mounted several times, the
    first."""
    found: dict[str, _Mount] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        device, point = left.split()[2], left.split()[4]
        found.setdefault(device, _Mount(Path(point), right.split()[0]))
    return found
