"""The labels of the connection counters, and the bounds for values that peers choose."""

from __future__ import annotations

from typing import NamedTuple

from uproxy.model import Direction

MAX_PRINCIPALS = 1000
"""How many peer identities get time series of their own; later ones are counted as OTHER."""
MAX_PORTS = 1000
"""How many ports get time series of their own: peers choose them where tunnels may name any."""
OTHER = "other"
UNKNOWN = "unknown"
"""Istio's word for an identity that was not proven."""
MAX_LABEL_LENGTH = 256
"""Characters; longer values are cut and end in an ellipsis."""

FLOW_LABELS = (
    "reporter",
    "source_principal",
    "destination_principal",
    "destination_port",
    "connection_security_policy",
    "response_flags",
)


class FlowLabels(NamedTuple):
    """The two ends of a flow.  A tuple, because each connection looks its counters up by it."""

    direction: Direction
    ours: str | None
    """The SPIFFE ID that this uProxy used; None in plaintext."""
    theirs: str | None
    """The peer's verified SPIFFE ID; None in plaintext or if it was not proven."""
    port: int | None
    """The port of the application (inbound) or of the destination (outbound)."""
    mutual_tls: bool


class FirstValues:
    """The first values of a label that peers choose: those with time series of their own."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def label_value(self, chosen: object) -> str:
        """Return the label value for what a peer chose; None: it isn't known, or wasn't proven."""
        if chosen is None:
            return UNKNOWN
        value = shortened(str(chosen))
        if value not in self._known:
            if len(self._known) >= self._most:
                return OTHER
            self._known.add(value)
        return value


def shortened(value: str) -> str:
    """Return `value`, cut to MAX_LABEL_LENGTH characters."""
    return value if len(value) <= MAX_LABEL_LENGTH else value[: MAX_LABEL_LENGTH - 1] + "…"
