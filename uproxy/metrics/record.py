"""Every metric of uProxy, by name.

One `Metrics` per process.  Some numbers are counted here when something happens (`handshake`,
`decided`, a connection's `FlowCounters`); others are read from their owner at each scrape
(`watch_…`). Rules: names, and what they count, are a contract with queries, boards and alerts
(those with `istio_tcp_` are ztunnel's); label values chosen by peers are bounded in number and
length; a scrape changes no number.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial

from uproxy.contract import TlsFacts
from uproxy.lean.prometheus import CollectorRegistry, ProcessCollector
from uproxy.metrics import pulled
from uproxy.metrics.durations import Durations
from uproxy.metrics.flows import FlowCounters, Flows
from uproxy.metrics.labels import FLOW_LABELS, FlowLabels, shortened
from uproxy.metrics.pulled import Pulled
from uproxy.metrics.text import render
from uproxy.model import Direction, Outcome

_HANDSHAKE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Seconds; a handshake on a local network takes milliseconds, its deadline is 5 s by default."""

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


class Metrics:
    """All metrics of the process."""

    def __init__(self) -> None:
        self._flows = Flows()

        # each by label values
        self._handshakes = Counter[tuple[str, ...]]()
        self._handshake_failures = Counter[tuple[str, ...]]()
        self._handshake_seconds = defaultdict[str, Durations](lambda: Durations(_HANDSHAKE_BUCKETS))
        self._probes = Counter[tuple[str, ...]]()
        self._tunnel_ends = Counter[tuple[str, ...]]()
        self._tunnels_broken = Counter[tuple[str, ...]]()
        self._l7_refused = Counter[tuple[str, ...]]()
        self._l7_headers_ignored = 0
        self._decisions = Counter[tuple[str, ...]]()
        self._l7_streams = Counter[tuple[str, ...]]()
        self._l7_failures = Counter[tuple[str, ...]]()
        self._l7_bypasses = Counter[tuple[str, ...]]()
        self._reloads = Counter[tuple[str, ...]]()
        self._stale = False  # the last reload was refused
        self._flushes: list[Callable[[], None]] = []
        self._pulled = Pulled()
        self._registry = CollectorRegistry()
        self._registry.register(self._pulled)
        ProcessCollector(registry=self._registry)
        self._register_flows()
        self._register_events()

    def flow(self, labels: FlowLabels) -> FlowCounters:
        """Return the counters of connections with these labels, made at the first call."""
        return self._flows.get(labels)

    def flow_totals(self) -> tuple[int, int, int]:
        """Return how many connections were opened, and the bytes received and sent by those that
        have been counted."""
        return self._flows.totals()

    def failed(self, labels: FlowLabels, outcome: Outcome) -> None:
        """Count a connection that ended without having been opened."""
        self._flows.failed(labels, outcome)

    def handshake(self, direction: Direction, facts: TlsFacts) -> None:
        """Count a finished handshake and observe how long it took."""
        self._handshakes[direction, facts.version, facts.cipher, facts.group] += 1
        self._handshake_seconds[direction].observe(facts.duration)

    def handshake_failed(self, direction: Direction, outcome: Outcome, rule: str | None) -> None:
        """Count a failed handshake; `rule` is the SPIFFE rule that was broken, if any."""
        self._handshake_failures[direction.value, outcome.value, rule or "-"] += 1

    def probed(self, direction: Direction) -> None:
        """Somebody connected to a door with TLS and went without a byte."""
        self._probes[direction.value,] += 1

    def tunnel_ended(self, direction: Direction, outcome: Outcome) -> None:
        """Count the end of a tunnel that carried streams."""
        self._tunnel_ends[direction.value, outcome.value] += 1

    def tunnel_broken(self, direction: Direction, breach: str) -> None:
        """Count a tunnel that ended because its peer broke HTTP/2; `breach` is as in
        `contract.Refusal`, whose values the engine chooses."""
        self._tunnels_broken[direction.value, breach] += 1

    def l7_used(self, proxy: str, endpoint: str) -> None:
        """Count a stream that was opened through an L7 proxy's address, as configured."""
        self._l7_streams[proxy, endpoint] += 1

    def l7_failed(self, proxy: str, outcome: Outcome) -> None:
        """Count a stream that an L7 proxy didn't carry."""
        self._l7_failures[proxy, outcome.value] += 1

    def l7_bypassed(self, proxy: str, destination: str) -> None:
        """Count a connection that went past an L7 proxy because it was unavailable."""
        self._l7_bypasses[proxy, destination] += 1

    def decided(self, rule: str | None, allowed: bool, mode: str = "enforce") -> None:
        """Count an authorization decision; `rule` None: no rule matched, the default decided."""
        self._decisions[shortened(rule or "-"), "allow" if allowed else "deny", mode] += 1

    def l7_refused(self, reason: str) -> None:
        """Count a stream of an L7 proxy that wasn't believed about the caller."""
        self._l7_refused[reason,] += 1

    def l7_headers_ignored(self) -> None:
        """Count a stream whose peer has sent an L7 proxy's headers, and isn't trusted as one."""
        self._l7_headers_ignored += 1

    def reloaded(self, applied: bool) -> None:
        """Count a reload; one that was refused leaves `uproxy_config_stale` at 1."""
        self._reloads["applied" if applied else "refused",] += 1
        self._stale = not applied

    def build_info(self, versions: Mapping[str, str]) -> None:
        """Publish the versions of `uproxy`, `python` and `openssl` as labels; call once."""
        self._pulled.gauge(
            "uproxy_build_info", "Always 1; the labels say which build", tuple(versions),
            lambda: [(tuple(versions.values()), 1)],
        )  # fmt: skip

    def before_render(self, flush: Callable[[], None]) -> None:
        """Call `flush` before each scrape, so that byte counts of open connections are current."""
        self._flushes.append(flush)

    def watch_readiness(self, read: Callable[[], bool]) -> None:
        """Publish whether new work may be sent here, as `/readyz` answers."""
        self._pulled.gauge(
            "uproxy_ready", "1 while /readyz answers 200, else 0", (), lambda: [((), read())],
        )  # fmt: skip

    def watch_connections(self, read: Callable[[], Mapping[Direction, int]]) -> None:
        """Publish the number of open connections by direction."""
        self._pulled.gauge(
            "uproxy_connections", "Connections open now", ("direction",),
            lambda: pulled.by_direction(read()),
        )  # fmt: skip

    def watch_streams(self, read: Callable[[], Mapping[Direction, int]]) -> None:
        """Publish the number of open streams of tunnels by direction."""
        self._pulled.gauge(
            "uproxy_hbone_streams", "Streams of tunnels open now: connections through HBONE",
            ("direction",), lambda: pulled.by_direction(read()),
        )  # fmt: skip

    def watch_tunnels(self, read: Callable[[], Mapping[Direction, int]]) -> None:
        """Publish the number of open tunnels by direction."""
        self._pulled.gauge(
            "uproxy_hbone_connections", "Tunnels open now, those without a stream too",
            ("direction",), lambda: pulled.by_direction(read()),
        )  # fmt: skip

    def watch_l7(self, read: Callable[[], pulled.Samples]) -> None:
        """Publish which addresses of L7 proxies get new streams."""
        self._pulled.gauge(
            "uproxy_l7_endpoint_usable", "1 while an L7 proxy's address gets new streams, else 0",
            ("l7_proxy", "endpoint"), read,
        )  # fmt: skip

    def watch_limits(self, read: Callable[[], Mapping[str, int]]) -> None:
        """Publish how many arrivals each limit has refused."""
        self._pulled.counter(
            "uproxy_limit_refusals", "Arrivals refused by a limit", ("limit",),
            lambda: [((limit,), count) for limit, count in read().items()],
        )  # fmt: skip

    def watch_log(self, read: Callable[[], int]) -> None:
        """Publish how many log lines were dropped because standard output was blocked."""
        self._pulled.counter(
            "uproxy_log_dropped_lines", "Log lines dropped: standard output is blocked", (),
            lambda: [((), read())],
        )  # fmt: skip

    def watch_identity(self, status: Callable[[], Mapping[str, object]]) -> None:
        """Publish numbers of `IdentitySource.status`: expiry, rotations, the stream's state."""
        self._pulled.gauge(
            "uproxy_identity_expiry_timestamp_seconds", "When our SVID expires, Unix time",
            ("spiffe_id",), partial(pulled.expiry, status),
        )  # fmt: skip
        self._pulled.gauge(
            "uproxy_workload_api_stream_state", "1 for the state the agent's stream is in",
            ("state",), partial(pulled.stream, status),
        )  # fmt: skip
        for fact, name, text in _IDENTITY_COUNTERS:
            self._pulled.counter(f"uproxy_{name}", text, (), partial(pulled.fact, status, fact))

    def watch_tokens(self, expiries: Callable[[], Mapping[str, datetime | None]]) -> None:
        """Publish when the token for each destination expires; None: it has none."""
        self._pulled.gauge(
            "uproxy_token_expiry_timestamp_seconds",
            "When the JWT-SVID for a destination behind an L7 proxy expires, Unix time; 0: none",
            ("destination",),
            lambda: [
                ((name,), 0.0 if expires is None else expires.timestamp())
                for name, expires in expiries().items()
            ],
        )

    def render(self, accept: str = "") -> tuple[str, bytes]:
        """Return (content type, text): OpenMetrics if the Accept header `accept` asks for it,
        else Prometheus text format."""
        for flush in self._flushes:
            flush()
        return render(self._registry, accept)

    def _register_flows(self) -> None:
        """Register the `istio_tcp_` counters."""
        flows, labels, counter = self._flows, FLOW_LABELS, self._pulled.counter
        for name, text, read in (
            ("connections_opened", "Connections opened", flows.opened),
            ("connections_closed", "Open connections that ended", flows.closed),
            ("connections_failed", "Connections that never opened", flows.never_opened),
            ("received_bytes", "Bytes from client to server", flows.received),
            ("sent_bytes", "Bytes from server to client", flows.sent),
        ):
            counter(f"istio_tcp_{name}", text, labels, read)

    def _register_events(self) -> None:
        """Register the metrics that are counted in this class."""
        shown = self._pulled
        shown.counter(
            "uproxy_handshakes", "Finished TLS handshakes",
            ("direction", "version", "cipher", "group"), self._handshakes.items,
        )  # fmt: skip
        shown.counter(
            "uproxy_handshake_failures", "Failed TLS handshakes, by outcome and SPIFFE rule",
            ("direction", "reason", "rule"), self._handshake_failures.items,
        )  # fmt: skip
        shown.counter(
            "uproxy_probes", "Connections to a door with TLS that ended without a byte of it",
            ("direction",), self._probes.items,
        )  # fmt: skip
        shown.counter(
            "uproxy_hbone_connections_closed", "Tunnels that have ended, by outcome",
            ("direction", "outcome"), self._tunnel_ends.items,
        )  # fmt: skip
        shown.counter(
            "uproxy_hbone_broken", "Tunnels that ended because the peer broke HTTP/2, by how",
            ("direction", "reason"), self._tunnels_broken.items,
        )  # fmt: skip
        shown.histogram(
            "uproxy_handshake_duration_seconds",
            "From the first byte of the ClientHello to the end of the handshake",
            "direction", self._handshake_seconds,
        )  # fmt: skip
        shown.counter(
            "uproxy_l7_streams", "Streams opened through an L7 proxy, by its address",
            ("l7_proxy", "endpoint"), self._l7_streams.items,
        )  # fmt: skip
        shown.counter(
            "uproxy_l7_failures", "Attempts that failed at an L7 proxy, or that it refused",
            ("l7_proxy", "outcome"), self._l7_failures.items,
        )  # fmt: skip
        shown.counter(
            "uproxy_l7_bypassed", "Connections that went past an L7 proxy: it was unavailable",
            ("l7_proxy", "destination"), self._l7_bypasses.items,
        )  # fmt: skip
        shown.counter(
            "uproxy_authorization_decisions",
            "What rules decided, or would have in shadow mode; rule - is the default",
            ("rule", "decision", "mode"), self._decisions.items,
        )  # fmt: skip
        shown.counter(
            "uproxy_l7_refused", "Streams of L7 proxies that weren't believed about the caller",
            ("reason",), self._l7_refused.items,
        )  # fmt: skip
        shown.counter(
            "uproxy_l7_headers_ignored",
            "Streams with an L7 proxy's headers, of peers that aren't trusted as one",
            (), lambda: [((), self._l7_headers_ignored)],
        )  # fmt: skip
        shown.counter(
            "uproxy_config_reloads", "Reloads of the configuration", ("result",),
            self._reloads.items,
        )  # fmt: skip
        shown.gauge(
            "uproxy_config_stale", "1 while the file holds a configuration that was refused",
            (), lambda: [((), self._stale)],
        )  # fmt: skip
