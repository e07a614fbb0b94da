"""The order of a shutdown: inbound doors close first, outbound doors later, the rest is cut.

Outbound doors stay open until no outbound connection has been open for OUTBOUND_QUIET_S seconds,
so that an application's shutdown hooks can still reach its database, or a Job finish its upload.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable

from uproxy.app.doors import Doors
from uproxy.connections import Connections
from uproxy.contract import Refusal
from uproxy.model import Direction, Outcome, Timeouts

FOR_EVER_S = 365 * 86400.0
"""Seconds that stand for no limit."""
OUTBOUND_QUIET_S = 2.0
"""After inbound has ended, outbound doors close when no outbound connection was open for this
many seconds."""

_log = logging.getLogger(__name__)


async def drain(connections: Connections, doors: Doors, timeouts: Timeouts) -> int:
    """Close the doors in order and wait for open connections, at most `timeouts.drain` seconds
    (0: without limit).

    Returns how many connections had to be cut.
    """
    limit = timeouts.drain or FOR_EVER_S
    deadline = asyncio.get_running_loop().time() + limit
    at_most = f"at most {limit:g} s in all" if timeouts.drain else "then until all have ended"
    _log.info("draining: doors stay open for %g s, %s", timeouts.drain_delay, at_most)
    await asyncio.sleep(min(timeouts.drain_delay, limit))
    await _until(deadline, doors.close(Direction.INBOUND))
    await _until(deadline, connections.wait_until_idle(Direction.INBOUND, for_seconds=0))
    if doors.has(Direction.OUTBOUND):
        quiet = connections.wait_until_idle(Direction.OUTBOUND, for_seconds=OUTBOUND_QUIET_S)
        await _until(deadline, quiet)
        await _until(deadline, doors.close(Direction.OUTBOUND))
        # connections accepted just before the doors closed
        rest = connections.wait_until_idle(Direction.OUTBOUND, for_seconds=0)
        await _until(deadline, rest)
    cut = connections.close_all(Refusal(Outcome.DRAINED, "still open when the drain time was over"))
    if asyncio.get_running_loop().time() >= deadline:
        _log.warning("the drain time is over")
    _log.info("drained: %d connections had to be cut", cut)
    return cut


async def _until(deadline: float, wait: Awaitable[None]) -> None:
    """Wait for `wait`, but not beyond the deadline (seconds of the loop's clock)."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(deadline):
            await wait
