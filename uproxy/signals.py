"""Signals that reach a running uProxy: held back while it starts, or without effect.

Log rotation, shells and supervisors send signals that uProxy has no use for, and the default of
most is to end the process with every connection in it.
"""

from __future__ import annotations

import signal
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import threading

QUITTING: Final = frozenset({signal.SIGTERM, signal.SIGINT})
"""What ends uProxy, in order."""

HANDLED: Final = QUITTING | {signal.SIGHUP}
"""What the event loop handles once it runs: reload and quit."""

IGNORED: Final = frozenset(
    {signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE, signal.SIGALRM, signal.SIGVTALRM,
     signal.SIGPROF, signal.SIGIO, signal.SIGPWR}
)  # fmt: skip
"""What has no effect.  SIGQUIT is none of them: it ends the process at once."""


def hold_back() -> None:
    """Ignore what has no effect, and let the kernel keep what the event loop will handle.  As
    process 1 of a container, a signal that isn't kept would be lost before there is a handler."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    hold_back_those_handled()


def hold_back_those_handled() -> None:
    """Let the kernel keep what the event loop will handle."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)


def start_without(thread: threading.Thread) -> None:
    """Start a thread that gets none of what the event loop handles.  One that lives on while the
    process ends would take a signal for which there is no handler any more.

    Raises:
        RuntimeError: no thread can be started.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    try:
        thread.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_through(numbers: Collection[signal.Signals] = HANDLED) -> None:
    """Deliver what was held back, and what comes from now on.  Threads that were started in
    between don't get any, nor do those of `start_without`."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
