"""Which door decides about an arrival: the one that its listener has at that moment."""

from __future__ import annotations

from dataclasses import replace

from uproxy.contract import Candidate, Door, PeerSvid, Refusal, RefusedError, Route, TlsPlan
from uproxy.errors import UntrustedError
from uproxy.model import Address, Outcome


def successor(before: Door, now: Door | None) -> Door:
    """The door that decides about an arrival that came to `before`; `now` is the listener's.

    Raises:
        RefusedError: nobody listens there any more, or the listener serves the other direction.
    """
    if now is not None and now.direction is before.direction:
        return now
    why = "was taken away" if now is None else f"gave its address to {now.direction} {now.name}"
    reason = f"while it was arriving, {before.direction} door {before.name} {why}: dial again"
    raise RefusedError(Refusal(Outcome.POLICY_CHANGED, reason))


def same_way(
    before: Route, after: Route, dialled: Address | None, peer: PeerSvid | None = None
) -> Route | None:
    """`after` as a route to `dialled` alone, if what was reached under `before` is where `after`
    leads too, and the handshake with `peer` is good enough for it; None: it is to be dialled
    again.  It has the plan that the handshake was made with."""
    one, other = _candidate(before, dialled), _candidate(after, dialled)
    if one is None or other is None or dialled is None:
        return None
    if before.tls is not after.tls and not _is_good_enough(before.tls, after.tls, peer):
        return None
    if one.server_name != other.server_name:
        return None
    candidates = (replace(other, addresses=(dialled,)),)
    return replace(after, candidates=candidates, tls=before.tls)


def _is_good_enough(
    made_with: TlsPlan | None, wanted: TlsPlan | None, peer: PeerSvid | None
) -> bool:
    """Whether a new plan would have made the same handshake, but for our own renewed SVID."""
    if made_with is None or wanted is None or peer is None:
        return False
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


def _candidate(route: Route, dialled: Address | None) -> Candidate | None:
    return next((each for each in route.candidates if dialled in each.addresses), None)
