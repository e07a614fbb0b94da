"""What both engines need to know of a route that leads through tunnels."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from uproxy.contract import Candidate, Refusal, RefusedError, Route, Tunnel
from uproxy.model import Outcome, TcpAddress

MAX_TUNNELS_TRIED: Final = 8
"""Tunnels on which a CONNECT is tried, while the peer says of none that it has looked at it."""


def one_address_each(route: Route) -> tuple[Candidate, ...]:
    """Return the candidates of a route, each with the addresses that race.  Through a tunnel none
    do, because a CONNECT names one."""
    if not isinstance(route.upstream, Tunnel):
        return route.candidates
    return tuple(
        replace(each, addresses=(address,))
        for each in route.candidates
        for address in each.addresses
    )


def end_of(route: Route, candidate: Candidate) -> TcpAddress | None:
    """Return the address where the tunnel ends that leads to a candidate; None: none does.

    Raises:
        RefusedError: no tunnel can lead to its address.
    """
    upstream, address = route.upstream, candidate.addresses[0]
    if not isinstance(upstream, Tunnel):
        return None
    if not isinstance(address, TcpAddress):
        reason = f"{address} can't be named in a CONNECT: a tunnel leads to an IP address and port"
        raise RefusedError(Refusal(Outcome.CONNECT_FAILED, reason))
    return replace(address, port=upstream.end) if isinstance(upstream.end, int) else upstream.end
