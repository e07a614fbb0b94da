"""How many connections the process's descriptors allow.

The limit is raised as far as this process may, once; what still doesn't fit is clamped and
told, so that a full proxy refuses early instead of failing to accept.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import Final

from uproxy.errors import UproxyError

DESCRIPTORS_PER_CONNECTION: Final = 2
RESERVED_DESCRIPTORS: Final = 64
"""For listeners, the loop, the log, admin requests and the identity's socket."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How many connections fit into the descriptors this process may have."""

    descriptors: int
    connections: int
    """`wanted`, or less."""
    note: str | None
    """What to tell the operator when it is less."""


def raise_limit() -> int:
    """RLIMIT_NOFILE to its hard limit; what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return soft  # the kernel's own ceiling is fs.nr_open; "infinity" can't be asked for
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def budget_for(wanted: int, descriptors: int) -> Budget:
    """Clamp `wanted` connections to what `descriptors` allow.

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
