"""How a stream is opened through a tunnel that we have dialled, or are to dial."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

from uproxy.contract import Candidate, Route, TlsPlan, Tunnel
from uproxy.model import TcpAddress, TunnelSettings
from uproxy.transport import failures
from uproxy.transport.through import end_delay, end_of


@dataclass(frozen=True, slots=True)
class Way:
    """Where a stream is to be opened."""

    plan: TlsPlan
    end: TcpAddress
    authority: TcpAddress
    server_name: str | None
    """The SNI to send; None: none."""
    settings: TunnelSettings
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    """Of the CONNECT; our token may be among them."""
    at_l7: bool
    """Whether `end` is an L7 proxy."""
    end_delay: float
    """For how many seconds at most our END_STREAM waits for the peer's."""
    server: str
    """What should listen at `end`, in words."""


def way_of(route: Route, candidate: Candidate) -> Way:
    """Return the way to a candidate of a route through tunnels, which has one address.

    Raises:
        RefusedError: it is a unix socket's, to which no tunnel leads.
    """
    upstream = cast("Tunnel", route.upstream_of(candidate))
    return Way(
        plan=upstream.plan,
        end=cast("TcpAddress", end_of(route, candidate)),
        authority=cast("TcpAddress", candidate.addresses[0]),
        server_name=candidate.server_name,
        settings=upstream.settings,
        headers=upstream.headers,
        at_l7=upstream.via is not None,
        end_delay=end_delay(route, candidate),
        server=failures.server_of(route, candidate),
    )
