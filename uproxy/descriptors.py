"""How many connections fit into this process's limit of open file descriptors.

The soft limit is raised to the hard limit once, at start.  If `limits.connections` still
doesn't fit, it is lowered and the operator is warned: refusing connections above a known limit
is better than an accept(2) that fails with EMFILE.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import Final

from uproxy.errors import UproxyError

DESCRIPTORS_PER_CONNECTION: Final = 2
RESERVED_DESCRIPTORS: Final = 64
"""For the event loop, the log, the Workload API's socket, files that are read, name resolution."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How many connections fit into the descriptors this process may have."""

    descriptors: int
    connections: int
    """How many connections may be open at once: the configured number, or fewer."""
    note: str | None
    """The warning for the operator; None when the configured number fits."""


def raise_limit() -> int:
    """Raise the soft RLIMIT_NOFILE to the hard limit; return the soft limit now in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return soft  # the kernel's own ceiling is fs.nr_open; "infinity" can't be asked for
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def check_least(descriptors: int) -> None:
    """Make sure that uProxy itself can run, before any connection.

    Raises:
        UproxyError: it can't.
    """
    if descriptors <= RESERVED_DESCRIPTORS:
        raise UproxyError(
            f"the descriptor limit of {descriptors} is too low: raise LimitNOFILE (ulimit -n) "
            f"above {RESERVED_DESCRIPTORS}, which uProxy needs for itself"
        )


def reserved_for(doors: int, threads: int, admin: int, lookups: int) -> int:
    """Return how many descriptors connections must leave to others.

    Args:
        doors: a reload may have twice as many listening sockets open.
        threads: of the engine; each has an epoll and an eventfd.
        admin: what the admin listeners and their clients need at most.
        lookups: of names, at a time; each has a socket.
    """
    return RESERVED_DESCRIPTORS + 2 * doors + 2 * threads + admin + lookups


def budget_for(wanted: int, descriptors: int, reserved: int) -> Budget:
    """Lower `wanted` connections to the number that `descriptors`, without the `reserved` ones,
    allow.

    Raises:
        UproxyError: not even one connection fits.
    """
    fitting = (descriptors - reserved) // DESCRIPTORS_PER_CONNECTION
    needed = wanted * DESCRIPTORS_PER_CONNECTION + reserved
    if fitting < 1:
        raise UproxyError(
            f"the descriptor limit of {descriptors} is too low: raise LimitNOFILE "
            f"(ulimit -n) to {needed} for limits.connections = {wanted}"
        )
    if fitting >= wanted:
        return Budget(descriptors, wanted, None)
    return Budget(
        descriptors,
        fitting,
        f"limits.connections = {wanted} is clamped to {fitting} by the descriptor limit of "
        f"{descriptors}: raise LimitNOFILE (ulimit -n) to {needed}",
    )
