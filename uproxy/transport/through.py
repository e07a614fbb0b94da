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
MAX_STRANDINGS: Final = 8
"""Tunnels to L7 proxies whose loss costs a connection nothing, because no byte had passed."""
_LEAST_S: Final = 0.001
"""Seconds of a deadline that has as good as passed."""

END_DELAY_S: Final = 5.0
"""Seconds without a byte from an L7 proxy after which it gets the end of our direction, although
its own is still open.  Envoy ends both when it gets one while a request is in flight."""
END_DELAY_ANSWERED_S: Final = 1.0
"""The same once something has come after the last byte of ours.  Who closes a connection with which
it is done looks like who only ends its own direction, and mustn't keep a stream for long."""


class Tries:
    """How often, and for how long, the CONNECT of one connection is sent again on another tunnel.

    `timeouts.connect` is for one address, however many tunnels to it are tried: a far end that
    drops each just before the deadline gets no more time than one that says nothing.  `route` is
    the one that is tried; `now` are monotonic seconds."""

    __slots__ = ("_count", "_is_again", "_is_due", "_since")

    def __init__(self, now: float) -> None:
        self._count = 0
        self._since = now
        self._is_again = False  # the candidate was tried before
        self._is_due = False  # it is to be tried again

    def begin(self, route: Route, now: float) -> float:
        """Begin to dial the candidate that `again` was asked about, or else another one.  Returns
        as `seconds`."""
        self._is_again, self._is_due = self._is_due, False
        if not self._is_again:
            self._since = now
        return self.seconds(route, now)

    def seconds(self, route: Route, now: float) -> float:
        """Return for how many seconds a step towards the candidate may last; 0: for any time."""
        limit = route.timeouts.connect
        return max(self._since + limit - now, _LEAST_S) if limit and self._is_again else limit

    def again(self, route: Route, now: float) -> bool:
        """Whether to try the candidate on another tunnel."""
        self._count += 1
        limit = route.timeouts.connect
        is_time_left = not limit or now < self._since + limit
        self._is_due = self._count < MAX_TUNNELS_TRIED and is_time_left
        return self._is_due


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
