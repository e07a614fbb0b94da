"""Every metric uProxy shows, by name, and nothing about how the numbers come to be.

One `Metrics` per process.  What happens is told to it (`handshake`, `decided`, a connection's
`Flow`); what others count themselves is read when somebody scrapes (`watch_…`).  Rules: names
are a contract with dashboards (the `istio_tcp_…` ones are ztunnel's); values that a peer
chooses are bounded in number and length; reading never changes a number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from uproxy.contract import TlsFacts
from uproxy.metrics import pulled
from uproxy.metrics.client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from uproxy.metrics.labels import FLOW_LABELS, UNKNOWN, FlowLabels, Principals, short
from uproxy.metrics.pulled import Pulled
from uproxy.metrics.text import render
from uproxy.model import Direction, Outcome

# Seconds; a handshake on a local network takes milliseconds, its deadline is 5 s by default.
_HANDSHAKE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

_IDENTITY_COUNTERS = (
    ("rotations", "identity_rotations", "Times our SVID was replaced by another"),
    ("revocations", "identity_revocations", "Times our SVID was withdrawn"),
    ("reconnects", "workload_api_reconnects", "Times the agent's stream began again"),
    (
        "discarded_messages",
        "workload_api_discarded_messages",
        "Messages of the agent that broke a rule",
    ),
)


class Flow:
    """The counters of all connections between the same two ends."""

    __slots__ = ("_closed", "_opened", "_received", "_sent", "values")

    def __init__(self, families: _Families, values: tuple[str, ...]) -> None:
        self.values = values
        self._closed = families.closed
        self._opened = families.opened.labels(*values, "-")
        self._received = families.received.labels(*values, "-")
        self._sent = families.sent.labels(*values, "-")

    def opened(self) -> None:
        """A connection is open."""
        self._opened.inc()

    def moved(self, received: int, sent: int) -> None:
        """So many more bytes moved, from the peer and to it."""
        self._received.inc(received)
        self._sent.inc(sent)

    def closed(self, outcome: Outcome) -> None:
        """An open connection has ended."""
        self._closed.labels(*self.values, outcome.flag).inc()


class _Families:
    """The counters of connections."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str) -> Counter:
            return Counter(f"istio_tcp_{name}", text, FLOW_LABELS, registry=registry)

        self.opened = counter("connections_opened", "Connections opened")
        self.closed = counter("connections_closed", "Open connections that ended")
        self.failed = counter("connections_failed", "Connections that never opened")
        self.received = counter("received_bytes", "Bytes from peers")
        self.sent = counter("sent_bytes", "Bytes to peers")


