"""The labels of a connection's counters, and how values that peers choose are bounded."""

from __future__ import annotations

from typing import NamedTuple

from uproxy.model import Direction

MAX_PRINCIPALS = 1000
"""Peer identities with time series of their own; later ones fold into OTHER."""
OTHER = "other"
UNKNOWN = "unknown"
"""Istio's word for an identity that wasn't proven."""
MAX_LABEL_LENGTH = 256
"""Characters; longer values end in an ellipsis."""

FLOW_LABELS = (
    "reporter",
    "source_principal",
    "destination_principal",
    "destination_port",
    "connection_security_policy",
    "response_flags",
)


class FlowLabels(NamedTuple):
    """Between whom bytes move.  A tuple, because every connection looks its flow up by it."""

    direction: Direction
    ours: str | None
    """Our own SPIFFE ID in the connection; None in plaintext."""
    theirs: str | None
    """The peer's verified SPIFFE ID; None in plaintext, or never proven."""
    port: int | None
    """The application's, or the destination's."""
    mutual_tls: bool


class Principals:
    """Which peers have series of their own: the first MAX_PRINCIPALS."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def fold(self, identity: str | None) -> str:
        """The label value for a peer's identity; None is one that wasn't proven."""
        if identity is None:
            return UNKNOWN
        value = short(identity)
        if value not in self._known:
            if len(self._known) >= MAX_PRINCIPALS:
                return OTHER
            self._known.add(value)
        return value


def short(value: str) -> str:
    """`value` within MAX_LABEL_LENGTH."""
    return value if len(value) <= MAX_LABEL_LENGTH else value[: MAX_LABEL_LENGTH - 1] + "…"
