"""The states of a connection and the only moves between them.

Both engines obey this table; the picture in the docs is drawn from it.  It knows no
socket and no clock: a deadline is the name of a timeout, kept by the engine.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType

from uproxy.model import Outcome


class State(enum.StrEnum):
    """The steps, in order."""

    ACCEPTED = "accepted"
    HANDSHAKING_NEAR = "handshaking_near"
    ADMITTING = "admitting"
    CONNECTING = "connecting"
    HANDSHAKING_FAR = "handshaking_far"
    RELAYING = "relaying"
    CLOSING = "closing"
    CLOSED = "closed"


MOVES: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        State.ACCEPTED: frozenset({State.HANDSHAKING_NEAR, State.ADMITTING, State.CLOSED}),
        State.HANDSHAKING_NEAR: frozenset({State.ADMITTING, State.CLOSED}),
        State.ADMITTING: frozenset({State.CONNECTING, State.CLOSED}),
        State.CONNECTING: frozenset({State.HANDSHAKING_FAR, State.RELAYING, State.CLOSED}),
        # back to connecting: the next address, while no byte has gone
        State.HANDSHAKING_FAR: frozenset({State.CONNECTING, State.RELAYING, State.CLOSED}),
        State.RELAYING: frozenset({State.CLOSING, State.CLOSED}),
        State.CLOSING: frozenset({State.CLOSED}),
        State.CLOSED: frozenset(),
    }
)
"""CLOSING is half-closed: one side has finished sending, the other has not."""

DEADLINES: Mapping[State, str] = MappingProxyType(
    {
        State.HANDSHAKING_NEAR: "handshake",
        State.CONNECTING: "connect",
        State.HANDSHAKING_FAR: "handshake",
        State.RELAYING: "idle",
        State.CLOSING: "half_close",
    }
)
"""The field of Timeouts that bounds each state."""

_ANYWHERE = frozenset(
    {Outcome.RESET, Outcome.DRAINED, Outcome.LIMIT, Outcome.POLICY_CHANGED,
     Outcome.IDENTITY_EXPIRED, Outcome.IDENTITY_DISTRUSTED}
)  # fmt: skip
_HANDSHAKE = frozenset(
    {Outcome.HANDSHAKE_FAILED, Outcome.PEER_UNTRUSTED, Outcome.PEER_UNEXPECTED,
     Outcome.TIMED_OUT}
)  # fmt: skip

ENDINGS: Mapping[State, frozenset[Outcome]] = MappingProxyType(
    {
        State.ACCEPTED: _ANYWHERE | {Outcome.NO_IDENTITY},
        State.HANDSHAKING_NEAR: _ANYWHERE | _HANDSHAKE,
        State.ADMITTING: _ANYWHERE
        | {Outcome.DENIED, Outcome.NO_DESTINATION, Outcome.NO_IDENTITY, Outcome.CONNECT_FAILED},
        State.CONNECTING: _ANYWHERE | {Outcome.CONNECT_FAILED, Outcome.TIMED_OUT},
        State.HANDSHAKING_FAR: _ANYWHERE | _HANDSHAKE,
        # a TLS 1.3 server's refusal of our certificate arrives when our handshake has ended
        State.RELAYING: _ANYWHERE | {Outcome.TIMED_OUT, Outcome.HANDSHAKE_FAILED},
        State.CLOSING: _ANYWHERE | {Outcome.CLOSED, Outcome.TIMED_OUT, Outcome.HANDSHAKE_FAILED},
    }
)
"""The outcomes each state may end in."""


def check_move(now: State, then: State) -> None:
    """Refuse a move the table doesn't have.

    Raises:
        ValueError: an engine's defect, never a peer's doing.
    """
    if then not in MOVES[now]:
        raise ValueError(f"a connection can't go from {now} to {then}")
