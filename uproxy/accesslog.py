"""What the access log says of a finished connection: its fields, in order, and nothing else.

It writes nothing and knows no format.  This is the one place where source and destination
appear, because the fields carry ztunnel's names; the rest of uProxy says app and peer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from uproxy.contract import Connection, Ending
from uproxy.model import Address, Direction, Outcome, TcpAddress, Transport

Value = str | int | None

DENIALS = frozenset(
    {
        Outcome.DENIED,
        Outcome.POLICY_CHANGED,
        Outcome.HANDSHAKE_FAILED,
        Outcome.PEER_UNTRUSTED,
        Outcome.PEER_UNEXPECTED,
        Outcome.IDENTITY_EXPIRED,
        Outcome.IDENTITY_DISTRUSTED,
        Outcome.NO_IDENTITY,
    }
)
"""The outcomes that `access: denied` keeps: somebody was refused for who they are, or proved
nothing (no certificate)."""


@dataclass(frozen=True, slots=True)
class AccessRecord:
    """One line of the access log."""

    fields: tuple[tuple[str, Value], ...]
    """In the contract's order; None where there is nothing to say."""
    outcome: Outcome
    kind: tuple[str, str, str] | None
    """Outcome, rule or step, and peer: failures of the same kind say the same.  None for an
    ordinary end."""


class AccessLog(Protocol):
    """Who takes the records."""

    def wants(self, outcome: Outcome) -> bool:
        """Whether to make a record of a connection that ended so."""

    def access(self, record: AccessRecord) -> None:
        """Take it."""


def kept(access: str) -> frozenset[Outcome]:
    """The outcomes that `access: all | denied | none` keeps."""
    return {"all": frozenset(Outcome), "denied": DENIALS, "none": frozenset[Outcome]()}[access]


def access_record(
    direction: Direction,
    transport: Transport,
    ours: str | None,
    connection: Connection,
    ending: Ending,
) -> AccessRecord:
    """The line for a `connection` that ended; `ours` is our own SPIFFE ID in it."""
    arrival = connection.arrival
    peer = connection.peer or arrival.peer
    theirs = None if peer is None else peer.spiffe_id
    inbound = direction is Direction.INBOUND
    address = connection.dialled or (arrival.local if inbound else None)
    far = None if address is None else str(address)
    fields: tuple[tuple[str, Value], ...] = (
        ("src.addr", str(arrival.source)),
        ("src.identity", theirs if inbound else ours),
        ("dst.addr", far),
        ("dst.identity", ours if inbound else theirs),
        ("dst.hbone_addr", None),
        ("direction", direction),
        ("transport", transport),
        ("via", "direct"),
        ("bytes_sent", ending.bytes_sent),
        ("bytes_recv", ending.bytes_received),
        ("duration", f"{round(ending.duration * 1000)}ms"),
        ("outcome", ending.outcome),
        ("rule", _rule(connection, ending)),
        ("error", ending.reason),
    )
    if ending.outcome.flag == "-":
        return AccessRecord(fields, ending.outcome, None)
    who = theirs or (_host(arrival.source) if inbound else str(far))
    kind = (ending.outcome.value, ending.rule or ending.state.value, who)
    return AccessRecord(fields, ending.outcome, kind)


def _host(source: Address) -> str:
    return source.host if isinstance(source, TcpAddress) else str(source)


def _rule(connection: Connection, ending: Ending) -> str | None:
    """What refused it or, unless it was refused, what had let it in."""
    if ending.rule is not None or ending.outcome in DENIALS or connection.route is None:
        return ending.rule
    return connection.route.rule
