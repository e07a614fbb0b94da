"""The labels of the connection counters, and the bounds for values that peers choose."""

from __future__ import annotations

from typing import NamedTuple

from uproxy.model import Direction

MAX_PRINCIPALS = 1000
"""How many peer identities get time series of their own; later ones are counted as OTHER."""
MAX_PORTS_OF_PEER = 250
"""How many ports of one peer get time series of their own: peers choose them where tunnels, or
captured connections, may be meant for any."""
MAX_PAIRS = 2000
"""How many pairs of a peer and a port get time series of their own."""
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


class ChosenLabels:
    """The values of the two labels that peers choose: the first ones get time series of their own,
    and later ones share those labelled OTHER, so that one peer can't use up what others need."""

    def __init__(self) -> None:
        self._ports: dict[str, set[int]] = {}  # by peer: those that have time series
        self._pairs = 0  # the ports in all of these sets

    def values(self, peer: str | None, port: int | None) -> tuple[str, str]:
        """Return the labels for a peer and a port; a peer None wasn't proven, a port None isn't
        known."""
        name = UNKNOWN if peer is None else shortened(peer)
        if name not in self._ports:
            if len(self._ports) >= MAX_PRINCIPALS and name != UNKNOWN:
                name = OTHER
            self._ports.setdefault(name, set())
        return name, self._port(self._ports[name], port)

    def _port(self, known: set[int], port: int | None) -> str:
        if port is None:
            return UNKNOWN
        if port not in known:
            if len(known) >= MAX_PORTS_OF_PEER or self._pairs >= MAX_PAIRS:
                return OTHER
            known.add(port)
            self._pairs += 1
        return str(port)


def shortened(value: str) -> str:
    """Return `value`, cut to MAX_LABEL_LENGTH characters."""
    return value if len(value) <= MAX_LABEL_LENGTH else value[: MAX_LABEL_LENGTH - 1] + "…"
