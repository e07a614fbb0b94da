"""Whether an open connection of the workload's still leads to whom it should.

The destination's `identities` are the policy of what goes out, and `via` is a part of it: what
should go through an L7 proxy may not stay past it, nor go through another one.  A captured
connection is judged by the destination that matches its original address now.
"""

from __future__ import annotations

from collections.abc import Iterator

from uproxy.contract import Connection
from uproxy.model import Transport
from uproxy.policy import Decision, plain
from uproxy.snapshot import Destination, Snapshot
from uproxy.snapshot.plans import unexpected


def expectation(
    snapshot: Snapshot, destination: str | None, told: tuple[str, ...], connection: Connection
) -> Decision | None:
    """Return the refusal if the connection doesn't lead to whom the destination expects now, or not
    in its way; None: it does, or the destination is gone or has become plaintext.

    Args:
        destination: its name; None: none was chosen.
        told: the SPIFFE IDs of which an L7 proxy was told to expect one there.
    """
    name = _matching(snapshot, connection) or destination
    to = snapshot.destinations.get(name or "")
    if to is None or to.settings.transport is Transport.PLAINTEXT:
        return None
    reason = next(_objections(snapshot, told, connection, to), None)
    return None if reason is None else Decision(False, None, reason)


def _matching(snapshot: Snapshot, connection: Connection) -> str | None:
    """Return the destination that matches a captured connection now; None: it isn't captured, or
    nothing does."""
    meant = connection.arrival.target
    if meant is None or meant.ip is None:
        return None
    return snapshot.matching.find(plain(meant.ip), meant.port)


def _objections(
    snapshot: Snapshot, told: tuple[str, ...], connection: Connection, to: Destination
) -> Iterator[str]:
    peer, via, wanted = connection.peer, connection.via, to.settings.via
    name = to.settings.name
    if peer is None:
        yield f"destination {name} is {to.settings.transport} now, and this connection is in clear"
        return
    if via is not None:
        if wanted not in (None, via):
            yield f"destination {name} is reached via {wanted} now, and this connection via {via}"
        yield from _objections_to_l7(snapshot, told, via, peer.spiffe_id, to)
        return
    if to.via is not None and not to.via.may_bypass:
        yield f"destination {name} is reached via {wanted} now, and this connection is direct"
    why = unexpected(to.expected, peer.spiffe_id)
    if why is not None:
        yield why


def _objections_to_l7(
    snapshot: Snapshot, told: tuple[str, ...], via: str, spiffe_id: str, to: Destination
) -> Iterator[str]:
    """Yield why a connection may not stay open that goes via an L7 proxy, which has proved
    `spiffe_id`."""
    proxy = snapshot.l7_proxies.get(via)
    why = None if proxy is None else unexpected(proxy.expected, spiffe_id)
    if why is not None:
        yield f"L7 proxy {via}: {why}"
    for each in told:
        if unexpected(to.expected, each) is not None:
            yield f"L7 proxy {via} may have connected it to {each}, which isn't expected now"
