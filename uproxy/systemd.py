"""What systemd asks of a service, and what a container asks of its first process.

Notifications (sd_notify(3)), the watchdog, sockets opened by systemd (sd_listen_fds(3)), and
reaping orphans as PID 1.  Whether uProxy is ready or alive is decided by the caller.  Rules:
without systemd's environment variables nothing here has an effect; the variables are removed,
so that child processes don't misread them; a notification that can't be sent is logged, never
fatal.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass

from uproxy import sockets
from uproxy.errors import UproxyError, in_words
from uproxy.model import Address, TcpAddress, UnixAddress

FIRST_DESCRIPTOR = 3
"""SD_LISTEN_FDS_START of sd_listen_fds(3)."""

_VARIABLES = (
    "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS",
    "LISTEN_FDNAMES",
)  # fmt: skip
"""The variables that systemd sets."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SystemdEnvironment:
    """systemd's environment variables, parsed."""

    notify_socket: str | None
    """The path of the socket for notifications, or `@` and an abstract name; None: not wanted."""
    watchdog_s: float | None
    """systemd kills us after this many seconds without a notification; None: no watchdog."""
    descriptors: Mapping[str, tuple[int, ...]]
    """The descriptors of listening sockets, by `FileDescriptorName=`."""


def parse(environment: Mapping[str, str], pid: int) -> SystemdEnvironment:
    """Parse systemd's variables, ignoring those that are meant for another process than `pid`.

    Raises:
        UproxyError: a variable isn't as systemd writes it.
    """
    watchdog = _number(environment, "WATCHDOG_USEC")
    watched = environment.get("WATCHDOG_PID", str(pid)) == str(pid)
    return SystemdEnvironment(
        notify_socket=environment.get("NOTIFY_SOCKET") or None,
        watchdog_s=watchdog / 1e6 if watchdog and watched else None,
        descriptors=_descriptors(environment, pid),
    )


def take(environment: MutableMapping[str, str]) -> SystemdEnvironment:
    """Parse systemd's variables for this process, and remove them from `environment`.

    Raises:
        UproxyError: a variable isn't as systemd writes it.
    """
    parsed = parse(environment, os.getpid())
    for name in _VARIABLES:
        environment.pop(name, None)
    for descriptors in parsed.descriptors.values():
        for descriptor in descriptors:
            with contextlib.suppress(OSError):  # PassedSockets.take reports one that isn't open
                os.set_inheritable(descriptor, False)
    return parsed


def _descriptors(environment: Mapping[str, str], pid: int) -> dict[str, tuple[int, ...]]:
    """Return the descriptors of sockets passed to process `pid`, by their names."""
    if environment.get("LISTEN_PID") != str(pid):
        return {}  # they were meant for our parent process
    count = _number(environment, "LISTEN_FDS")
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    named: dict[str, tuple[int, ...]] = {}
    for index in range(count):
        # systemd's own word for a socket it has no name for
        name = names[index] if index < len(names) and names[index] else "unknown"
        named[name] = (*named.get(name, ()), FIRST_DESCRIPTOR + index)
    return named


def _number(environment: Mapping[str, str], name: str) -> int:
    """Return a variable as a number; 0 if it isn't set."""
    text = environment.get(name, "0")
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise UproxyError(f"{name} = {text!r} in the environment is no number: unset it")
    return int(text)


