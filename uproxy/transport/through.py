"""What both engines need to know of a route that leads through tunnels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from uproxy.contract import Candidate, Refusal, RefusedError, Route, Tunnel
from uproxy.model import Outcome, TcpAddress
from uproxy.transport.l7_failures import l7_proxy_of

MAX_TUNNELS_TRIED: Final = 8
"""Tunnels on which a CONNECT is tried, while the peer says of none that it has looked at it."""

END_DELAY_S: Final = 5.0
"""Seconds without a byte from an L7 proxy after which it gets the end of our direction, although
its own is still open.  Envoy ends both when it gets one while a request is in flight."""
END_DELAY_ANSWERED_S: Final = 1.0
"""The same once something has come after the last byte of ours.  Who closes a connection with which
it is done looks like who only ends its own direction, and mustn't keep a stream for long."""


def end_delay(route: Route, candidate: Candidate) -> float:
    """Return for how many seconds at most a candidate's END_STREAM of ours waits for its own; 0: it
    doesn't."""
    if l7_proxy_of(route, candidate) is None:
        return 0
    limit = route.timeouts.half_close  # which counts from the last byte, too
    return min(END_DELAY_S, limit / 2) if limit else END_DELAY_S


def one_address_each(route: Route) -> tuple[Candidate, ...]:
    """Return the candidates of a route, each with the addresses that race.  Through a tunnel none
    do, because a CONNECT names one."""
    return tuple(one for each in route.candidates for one in _apart(route, each))


def _apart(route: Route, candidate: Candidate) -> Iterator[Candidate]:
    if isinstance(route.upstream_of(candidate), Tunnel):
        for address in candidate.addresses:
            yield replace(candidate, addresses=(address,))
    else:
        yield candidate


def end_of(route: Route, candidate: Candidate) -> TcpAddress | None:
    """Return the address where the tunnel ends that leads to a candidate; None: none does.

    Raises:
        RefusedError: no tunnel can lead to its address.
    """
    upstream, address = route.upstream_of(candidate), candidate.addresses[0]
    if not isinstance(upstream, Tunnel):
        return None
    if not isinstance(address, TcpAddress):
        reason = f"{address} can't be named in a CONNECT: a tunnel leads to an IP address and port"
        raise RefusedError(Refusal(Outcome.CONNECT_FAILED, reason))
    return replace(address, port=upstream.end) if isinstance(upstream.end, int) else upstream.end
