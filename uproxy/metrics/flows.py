"""Counters of connections and bytes, by the pair of identities between which they go.

The counters are plain integers: a connection increments a few, a scrape reads all.  Rule: peers
and ports beyond the first ones (`labels.ChosenLabels`) share the counters labelled OTHER, so memory
stays bounded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from uproxy.metrics.labels import UNKNOWN, ChosenLabels, FlowLabels
from uproxy.metrics.pulled import Samples
from uproxy.model import Direction, Outcome

MAX_KNOWN = 4096
"""How many FlowLabels are kept as shortcuts to their counters; beyond that, the shortcuts are
dropped and the counters are found by their label values."""

_ORDINARY = "-"
"""The response flag of connections that have not failed."""

Values = tuple[str, ...]
"""The values of all flow labels but the last, the response flag."""


class FlowCounters:
    """The counters of all connections between the same two ends."""

    __slots__ = ("_peer_is_client", "count", "ended", "to_client", "to_server")

    def __init__(self, direction: Direction) -> None:
        self._peer_is_client = direction is Direction.INBOUND
        self.count = 0  # connections opened
        self.to_server = 0  # bytes that the client sent
        self.to_client = 0  # bytes that the server sent
        self.ended: Counter[Outcome] = Counter()

    @property
    def received(self) -> int:
        """Bytes from the peer."""
        return self.to_server if self._peer_is_client else self.to_client

    @property
    def sent(self) -> int:
        """Bytes to the peer."""
        return self.to_client if self._peer_is_client else self.to_server

    def opened(self) -> None:
        """Count a connection that began to relay."""
        self.count += 1

    def moved(self, received: int, sent: int) -> None:
        """Add bytes received from the peer and sent to it."""
        self.to_server += received if self._peer_is_client else sent
        self.to_client += sent if self._peer_is_client else received

    def closed(self, outcome: Outcome) -> None:
        """Count the end of a connection that was opened."""
        self.ended[outcome] += 1


class Flows:
    """The counters of all flows, and of the connections that were never opened."""

    def __init__(self) -> None:
        self._by_labels: dict[FlowLabels, FlowCounters] = {}  # shortcut to the values of _flows
        self._flows: dict[Values, FlowCounters] = {}
        self._failed: Counter[Values] = Counter()  # by all flow labels, response flag included
        self._chosen = ChosenLabels()

    def get(self, labels: FlowLabels) -> FlowCounters:
        """Return the counters for these labels, made at the first call."""
        known = self._by_labels.get(labels)
        return self._find(labels) if known is None else known

    def failed(self, labels: FlowLabels, outcome: Outcome) -> None:
        """Count a connection that ended without having been opened."""
        self._failed[*self._values(labels), outcome.flag] += 1

    def totals(self) -> tuple[int, int, int]:
        """Return connections opened, bytes received from peers and bytes sent to them, of all flows
        together."""
        flows = self._flows.values()
        return (
            sum(flow.count for flow in flows),
            sum(flow.received for flow in flows),
            sum(flow.sent for flow in flows),
        )

    def opened(self) -> Samples:
        """Yield how many connections were opened, by flow."""
        return self._each(lambda flow: flow.count)

    def received(self) -> Samples:
        """Yield bytes from the client to the server, by flow: Istio counts them as received
        whichever side reports."""
        return self._each(lambda flow: flow.to_server)

    def sent(self) -> Samples:
        """Yield bytes from the server to the client, by flow."""
        return self._each(lambda flow: flow.to_client)

    def closed(self) -> Samples:
        """Yield how many opened connections have ended, by flow and response flag."""
        for values, flow in self._flows.items():
            flags: Counter[str] = Counter()
            for outcome, count in flow.ended.items():
                flags[outcome.flag] += count
            yield from (((*values, flag), count) for flag, count in flags.items())

    def never_opened(self) -> Samples:
        """Yield how many connections ended without having been opened, by flow and response
        flag."""
        return self._failed.items()

    def _each(self, number: Callable[[FlowCounters], int]) -> Iterator[tuple[Values, float]]:
        return (((*values, _ORDINARY), number(flow)) for values, flow in self._flows.items())

    def _find(self, labels: FlowLabels) -> FlowCounters:
        flow = self._flows.setdefault(self._values(labels), FlowCounters(labels.direction))
        if len(self._by_labels) >= MAX_KNOWN:
            self._by_labels.clear()
        self._by_labels[labels] = flow
        return flow

    def _values(self, labels: FlowLabels) -> Values:
        """Return the label values: source and destination as ztunnel defines them."""
        ours = labels.ours or UNKNOWN
        theirs, port = self._chosen.values(labels.theirs, labels.port)
        inbound = labels.direction is Direction.INBOUND
        return (
            "destination" if inbound else "source",
            theirs if inbound else ours,
            ours if inbound else theirs,
            port,
            "mutual_tls" if labels.mutual_tls else "none",
        )
