"""How a refusal travels: which status answers a CONNECT, and what one that was received means.

The statuses are ztunnel's, but for 403, which is Envoy's word where ztunnel says 401: a client of
ours takes either for a refusal by policy.
"""

from __future__ import annotations

from uproxy.hbone.codes import ErrorCode
from uproxy.model import Outcome

CONNECTED = 200
"""The application is connected, and bytes may pass."""
_STATUSES = {Outcome.DENIED: 403, Outcome.NO_DESTINATION: 400}
_OTHERWISE = 503

_DENIED = (Outcome.PEER_REFUSED, "its policy doesn't allow us there")
_MEANINGS = {
    400: (Outcome.CONNECT_FAILED, "the destination isn't one of its addresses"),
    401: _DENIED,
    403: _DENIED,
    404: (Outcome.CONNECT_FAILED, "it knows no such destination"),
    503: (Outcome.CONNECT_FAILED, "it can't reach the destination"),
}
_UNKNOWN = (Outcome.CONNECT_FAILED, "is it an HBONE server?")
_AT_L7 = {
    400: "it takes the request for malformed",
    403: "its policy doesn't let us through",
    404: "it has no route for this destination",
    503: "it has no healthy way to the destination, or has reached a limit of its own",
}
_UNKNOWN_AT_L7 = "does a listener for CONNECT answer there?"
_RESETS = {
    ErrorCode.REFUSED_STREAM: "it has as many streams as it may have, or is about to end",
    ErrorCode.CONNECT_ERROR: "it can't reach the destination",
    ErrorCode.PROTOCOL_ERROR: "it takes the request for malformed",
    ErrorCode.ENHANCE_YOUR_CALM: "it takes the request for one of too many",
}


def status_of(outcome: Outcome) -> int | None:
    """Return the status that answers a CONNECT which ended so before it was relayed; None: its
    stream is reset with REFUSED_STREAM instead, which lets the client try elsewhere (RFC 9113
    §8.7)."""
    return None if outcome is Outcome.LIMIT else _STATUSES.get(outcome, _OTHERWISE)


def meaning_of(status: int, *, at_l7: bool = False) -> tuple[Outcome, str]:
    """Return how a connection ends whose CONNECT was answered with such a status, which isn't
    CONNECTED, and the reason in words.  `at_l7`: it was an L7 proxy that answered."""
    outcome, probably = _MEANINGS.get(status, _UNKNOWN)
    if at_l7:
        outcome, probably = Outcome.L7_REFUSED, _AT_L7.get(status, _UNKNOWN_AT_L7)
    return outcome, f"the peer answered the CONNECT with {status}: {probably}"


def meaning_of_reset(code: ErrorCode, *, at_l7: bool = False) -> tuple[Outcome, str]:
    """Return how a connection ends whose CONNECT was reset instead of answered, and the reason.  An
    L7 proxy's REFUSED_STREAM is no refusal: it hasn't looked at the request."""
    probably = _RESETS.get(code, "it could not or would not serve it")
    has_refused = at_l7 and code is not ErrorCode.REFUSED_STREAM
    outcome = Outcome.L7_REFUSED if has_refused else Outcome.CONNECT_FAILED
    return outcome, f"the peer reset the CONNECT with {code.name}: {probably}"
