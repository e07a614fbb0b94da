"""The states of a connection, the moves allowed between them, and how each state may end.

Both engines obey these tables, and the picture in the docs is drawn from them.  This module
uses no socket and no clock: DEADLINES names timeouts, the engines enforce them.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType

from uproxy.model import Outcome


class State(enum.StrEnum):
    """The states in the order in which a connection passes them."""

    ACCEPTED = "accepted"
    HANDSHAKING_DOWNSTREAM = "handshaking_downstream"
    CARRYING = "carrying"
    ADMITTING = "admitting"
    CONNECTING = "connecting"
    HANDSHAKING_UPSTREAM = "handshaking_upstream"
    OPENING_STREAM = "opening_stream"
    RELAYING = "relaying"
    CLOSING = "closing"
    CLOSED = "closed"


MOVES: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        State.ACCEPTED: frozenset({State.HANDSHAKING_DOWNSTREAM, State.ADMITTING, State.CLOSED}),
        State.HANDSHAKING_DOWNSTREAM: frozenset({State.CARRYING, State.ADMITTING, State.CLOSED}),
        # each stream that it carries is a connection of its own, which begins with ACCEPTED
        State.CARRYING: frozenset({State.CLOSED}),
        State.ADMITTING: frozenset({State.CONNECTING, State.CLOSED}),
        # back to ADMITTING: another snapshot decides, while no byte has been relayed
        State.CONNECTING: frozenset(
            {
                State.ADMITTING,
                State.HANDSHAKING_UPSTREAM,
                State.OPENING_STREAM,
                State.RELAYING,
                State.CLOSED,
            }
        ),
        # back to CONNECTING: the next address is tried
        State.HANDSHAKING_UPSTREAM: frozenset(
            {State.ADMITTING, State.CONNECTING, State.OPENING_STREAM, State.RELAYING, State.CLOSED}
        ),
        # back to CONNECTING: another tunnel, or the next address, is tried
        State.OPENING_STREAM: frozenset(
            {State.ADMITTING, State.CONNECTING, State.RELAYING, State.CLOSED}
        ),
        # back to ADMITTING: an L7 proxy was lost before a byte was relayed
        State.RELAYING: frozenset({State.ADMITTING, State.CLOSING, State.CLOSED}),
        State.CLOSING: frozenset({State.CLOSED}),
        State.CLOSED: frozenset(),
    }
)
"""For each state, the states that may follow.  CLOSING is half-closed: one side has finished
sending, the other has not; or one side has failed, and what it had sent is still delivered.
CARRYING is the state of a tunnel, whose streams are connections; OPENING_STREAM is a connection's
that waits for the answer to its CONNECT."""

DEADLINES: Mapping[State, str] = MappingProxyType(
    {
        State.HANDSHAKING_DOWNSTREAM: "handshake",
        State.CONNECTING: "connect",
        State.HANDSHAKING_UPSTREAM: "handshake",
        State.OPENING_STREAM: "connect",
        State.RELAYING: "idle",
        State.CLOSING: "half_close",
    }
)
"""For each state with a deadline, the field of `model.Timeouts` that sets it."""

_ANYWHERE = frozenset(
    {Outcome.RESET, Outcome.DRAINED, Outcome.LIMIT, Outcome.POLICY_CHANGED,
     Outcome.IDENTITY_EXPIRED, Outcome.IDENTITY_DISTRUSTED}
)  # fmt: skip
_HANDSHAKE = frozenset(
    {Outcome.HANDSHAKE_FAILED, Outcome.PEER_UNTRUSTED, Outcome.PEER_UNEXPECTED,
     Outcome.TIMED_OUT}
)  # fmt: skip
_REFUSED_LATE = frozenset({Outcome.HANDSHAKE_FAILED, Outcome.PEER_REFUSED, Outcome.L7_REFUSED})

ENDINGS: Mapping[State, frozenset[Outcome]] = MappingProxyType(
    {
        # a stream may begin with a request that is no CONNECT to an address
        State.ACCEPTED: _ANYWHERE | {Outcome.NO_DESTINATION},
        State.HANDSHAKING_DOWNSTREAM: _ANYWHERE
        | _HANDSHAKE
        | {Outcome.PROBED, Outcome.NO_IDENTITY},
        State.CARRYING: _ANYWHERE | {Outcome.CLOSED, Outcome.HANDSHAKE_FAILED},
        State.ADMITTING: _ANYWHERE
        | {
            Outcome.DENIED,
            Outcome.NO_DESTINATION,
            Outcome.NO_IDENTITY,
            Outcome.CONNECT_FAILED,
            Outcome.L7_UNAVAILABLE,
        },
        State.CONNECTING: _ANYWHERE
        | {Outcome.CONNECT_FAILED, Outcome.TIMED_OUT, Outcome.L7_UNAVAILABLE},
        State.HANDSHAKING_UPSTREAM: _ANYWHERE | _HANDSHAKE | {Outcome.L7_UNAVAILABLE},
        State.OPENING_STREAM: _ANYWHERE
        | {
            Outcome.CONNECT_FAILED,
            Outcome.TIMED_OUT,
            Outcome.HANDSHAKE_FAILED,
            Outcome.PEER_REFUSED,
            Outcome.L7_UNAVAILABLE,
            Outcome.L7_REFUSED,
        },
        # a TLS 1.3 server's refusal of our certificate arrives when our handshake has ended, and an
        # L7 proxy answers a CONNECT before it dials the destination
        State.RELAYING: _ANYWHERE | _REFUSED_LATE | {Outcome.TIMED_OUT},
        State.CLOSING: _ANYWHERE | _REFUSED_LATE | {Outcome.TIMED_OUT, Outcome.CLOSED},
    }
)
"""For each state, the outcomes with which a connection may end in it."""


def check_move(now: State, then: State) -> None:
    """Refuse a move between states that MOVES doesn't allow.

    Raises:
        ValueError: the engine has a defect; a peer can't cause this.
    """
    if then not in MOVES[now]:
        raise ValueError(f"a connection can't go from {now} to {then}")
