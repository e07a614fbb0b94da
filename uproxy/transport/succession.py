"""Which door decides about an arrival: the one that its listener has at that moment."""

from __future__ import annotations

from dataclasses import replace

from uproxy.contract import Candidate, Door, Refusal, RefusedError, Route
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


def same_way(before: Route, after: Route, dialled: Address | None) -> Route | None:
    """`after` as a route to `dialled` alone, if what was reached under `before` is where `after`
    leads too, and was shaken hands with as `after` says; None: it is to be dialled again."""
    one, other = _candidate(before, dialled), _candidate(after, dialled)
    if one is None or other is None or dialled is None:
        return None
    if before.tls is not after.tls or one.server_name != other.server_name:
        return None
    return replace(after, candidates=(replace(other, addresses=(dialled,)),))


def _candidate(route: Route, dialled: Address | None) -> Candidate | None:
    return next((each for each in route.candidates if dialled in each.addresses), None)
