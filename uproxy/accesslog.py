"""The fields of an access log line, in order, for a connection that has ended.

This module neither formats nor writes.  It is the only one that uses `src` and `dst`, because
those are ztunnel's field names; the rest of uProxy says app and peer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from uproxy.contract import Connection, Ending, OwnSvid
from uproxy.model import Address, Direction, Outcome, TcpAddress, Transport

Value = str | int | None

DENIALS = frozenset(
    {
        Outcome.DENIED,
        Outcome.POLICY_CHANGED,
        Outcome.HANDSHAKE_FAILED,
        Outcome.PEER_UNTRUSTED,
        Outcome.PEER_UNEXPECTED,
        Outcome.PEER_REFUSED,
        Outcome.IDENTITY_EXPIRED,
        Outcome.IDENTITY_DISTRUSTED,
        Outcome.NO_IDENTITY,
        Outcome.L7_REFUSED,
    }
)
"""The outcomes logged by `access: denied`: the peer was refused because of its identity, its
certificate, or because it proved no identity; or it, or an L7 proxy, has probably refused us."""


@dataclass(frozen=True, slots=True)
class AccessRecord:
    """One line of the access log."""

    fields: tuple[tuple[str, Value], ...]
    """(field name, value) in the documented order; a value is None where it isn't known."""
    outcome: Outcome
    kind: tuple[str, str, str] | None
    """(outcome, rule or else the state the connection ended in, peer).  Records with the same
    kind are rate-limited together.  None: the connection ended normally and is never
    limited."""


class AccessLog(Protocol):
    """The interface to which connections hand their records."""

    def wants(self, outcome: Outcome) -> bool:
        """Return whether connections with this outcome are logged at all."""

    def access(self, record: AccessRecord) -> None:
        """Write this record."""


def logged_outcomes(access: str) -> frozenset[Outcome]:
    """Return the outcomes that get a line with `log.access` set to `all`, `denied` or `none`."""
    return {"all": frozenset(Outcome), "denied": DENIALS, "none": frozenset[Outcome]()}[access]


class SpokenFor(Protocol):
    """A caller for which an L7 proxy connects."""

    @property
    def via(self) -> str:
        """What the configuration calls the proxy."""

    @property
    def via_identity(self) -> object:
        """The proxy's SPIFFE ID."""


class ConnectionContext(Protocol):
    """What is known of a connection by the door it came through."""

    @property
    def direction(self) -> Direction: ...

    @property
    def door(self) -> str: ...

    @property
    def destination(self) -> str | None: ...

    @property
    def transport(self) -> Transport: ...

    @property
    def own(self) -> OwnSvid | None: ...

    @property
    def caller(self) -> SpokenFor | None: ...

    def identity_of(self, connection: Connection) -> str | None:
        """Return the SPIFFE ID at the other end."""


def access_record(known: ConnectionContext, connection: Connection, ending: Ending) -> AccessRecord:
    """Build the log record of a connection that has ended."""
    arrival, tls = connection.arrival, connection.tls
    ours = None if known.own is None else known.own.spiffe_id
    theirs, caller = known.identity_of(connection), known.caller
    inbound = known.direction is Direction.INBOUND
    claim = ending.claim
    named: Address | None = None
    # a captured connection that leads nowhere was meant for somebody all the same
    address = connection.dialled or arrival.target or (arrival.local if inbound else None)
    if known.transport is Transport.HBONE:
        # as ztunnel: the end of the tunnel, and what its CONNECT names
        named = arrival.target if inbound else connection.dialled
        address = arrival.local if inbound else connection.tunnel_end
    destination = None if address is None else str(address)
    local = arrival.local if inbound else connection.dialled_from
    fields: tuple[tuple[str, Value], ...] = (
        ("src.addr", str(arrival.source)),
        ("src.identity", theirs if inbound else ours),
        ("dst.addr", destination),
        ("dst.identity", ours if inbound else theirs),
        ("dst.hbone_addr", None if named is None else str(named)),
        ("direction", known.direction),
        ("door", known.door),
        ("destination", known.destination),
        ("local.addr", None if local is None else str(local)),
        ("transport", known.transport),
        ("tls", None if tls is None else str(tls)),
        ("via", (connection.via if caller is None else caller.via) or "direct"),
        ("via.identity", None if caller is None else str(caller.via_identity)),
        ("bytes_sent", ending.bytes_sent),
        ("bytes_recv", ending.bytes_received),
        ("duration", f"{round(ending.duration * 1000)}ms"),
        ("outcome", ending.outcome),
        ("rule", _rule(connection, ending)),
        ("error", ending.reason),
        ("unproven.identity", None if claim is None else claim.spiffe_id),
        ("unproven.serial", None if claim is None else claim.serial),
    )
    if ending.outcome.flag == "-":
        return AccessRecord(fields, ending.outcome, None)
    who = theirs or (_host(arrival.source) if inbound else destination or str(named))
    kind = (ending.outcome.value, ending.rule or ending.state.value, who)
    return AccessRecord(fields, ending.outcome, kind)


def _host(source: Address) -> str:
    """Return the host of a TCP address without its port, or the path of a unix socket."""
    return source.host if isinstance(source, TcpAddress) else str(source)


def _rule(connection: Connection, ending: Ending) -> str | None:
    """Return the rule that refused the connection, or the allow rule that admitted it."""
    if ending.rule is not None or ending.outcome in DENIALS or connection.route is None:
        return ending.rule
    return connection.route.rule
