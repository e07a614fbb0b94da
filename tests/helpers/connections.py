"""Connections as a door sees them, without an engine; a test sets every attribute.

Unrealistic: nothing takes time, and the state only changes when a test sets it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from uproxy.connections import ConnectionInfo
from uproxy.contract import Arrival, Ending, OwnSvid, PeerSvid, Refusal, Route, TlsFacts
from uproxy.lifecycle import State
from uproxy.model import Address, Direction, Outcome, TcpAddress, Transport

APP = TcpAddress("127.0.0.1", 8080)
PEER = TcpAddress("10.0.0.1", 40000)
LOCAL = TcpAddress("10.0.0.2", 8443)


def arrival(peer: PeerSvid | None = None, source: Address = PEER, number: int = 1) -> Arrival:
    return Arrival(number, source, LOCAL, peer)


@dataclass(eq=False)
class FakeConnection:
    """Implements `contract.Connection`; `refusals` has what `close` was called with."""

    arrival: Arrival = field(default_factory=arrival)
    route: Route | None = None
    peer: PeerSvid | None = None
    tls: TlsFacts | None = None
    dialled: Address | None = APP
    dialled_from: TcpAddress | None = None
    shares_tls: bool = False
    tunnel_end: TcpAddress | None = None
    via: str | None = None
    streams: int = 0
    endpoint: str | None = None
    state: State = State.RELAYING
    bytes_received: int = 0
    bytes_sent: int = 0
    refusals: list[Refusal] = field(default_factory=list)

    def close(self, refusal: Refusal) -> None:
        self.refusals.append(refusal)


def known(
    direction: Direction = Direction.INBOUND,
    ours: str | None = None,
    transport: Transport = Transport.MTLS,
) -> ConnectionInfo:
    """What a door knows of its connections; outbound they lead to a destination."""
    own = None if ours is None else OwnSvid(ours, (), datetime(2030, 1, 1, tzinfo=UTC))
    destination = "db" if direction is Direction.OUTBOUND else None
    return ConnectionInfo(direction, "api", transport, own, None, None, destination)


def ending(
    outcome: Outcome = Outcome.CLOSED, state: State = State.CLOSING, **facts: object
) -> Ending:
    return Ending(outcome, state, 1.5, **facts)  # type: ignore[arg-type]  # the caller's keywords
