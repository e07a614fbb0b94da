"""What systemd asks of a service, and what a container asks of its first process.

Notifications (sd_notify(3)), the watchdog, sockets opened by systemd (sd_listen_fds(3)) and
PID 1's duty to its orphans.  It decides neither when uProxy is ready nor whether it is alive:
it says so when told.  Rules: without systemd's environment everything here does nothing; the
environment is taken, not left for children to misread; a notification that can't be sent is
logged, never fatal.
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
from uproxy.errors import UproxyError

FIRST_DESCRIPTOR = 3
"""SD_LISTEN_FDS_START of sd_listen_fds(3)."""

_TAKEN = (
    "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS",
    "LISTEN_FDNAMES",
)  # fmt: skip

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Offer:
    """What systemd's environment offers to this process."""

    notify_socket: str | None
    """A path, or `@` and an abstract name; None: nobody listens."""
    watchdog_s: float | None
    """Without a sign of life for so long, systemd kills us; None: it doesn't watch."""
    descriptors: Mapping[str, tuple[int, ...]]
    """Listening sockets by `FileDescriptorName=`."""


def parse(environment: Mapping[str, str], pid: int) -> Offer:
    """Read systemd's variables as they concern process `pid`.

    Raises:
        UproxyError: a variable isn't what systemd writes.
    """
    watchdog = _number(environment, "WATCHDOG_USEC")
    watched = environment.get("WATCHDOG_PID", str(pid)) == str(pid)
    return Offer(
        notify_socket=environment.get("NOTIFY_SOCKET") or None,
        watchdog_s=watchdog / 1e6 if watchdog and watched else None,
        descriptors=_descriptors(environment, pid),
    )


def take(environment: MutableMapping[str, str]) -> Offer:
    """`parse`, for this process, and remove the variables.

    Raises:
        UproxyError: a variable isn't what systemd writes.
    """
    offer = parse(environment, os.getpid())
    for name in _TAKEN:
        environment.pop(name, None)
    for descriptors in offer.descriptors.values():
        for descriptor in descriptors:
            with contextlib.suppress(OSError):  # one that isn't open is told by Listeners.take
                os.set_inheritable(descriptor, False)
    return offer


def _descriptors(environment: Mapping[str, str], pid: int) -> dict[str, tuple[int, ...]]:
    if environment.get("LISTEN_PID") != str(pid):
        return {}  # inherited from a parent they were meant for
    count = _number(environment, "LISTEN_FDS")
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    named: dict[str, tuple[int, ...]] = {}
    for index in range(count):
        # systemd's own word for a socket it has no name for
        name = names[index] if index < len(names) and names[index] else "unknown"
        named[name] = (*named.get(name, ()), FIRST_DESCRIPTOR + index)
    return named


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "0")
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise UproxyError(f"{name} = {text!r} in the environment is no number: unset it")
    return int(text)


class Listeners:
    """The sockets systemd opened for us."""

    def __init__(self, descriptors: Mapping[str, tuple[int, ...]]) -> None:
        self._descriptors = descriptors
        self._taken: set[str] = set()

    def take(self, name: str) -> socket.socket:
        """The socket that `listen: systemd:NAME` means.

        Raises:
            UproxyError: there is none, or there are several, or it is no listening socket.
        """
        offered = self._descriptors.get(name, ())
        if len(offered) == 1:
            self._taken.add(name)
            # a copy: a door that one reload removes can come back with another
            return _copy(offered[0])
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

    @property
    def unused(self) -> tuple[str, ...]:
        """Names nobody took: connections to them would wait for ever."""
        return tuple(sorted(set(self._descriptors) - self._taken))


def _copy(descriptor: int) -> socket.socket:
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
    """Tells systemd what happens."""

    def __init__(self, notify_socket: str | None) -> None:
        self._address = _socket_address(notify_socket) if notify_socket else None

    def ready(self, status: str) -> None:
        """Started, or reloaded.  `status` is the line in `systemctl status`."""
        self._send("READY=1", _status(status))

    def reloading(self) -> None:
        """A reload begins; `ready` ends it, also when it failed."""
        # Type=notify-reload tells this reload from an earlier one by the time
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={now_us}")

    def stopping(self, status: str) -> None:
        """Draining, then exiting."""
        self._send("STOPPING=1", _status(status))

    def status(self, status: str) -> None:
        """What `systemctl status` shows from now on."""
        self._send(_status(status))

    def alive(self) -> None:
        """Hold the watchdog off."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)  # a manager that hangs must not hang us
                sender.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            _log.warning("systemd wasn't told %s: %s", lines[0], error.strerror)


async def watch(notifier: Notifier, watchdog_s: float, alive: Callable[[], bool]) -> None:
    """Hold the watchdog off while `alive()`; runs until cancelled.

    Twice per period, as sd_watchdog_enabled(3) advises.  What doesn't answer is left to
    systemd: it kills and restarts.
    """
    while True:
        if alive():
            notifier.alive()
        await asyncio.sleep(watchdog_s / 2)


def adopt_orphans() -> bool:
    """As PID 1, let no child whose parent is gone stay a zombie.

    uProxy starts no children of its own.  Returns whether this process is PID 1.
    """
    if os.getpid() != 1:
        return False
    # the kernel waits for them (sigaction(2)); uvloop lets nobody handle this signal
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    reap()  # those that ended before
    return True


def reap() -> int:
    """Wait for every child that has ended; how many there were."""
    count = 0
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            count += 1
    return count


def _socket_address(name: str) -> str:
    return "\0" + name[1:] if name.startswith("@") else name


def _status(words: str) -> str:
    return f"STATUS={' '.join(words.split())}"
