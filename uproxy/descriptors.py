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
"""For listeners, the event loop, the log, admin requests and the Workload API's socket."""


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


def budget_for(wanted: int, descriptors: int) -> Budget:
    """Lower `wanted` connections to the number that `descriptors` allow.

    Raises:
        UproxyError: not even one connection fits.
    """
    fitting = (descriptors - RESERVED_DESCRIPTORS) // DESCRIPTORS_PER_CONNECTION
    needed = wanted * DESCRIPTORS_PER_CONNECTION + RESERVED_DESCRIPTORS
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
