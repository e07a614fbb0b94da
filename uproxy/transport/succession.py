"""Which door decides about an arrival, and whether what an earlier one said still holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from uproxy.contract import (
    Candidate,
    Door,
    PeerSvid,
    Refusal,
    RefusedError,
    Route,
    Tls,
    Tunnel,
    Upstream,
)
from uproxy.errors import UntrustedError
from uproxy.model import Address, Direction, Outcome


def successor(before: Door, now: Door | None) -> Door:
    """Return the door that decides about an arrival: the one that its listener has `now`; `before`
    is the one that it had when the connection was accepted.

    Raises:
        RefusedError: nobody listens there any more, or the listener serves the other direction.
    """
    if now is not None and now.direction is before.direction:
        return now
    why = "was taken away" if now is None else f"gave its address to {now.direction} {now.name}"
    reason = f"while it was arriving, {before.direction} door {before.name} {why}: dial again"
    raise RefusedError(Refusal(Outcome.POLICY_CHANGED, reason))


def successor_of_open(direction: Direction, now: Door | None) -> Door:
    """Return the door that decides again about a connection that was open.

    Raises:
        RefusedError: as `successor`.
    """
    if now is not None and now.direction is direction:
        return now
    reason = "the L7 proxy was lost before the first byte, and so was the door: dial again"
    raise RefusedError(Refusal(Outcome.POLICY_CHANGED, reason))


def followed(answer: Route | Refusal) -> Route:
    """Return the route that a door answered with.

    Raises:
        RefusedError: the door refused.
    """
    if isinstance(answer, Refusal):
        raise RefusedError(answer)
    return answer


def same_way(
    before: Route, after: Route, dialled: Address | None, peer: PeerSvid | None = None
) -> Route | None:
    """Return the route `after`, cut down to the address `dialled`, if the connection that was
    dialled for the route `before` serves it too; None: dial again.

    It serves it if `after` leads to that address, with the same server name, and would accept the
    handshake made with `peer`.  The route returned has the plan of that handshake.  Of `before` the
    candidate counts that was tried, the first with the address.
    """
    one = next(_leading_to(before, dialled), None)
    if one is None or dialled is None or before.dial_from != after.dial_from:
        return None
    made = before.upstream_of(one)
    for other in _leading_to(after, dialled):
        is_good = _is_good_enough(made, after.upstream_of(other), peer)
        if is_good and one.server_name == other.server_name:
            kept = replace(other, addresses=(dialled,), upstream=None)
            return replace(after, candidates=(kept,), upstream=made)
    return None


def _is_good_enough(before: Upstream, after: Upstream, peer: PeerSvid | None) -> bool:
    """Whether `after` would have made the same handshake, but for an SVID of ours that was renewed,
    and accepts `peer`."""
    if before == after:
        return True
    if isinstance(before, Tunnel) and isinstance(after, Tunnel):
        if (before.end, before.via, before.headers) != (after.end, after.via, after.headers):
            return False
    elif not isinstance(before, Tls) or not isinstance(after, Tls):
        return False
    if peer is None:
        return False
    made_with, wanted = before.plan, after.plan
    if (made_with.own.spiffe_id, made_with.settings, made_with.alpn) != (
        wanted.own.spiffe_id, wanted.settings, wanted.alpn,
    ):  # fmt: skip
        return False
    if made_with.trust_id == wanted.trust_id:
        return True
    try:
        wanted.verify(peer.chain)
    except (UntrustedError, RefusedError):
        return False
    return True


def _leading_to(route: Route, dialled: Address | None) -> Iterator[Candidate]:
    """Return the route's candidates that have the address."""
    return (each for each in route.candidates if dialled in each.addresses)