class PassedSockets:
    """The listening sockets that systemd opened for us."""

    def __init__(self, descriptors: Mapping[str, tuple[int, ...]]) -> None:
        self._descriptors = descriptors
        self._taken: set[str] = set()

    def take(self, name: str) -> socket.socket:
        """Return a socket for `listen: systemd:NAME`.

        Raises:
            UproxyError: there is none or more than one of that name, or it is no listening socket.
        """
        offered = self._descriptors.get(name, ())
        if len(offered) == 1:
            self._taken.add(name)
            # a duplicate: a door that a reload closes can be opened again by a later reload
            return _duplicate(offered[0])
        if offered:
            raise UproxyError(
                f"systemd:{name} means {len(offered)} sockets: give each ListenStream= a socket "
                "unit, and so a FileDescriptorName=, of its own"
            )
        have = ", ".join(sorted(self._descriptors)) or "none"
        raise UproxyError(
            f"systemd:{name} was not passed by systemd (there is {have}): is FileDescriptorName="
            f"{name} in its socket unit, and the socket unit started?"
        )

    def ports(self) -> frozenset[int]:
        """Return the TCP ports of all of them, whether a door uses them or not."""
        bound = (_bound(number) for each in self._descriptors.values() for number in each)
        return frozenset(each.port for each in bound if isinstance(each, TcpAddress))

    @property
    def unused(self) -> tuple[str, ...]:
        """The names that no door uses: connections to those sockets would never be accepted."""
        return tuple(sorted(set(self._descriptors) - self._taken))


def _bound(descriptor: int) -> Address | None:
    """Return where a passed socket listens; None: it is no socket that could."""
    try:
        with _duplicate(descriptor) as copy:
            return sockets.address_of(copy.getsockname(), UnixAddress(""))
    except UproxyError:
        return None  # `take` says why, if a door wants it


def _duplicate(descriptor: int) -> socket.socket:
    """Return a listening socket with a duplicate of the descriptor."""
    try:
        copy = os.dup(descriptor)
    except OSError:
        raise UproxyError(f"descriptor {descriptor} isn't open: was it passed on?") from None
    try:
        return sockets.adopt(copy)
    except UproxyError:
        os.close(copy)
        raise


class Notifier:
    """Sends notifications to systemd; does nothing without a notify socket."""

    def __init__(self, notify_socket: str | None) -> None:
        self._address = _socket_address(notify_socket) if notify_socket else None

    def ready(self, status: str) -> None:
        """Report that the start or a reload is done; `status` is shown by `systemctl status`."""
        self._send("READY=1", _status(status))

    def reloading(self) -> None:
        """Report that a reload begins; call `ready` when it ends, also if it failed."""
        # Type=notify-reload needs the time to tell this reload from an earlier one
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={now_us}")

    def stopping(self, status: str) -> None:
        """Report that uProxy drains and then exits."""
        self._send("STOPPING=1", _status(status))

    def status(self, status: str) -> None:
        """Set the line that `systemctl status` shows."""
        self._send(_status(status))

    def alive(self) -> None:
        """Reset systemd's watchdog timer."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        """Send a notification; log a warning if that fails."""
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)  # a systemd that hangs must not block us
                sender.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            _log.warning("systemd wasn't told %s: %s", lines[0], in_words(error))


async def watch(notifier: Notifier, watchdog_s: float, alive: Callable[[], bool]) -> None:
    """Reset systemd's watchdog timer while `alive()` returns true; runs until cancelled.

    It does so twice per period of `watchdog_s` seconds, as sd_watchdog_enabled(3) advises. When
    `alive()` returns false, systemd's timer runs out and systemd restarts uProxy.
    """
    while True:
        if alive():
            notifier.alive()
        await asyncio.sleep(watchdog_s / 2)


def adopt_orphans() -> bool:
    """As PID 1, make the kernel reap orphaned processes, so that none stays a zombie.

    uProxy starts no processes of its own. Returns whether this process is PID 1.
    """
    if os.getpid() != 1:
        return False
    # with SIG_IGN the kernel reaps them (sigaction(2)); uvloop allows no handler for SIGCHLD
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    reap()  # those that exited before
    return True


def reap() -> int:
    """Reap all child processes that have exited; return how many there were."""
    count = 0
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            count += 1
    return count


def _socket_address(name: str) -> str:
    return "\0" + name[1:] if name.startswith("@") else name


def _status(words: str) -> str:
    return f"STATUS={' '.join(words.split())}"
