"""The numbers of connections, by the two ends between which they go.

Plain integers: a connection's life moves a few of them, a scrape reads them all.  Rule: ends
beyond `MAX_PRINCIPALS` share the numbers of OTHER, and nothing here grows with them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from uproxy.metrics.labels import UNKNOWN, FlowLabels, Principals
from uproxy.metrics.pulled import Samples
from uproxy.model import Direction, Outcome

MAX_KNOWN = 4096
"""Ends whose numbers are found at once; more are possible, and found by their label values."""

_ORDINARY = "-"
"""The response flag of what hasn't failed."""

Values = tuple[str, ...]
"""Of every flow label but the last, the response flag."""


class Flow:
    """The numbers of all connections between the same two ends."""

    __slots__ = ("count", "ended", "received", "sent")

    def __init__(self) -> None:
        self.count = 0  # that opened
        self.received = 0
        self.sent = 0  # bytes, from the peer and to it
        self.ended: Counter[Outcome] = Counter()

    def opened(self) -> None:
        """A connection is open."""
        self.count += 1

    def moved(self, received: int, sent: int) -> None:
        """So many more bytes moved, from the peer and to it."""
        self.received += received
        self.sent += sent

    def closed(self, outcome: Outcome) -> None:
        """An open connection has ended."""
        self.ended[outcome] += 1


class Flows:
    """Every flow of this process, and the connections that never became part of one."""

    def __init__(self) -> None:
        self._known: dict[FlowLabels, Flow] = {}  # a shorter way to the same flows
        self._flows: dict[Values, Flow] = {}
        self._failed: Counter[Values] = Counter()  # by every flow label
        self._principals = Principals()

    def of(self, labels: FlowLabels) -> Flow:
        """The flow with these labels, made once."""
        known = self._known.get(labels)
        return self._find(labels) if known is None else known

    def failed(self, labels: FlowLabels, outcome: Outcome) -> None:
        """A connection ended without having opened."""
        self._failed[*self._values(labels), outcome.flag] += 1

    def opened(self) -> Samples:
        """Connections opened."""
        return self._each(lambda flow: flow.count)

    def received(self) -> Samples:
        """Bytes from peers."""
        return self._each(lambda flow: flow.received)

    def sent(self) -> Samples:
        """Bytes to peers."""
        return self._each(lambda flow: flow.sent)

    def closed(self) -> Samples:
        """Open connections that ended, by response flag."""
        for values, flow in self._flows.items():
            flags: Counter[str] = Counter()
            for outcome, count in flow.ended.items():
                flags[outcome.flag] += count
            yield from (((*values, flag), count) for flag, count in flags.items())

    def never_opened(self) -> Samples:
        """Connections that never opened, by response flag."""
        return self._failed.items()

    def _each(self, number: Callable[[Flow], int]) -> Iterator[tuple[Values, float]]:
        return (((*values, _ORDINARY), number(flow)) for values, flow in self._flows.items())

    def _find(self, labels: FlowLabels) -> Flow:
        flow = self._flows.setdefault(self._values(labels), Flow())
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[labels] = flow
        return flow

    def _values(self, labels: FlowLabels) -> Values:
        ours, theirs = labels.ours or UNKNOWN, self._principals.fold(labels.theirs)
        inbound = labels.direction is Direction.INBOUND
        return (
            "destination" if inbound else "source",
            theirs if inbound else ours,
            ours if inbound else theirs,
            UNKNOWN if labels.port is None else str(labels.port),
            "mutual_tls" if labels.mutual_tls else "none",
        )