class Metrics:
    """All of it."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._families = _Families(registry)
        self._flows: dict[tuple[str, ...], Flow] = {}
        self._principals = Principals()
        self._flushes: list[Callable[[], None]] = []

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"uproxy_{name}", text, labels, registry=registry)

        self._handshakes = counter(
            "handshakes", "Finished TLS handshakes", "direction", "version", "cipher", "group"
        )
        self._handshake_failures = counter(
            "handshake_failures",
            "Failed TLS handshakes, by outcome and SPIFFE rule",
            *("direction", "reason", "rule"),
        )
        self._handshake_seconds = Histogram(
            "uproxy_handshake_duration_seconds",
            "From the first byte of the ClientHello to the end of the handshake",
            ("direction",),
            buckets=_HANDSHAKE_BUCKETS,
            registry=registry,
        )
        self._decisions = counter(
            "authorization_decisions",
            "What rules decided, or would have in shadow mode; rule - is the default",
            *("rule", "decision", "mode"),
        )
        self._reloads = counter("config_reloads", "Reloads of the configuration", "result")
        self._stale = Gauge(
            "uproxy_config_stale",
            "1 while the file holds a configuration that was refused",
            registry=registry,
        )
        self._pulled = Pulled()
        registry.register(self._pulled)
        ProcessCollector(registry=registry)

    def flow(self, labels: FlowLabels) -> Flow:
        """The counters of connections with these labels, made once."""
        # by the folded values: identities that share a series share its entry
        values = self._values(labels)
        known = self._flows.get(values)
        if known is None:
            known = self._flows[values] = Flow(self._families, values)
        return known

    def failed(self, labels: FlowLabels, outcome: Outcome) -> None:
        """A connection ended without having opened."""
        self._families.failed.labels(*self._values(labels), outcome.flag).inc()

    def handshake(self, direction: Direction, facts: TlsFacts) -> None:
        """A handshake has finished."""
        values = (direction.value, facts.version, facts.cipher, facts.group)
        self._handshakes.labels(*map(short, values)).inc()
        self._handshake_seconds.labels(direction.value).observe(facts.duration)

    def handshake_failed(self, direction: Direction, outcome: Outcome, rule: str | None) -> None:
        """A handshake has failed."""
        self._handshake_failures.labels(direction.value, outcome.value, rule or "-").inc()

    def decided(self, rule: str | None, allowed: bool, mode: str = "enforce") -> None:
        """A rule decided; without one, the default did."""
        decision = "allow" if allowed else "deny"
        self._decisions.labels(short(rule or "-"), decision, mode).inc()

    def reloaded(self, applied: bool) -> None:
        """A reload was tried; a refused one leaves the configuration stale."""
        self._reloads.labels("applied" if applied else "refused").inc()
        self._stale.set(0 if applied else 1)

    def build_info(self, versions: Mapping[str, str]) -> None:
        """Say once which uProxy this is: `uproxy`, `python`, `openssl`."""
        self._pulled.gauge(
            "build_info", "Always 1; the labels say which build", tuple(versions),
            lambda: [(tuple(versions.values()), 1)],
        )  # fmt: skip

    def before_render(self, flush: Callable[[], None]) -> None:
        """Call `flush` before each rendering, so that live byte counters are current."""
        self._flushes.append(flush)

    def watch_connections(self, read: Callable[[], Mapping[Direction, int]]) -> None:
        """Open connections by direction."""
        self._pulled.gauge(
            "connections", "Connections open now", ("direction",),
            lambda: [((direction.value,), count) for direction, count in read().items()],
        )  # fmt: skip

    def watch_limits(self, read: Callable[[], Mapping[str, int]]) -> None:
        """Arrivals refused so far, by the limit that refused them."""
        self._pulled.counter(
            "limit_refusals", "Arrivals refused by a limit", ("limit",),
            lambda: [((limit,), count) for limit, count in read().items()],
        )  # fmt: skip

    def watch_log(self, read: Callable[[], int]) -> None:
        """Log lines dropped so far because standard output was blocked."""
        self._pulled.counter(
            "log_dropped_lines", "Log lines dropped: standard output is blocked", (),
            lambda: [((), read())],
        )  # fmt: skip

    def watch_identity(self, status: Callable[[], Mapping[str, object]]) -> None:
        """The facts of `IdentitySource.status`: expiry, rotations, the agent's stream."""
        self._pulled.gauge(
            "identity_expiry_timestamp_seconds", "When our SVID expires, Unix time",
            ("spiffe_id",), partial(pulled.expiry, status),
        )  # fmt: skip
        self._pulled.gauge(
            "workload_api_stream_state", "1 for the state the agent's stream is in",
            ("state",), partial(pulled.stream, status),
        )  # fmt: skip
        for fact, name, text in _IDENTITY_COUNTERS:
            self._pulled.counter(name, text, (), partial(pulled.fact, status, fact))

    def render(self, accept: str = "") -> tuple[str, bytes]:
        """Content type and text: OpenMetrics if `accept` asks for it, else Prometheus text."""
        for flush in self._flushes:
            flush()
        return render(self._registry, accept)

    def _values(self, labels: FlowLabels) -> tuple[str, ...]:
        ours, theirs = labels.ours or UNKNOWN, self._principals.fold(labels.theirs)
        inbound = labels.direction is Direction.INBOUND
        return (
            "destination" if inbound else "source",
            theirs if inbound else ours,
            ours if inbound else theirs,
            UNKNOWN if labels.port is None else str(labels.port),
            "mutual_tls" if labels.mutual_tls else "none",
        )
