"""Looks names up with the system's resolver, in threads of its own.

It uses getaddrinfo and no DNS library, so that a name means here what it means to every other
program of this machine: hosts file, nsswitch, search domains and ndots (Kubernetes), mDNS, the
order of addresses.  getaddrinfo blocks, up to a minute where nobody answers, so each look-up has
a thread; the event loop's own pool has four, of which two would do this.

Rules: a host is asked for once at a time, whoever waits for it; a look-up that hangs isn't
started again while it hangs; hosts that were slow last time leave RESERVED threads to others;
there are at most MOST_THREADS.  A thread that hangs ends with the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import threading
import time
from collections.abc import Callable
from typing import Final

from uproxy import signals
from uproxy.model import TcpAddress

MOST_THREADS: Final = 128
"""Look-ups at a time; a thread that waits for an answer takes some 25 KiB of memory."""

RESERVED: Final = 16
"""Threads that hosts which were slow last time may not take."""

FIRST_THREADS: Final = 4
GROW_AFTER_S: Final = 0.02
"""Threads to begin with; twice as many each time that hosts have waited so long for one."""

SLOW_S: Final = 1.0
"""A look-up that takes longer makes its host a slow one."""

Ask = Callable[[str], tuple[str, ...]]
"""Blocks; returns the literal addresses of a host, or raises OSError."""


def ask_system(host: str) -> tuple[str, ...]:
    """Return the addresses of `host` in the system's order.  Blocks.

    Raises:
        OSError: it has none, or nobody answers.
    """
    # bytes: Python would import its IDNA tables for text, half a MiB, and names are ASCII here
    found = socket.getaddrinfo(
        host.encode("ascii"), None, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
    )
    return tuple(dict.fromkeys(_literal(name) for *_, name in found))


def _literal(name: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]) -> str:
    """Return the address of a socket name; a link-local one with its zone."""
    zone = name[3] if len(name) == 4 else 0
    return f"{name[0]}%{zone}" if zone else str(name[0])


class Lookups:
    """The look-ups of one event loop."""

    def __init__(self, ask: Ask = ask_system, most: int = MOST_THREADS) -> None:
        self._ask = ask
        self._most = most
        self._answers: dict[str, asyncio.Future[tuple[str, ...] | OSError]] = {}  # queued or asked
        self._callers: dict[str, int] = {}  # how many wait for each of them
        self._queue: dict[str, None] = {}  # hosts without a thread yet, oldest first
        self._slow_queue: dict[str, None] = {}  # of those, the ones that were slow last time
        self._slow: set[str] = set()
        self._running: dict[str, bool] = {}  # hosts with a thread: whether they were slow before
        self._allowed = FIRST_THREADS
        self._growing: asyncio.TimerHandle | None = None  # while hosts wait for a thread

    async def __call__(self, name: TcpAddress) -> tuple[TcpAddress, ...]:
        """Return every address of a name, with its port.

        Raises:
            OSError: it has none, or nobody answers.
        """
        answer = await self._answer(name.host)
        if isinstance(answer, OSError):
            raise answer
        return tuple(TcpAddress(host, name.port) for host in answer)

    async def _answer(self, host: str) -> tuple[str, ...] | OSError:
        future = self._answers.get(host)
        if future is None:
            future = self._answers[host] = asyncio.get_running_loop().create_future()
            (self._slow_queue if host in self._slow else self._queue)[host] = None
            self._start_threads()
        self._callers[host] = self._callers.get(host, 0) + 1
        try:
            return await asyncio.shield(future)
        finally:
            self._leave(host, future)

    def _leave(self, host: str, future: asyncio.Future[tuple[str, ...] | OSError]) -> None:
        """A caller has gone; a host for which nobody waits is taken out of the queue."""
        if self._answers.get(host) is not future:
            return
        self._callers[host] -= 1
        if self._callers[host] == 0 and host not in self._running:
            self._remove(host)
            self._queue.pop(host, None)
            self._slow_queue.pop(host, None)

    def _remove(self, host: str) -> asyncio.Future[tuple[str, ...] | OSError]:
        del self._callers[host]
        return self._answers.pop(host)

    def _start_threads(self) -> None:
        while len(self._running) < min(self._allowed, self._most):
            host = self._next()
            if host is None:
                break
            if not self._start(host):
                return
        if not (self._queue or self._slow_queue):
            self._allowed = FIRST_THREADS
        elif self._growing is None and self._allowed < self._most:
            self._growing = asyncio.get_running_loop().call_later(GROW_AFTER_S, self._grow)

    def _grow(self) -> None:
        self._growing = None
        if self._queue or self._slow_queue:
            self._allowed = min(2 * self._allowed, self._most)
        self._start_threads()

    def _next(self) -> str | None:
        """Take the next host out of its queue and return it; None: no host may have a thread
        now."""
        slow = sum(self._running.values())
        if self._queue:
            queue = self._queue
        elif self._slow_queue and slow < max(1, self._most - RESERVED):
            queue = self._slow_queue
        else:
            return None
        host = next(iter(queue))
        del queue[host]
        return host

    def _start(self, host: str) -> bool:
        """Start a thread for a host; return whether that was possible."""
        loop = asyncio.get_running_loop()
        thread = threading.Thread(
            target=self._look_up, args=(loop, host), name="lookup", daemon=True
        )
        self._running[host] = host in self._slow
        try:
            signals.start_without(thread)
        except RuntimeError:  # the machine or the cgroup has no more threads for us
            if len(self._running) == 1:
                why = OSError(errno.EAGAIN, "no thread left to look it up")
                loop.call_soon(self._finish, host, why, 0.0)
            else:  # again when one has ended
                del self._running[host]
                self._queue[host] = None
            return False
        return True

    def _look_up(self, loop: asyncio.AbstractEventLoop, host: str) -> None:
        """Ask the system for one host and report the answer; runs in its thread."""
        began = time.monotonic()
        answer: tuple[str, ...] | OSError
        try:
            answer = self._ask(host)
        except OSError as error:
            answer = error
        except Exception as error:  # noqa: BLE001  reported like every other failure, and tried again
            answer = OSError(errno.EINVAL, f"{type(error).__name__}: {error}")
        took = time.monotonic() - began
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(self._finish, host, answer, took)

    def _finish(self, host: str, answer: tuple[str, ...] | OSError, took: float) -> None:
        del self._running[host]
        if took > SLOW_S:
            self._slow.add(host)
        else:
            self._slow.discard(host)
        self._remove(host).set_result(answer)
        self._start_threads()
