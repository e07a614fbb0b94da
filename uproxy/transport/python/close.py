"""Closes the sides of a connection, in order or with resets, and says how it ended."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from uproxy.contract import Connection, Ending, Refusal
from uproxy.model import Outcome
from uproxy.transport.python.side import End

_WITH_ALERT: Final = frozenset(
    {Outcome.HANDSHAKE_FAILED, Outcome.PEER_UNTRUSTED, Outcome.PEER_UNEXPECTED, Outcome.PROBED}
)


def is_alert_sent(why: Refusal) -> bool:
    """Whether a handshake that failed with this refusal has sent an alert."""
    return why.outcome in _WITH_ALERT


def close_sides(sides: Iterable[End | None], why: Refusal | None) -> None:
    """Close the sides that there are; `why`: the refusal that ended the connection, None if both
    directions have ended in order."""
    for side in sides:
        if side is not None and _is_in_order(side, why):
            side.close()
        elif side is not None:
            side.reset()


def _is_in_order(side: End, why: Refusal | None) -> bool:
    """Whether to close a side without a reset, which would drop what the kernel hasn't
    delivered: a slow reader that was sent the end isn't at fault for the other side's silence."""
    return why is None or (why.outcome is Outcome.TIMED_OUT and side.finished)


def ending_of(connection: Connection, why: Refusal | None, duration: float) -> Ending:
    """Return how a connection ended after `duration` seconds, in the state that it is in; its rule
    is the one that refused, or the one that admitted it."""
    rule = why.rule if why is not None else None
    if rule is None and connection.route is not None:
        rule = connection.route.rule
    return Ending(
        outcome=why.outcome if why else Outcome.CLOSED,
        state=connection.state,
        duration=duration,
        bytes_received=connection.bytes_received,
        bytes_sent=connection.bytes_sent,
        reason=why.reason if why else None,
        rule=rule,
        claim=why.claim if why else None,
        breach=why.breach if why else None,
    )
