from __future__ import annotations

from datetime import UTC, datetime

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Sample

from uproxy.contract import TlsFacts
from uproxy.metrics import FlowLabels, Metrics
from uproxy.metrics.flows import MAX_KNOWN
from uproxy.metrics.labels import (
    MAX_LABEL_LENGTH,
    MAX_PAIRS,
    MAX_PORTS_OF_PEER,
    MAX_PRINCIPALS,
)
from uproxy.model import Direction, Outcome

WEB = "spiffe://example.org/ns/web/sa/frontend"
DB = "spiffe://example.org/ns/db/sa/orders"
IN = FlowLabels(Direction.INBOUND, DB, WEB, 5432, mutual_tls=True)
OUT = FlowLabels(Direction.OUTBOUND, WEB, DB, 5432, mutual_tls=True)
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"


def samples(metrics: Metrics, accept: str = "") -> list[Sample]:
    _, text = metrics.render(accept)
    parse = parse_openmetrics if "openmetrics" in accept else parse_text
    return [sample for family in parse(text.decode()) for sample in family.samples]


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """The number of the one series of `name` that has these labels."""
    found = [
        sample.value
        for sample in samples(metrics)
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    assert len(found) == 1, found
    return float(found[0])


def busy() -> Metrics:
    metrics = Metrics()
    metrics.build_info({"uproxy": "0.1", "openssl": 'a "quoted"\\ value\nof two lines'})
    flow = metrics.flow(IN)
    flow.opened()
    flow.moved(10, 20)
    flow.closed(Outcome.CLOSED)
    metrics.failed(OUT, Outcome.CONNECT_FAILED)
    metrics.handshake(
        Direction.INBOUND, TlsFacts("TLSv1.3", "TLS_AES_128_GCM_SHA256", "X25519MLKEM768", 0.004)
    )
    metrics.handshake_failed(Direction.INBOUND, Outcome.PEER_UNTRUSTED, "X5-2")
    metrics.decided("web-reads", allowed=True)
    metrics.reloaded(applied=True)
    metrics.watch_limits(lambda: {"connections": 3, "descriptors": 0})
    metrics.watch_log(lambda: 7)
    metrics.watch_connections(lambda: {Direction.INBOUND: 2, Direction.OUTBOUND: 0})
    metrics.watch_identity(lambda: {
        "spiffe_id": WEB, "expires": "2026-01-01T00:00:00+00:00", "rotations": 4,
        "stream": "streaming", "reconnects": 1, "discarded_messages": 0, "revocations": 0,
    })  # fmt: skip
    metrics.watch_tokens(lambda: {"reviews": datetime(2026, 1, 1, tzinfo=UTC), "ads": None})
    return metrics


def test_a_connection_is_counted_under_ztunnels_names() -> None:
    metrics = busy()
    labels = {
        "reporter": "destination", "source_principal": WEB, "destination_principal": DB,
        "destination_port": "5432", "connection_security_policy": "mutual_tls",
        "response_flags": "-",
    }  # fmt: skip
    assert value(metrics, "istio_tcp_connections_opened_total", **labels) == 1
    assert value(metrics, "istio_tcp_connections_closed_total", **labels) == 1
    assert value(metrics, "istio_tcp_received_bytes_total", **labels) == 10
    assert value(metrics, "istio_tcp_sent_bytes_total", **labels) == 20


def test_both_reporters_count_what_the_client_sent_as_received() -> None:
    """As Istio does, so that a sum over the reporters adds like to like."""
    metrics = Metrics()
    metrics.flow(OUT).moved(received=10, sent=20)
    ends = {"source_principal": WEB, "destination_principal": DB}
    assert value(metrics, "istio_tcp_received_bytes_total", reporter="source", **ends) == 20
    assert value(metrics, "istio_tcp_sent_bytes_total", reporter="source", **ends) == 10


def test_whether_it_is_ready_is_asked_at_each_scrape() -> None:
    metrics, reasons = Metrics(), ["draining"]
    metrics.watch_readiness(lambda: not reasons)
    assert value(metrics, "uproxy_ready") == 0
    reasons.clear()
    assert value(metrics, "uproxy_ready") == 1


def test_outbound_we_are_the_source() -> None:
    wanted = {"reporter": "source", "source_principal": WEB, "destination_principal": DB}
    failed = value(busy(), "istio_tcp_connections_failed_total", response_flags="CONNECT", **wanted)
    assert failed == 1


def test_the_end_of_an_open_connection_carries_its_flag() -> None:
    metrics = Metrics()
    metrics.flow(IN).closed(Outcome.POLICY_CHANGED)
    assert value(metrics, "istio_tcp_connections_closed_total", response_flags="DENY") == 1


def test_plaintext_has_unknown_principals_and_no_security_policy() -> None:
    metrics = Metrics()
    metrics.flow(FlowLabels(Direction.INBOUND, None, None, None, mutual_tls=False)).opened()
    wanted = {
        "source_principal": "unknown", "destination_principal": "unknown",
        "destination_port": "unknown", "connection_security_policy": "none",
    }  # fmt: skip
    assert value(metrics, "istio_tcp_connections_opened_total", **wanted) == 1


def test_our_own_metrics_are_all_there() -> None:
    metrics = busy()
    assert value(metrics, "uproxy_handshakes_total", group="X25519MLKEM768") == 1
    assert value(metrics, "uproxy_handshake_failures_total", reason="peer_untrusted", rule="X5-2")
    assert value(metrics, "uproxy_handshake_duration_seconds_bucket", le="0.005") == 1
    assert value(metrics, "uproxy_handshake_duration_seconds_bucket", le="0.0025") == 0
    decision = {"rule": "web-reads", "decision": "allow", "mode": "enforce"}
    assert value(metrics, "uproxy_authorization_decisions_total", **decision) == 1
    assert value(metrics, "uproxy_limit_refusals_total", limit="connections") == 3
    assert value(metrics, "uproxy_log_dropped_lines_total") == 7
    assert value(metrics, "uproxy_connections", direction="inbound") == 2
    assert value(metrics, "uproxy_identity_expiry_timestamp_seconds", spiffe_id=WEB) == 1767225600
    assert value(metrics, "uproxy_identity_rotations_total") == 4
    expiry = "uproxy_token_expiry_timestamp_seconds"
    assert value(metrics, expiry, destination="reviews") == 1767225600
    assert value(metrics, expiry, destination="ads") == 0
    assert value(metrics, "uproxy_workload_api_stream_state", state="streaming") == 1
    assert value(metrics, "uproxy_workload_api_stream_state", state="retrying") == 0
    assert value(metrics, "uproxy_workload_api_reconnects_total") == 1
    assert value(metrics, "uproxy_build_info", uproxy="0.1") == 1
    assert value(metrics, "process_open_fds") > 0


def test_a_refused_reload_is_stale_until_a_good_one() -> None:
    metrics = Metrics()
    assert value(metrics, "uproxy_config_stale") == 0
    metrics.reloaded(applied=False)
    assert value(metrics, "uproxy_config_stale") == 1
    metrics.reloaded(applied=True)
    assert value(metrics, "uproxy_config_stale") == 0
    assert value(metrics, "uproxy_config_reloads_total", result="refused") == 1


def test_without_an_identity_there_is_no_expiry_and_no_made_up_stream() -> None:
    metrics = Metrics()
    metrics.watch_identity(lambda: {"spiffe_id": None, "expires": None, "rotations": 0})
    names = {sample.name for sample in samples(metrics)}
    assert "uproxy_identity_expiry_timestamp_seconds" not in names
    assert "uproxy_workload_api_stream_state" not in names


def test_durations_are_counted_up_to_and_with_the_bucket_they_fit_in() -> None:
    metrics = Metrics()
    for seconds in (0.0, 0.001, 0.0011, 5, 60):
        metrics.handshake(Direction.OUTBOUND, TlsFacts("TLSv1.3", "c", "g", seconds))
    name = "uproxy_handshake_duration_seconds"
    found = {le: value(metrics, f"{name}_bucket", le=le) for le in ("0.001", "0.0025", "+Inf")}
    assert found == {"0.001": 2, "0.0025": 3, "+Inf": 5}
    assert value(metrics, f"{name}_bucket", le="5.0") == 4
    assert value(metrics, f"{name}_count") == 5
    assert value(metrics, f"{name}_sum") == pytest.approx(65.0021)


def test_outcomes_of_one_flag_are_one_series() -> None:
    metrics = Metrics()
    flow = metrics.flow(IN)
    for outcome in (Outcome.CLOSED, Outcome.RESET, Outcome.POLICY_CHANGED):
        flow.closed(outcome)
    assert value(metrics, "istio_tcp_connections_closed_total", response_flags="-") == 2
    assert value(metrics, "istio_tcp_connections_closed_total", response_flags="DENY") == 1


def test_a_flow_is_the_same_however_many_others_came_in_between() -> None:
    metrics = Metrics()
    first = metrics.flow(IN)
    for port in range(MAX_KNOWN):
        metrics.flow(IN._replace(port=port + 10_000))
    assert metrics.flow(FlowLabels(*IN)) is first


def test_peers_beyond_a_thousand_fold_into_other() -> None:
    metrics = Metrics()
    for number in range(MAX_PRINCIPALS + 5):
        peer = f"spiffe://example.org/w{number}"
        metrics.flow(FlowLabels(Direction.INBOUND, DB, peer, 1, mutual_tls=True)).opened()
    opened = [
        sample for sample in samples(metrics) if sample.name == "istio_tcp_connections_opened_total"
    ]
    assert len(opened) == MAX_PRINCIPALS + 1
    assert value(metrics, "istio_tcp_connections_opened_total", source_principal="other") == 5


def failed_at(metrics: Metrics, peer: str, *ports: int) -> None:
    for port in ports:
        metrics.failed(IN._replace(theirs=peer, port=port), Outcome.CONNECT_FAILED)


def test_a_peer_that_tries_every_port_uses_up_its_own_time_series_alone() -> None:
    metrics = Metrics()
    failed_at(metrics, WEB, *range(1, MAX_PORTS_OF_PEER + 6))
    name = "istio_tcp_connections_failed_total"
    assert len([each for each in samples(metrics) if each.name == name]) == MAX_PORTS_OF_PEER + 1
    assert value(metrics, name, destination_port="other") == 5
    failed_at(metrics, DB, 9999)
    assert value(metrics, name, source_principal=DB, destination_port="9999") == 1
    failed_at(metrics, WEB, 1)
    assert value(metrics, name, source_principal=WEB, destination_port="1") == 2


def test_peers_that_try_every_port_together_use_up_no_more_than_their_number_allows() -> None:
    metrics = Metrics()
    most = MAX_PAIRS // MAX_PORTS_OF_PEER
    for number in range(2 * most):
        failed_at(metrics, f"spiffe://example.org/w{number}", *range(1, MAX_PORTS_OF_PEER + 1))
    name = "istio_tcp_connections_failed_total"
    series = [each for each in samples(metrics) if each.name == name]
    others = [each for each in series if each.labels["destination_port"] == "other"]
    assert (len(series) - len(others), len(others)) == (MAX_PAIRS, most)
    failed_at(metrics, "spiffe://example.org/w0", 1)
    first = {"source_principal": "spiffe://example.org/w0", "destination_port": "1"}
    assert value(metrics, name, **first) == 2


def test_tunnels_and_streams_are_counted_for_each_direction() -> None:
    metrics = Metrics()
    metrics.watch_tunnels(lambda: {Direction.INBOUND: 2})
    metrics.watch_streams(lambda: {Direction.OUTBOUND: 7})
    for direction, tunnels, streams in (("inbound", 2, 0), ("outbound", 0, 7)):
        assert value(metrics, "uproxy_hbone_connections", direction=direction) == tunnels
        assert value(metrics, "uproxy_hbone_streams", direction=direction) == streams
    metrics.tunnel_ended(Direction.INBOUND, Outcome.DRAINED)
    closed = "uproxy_hbone_connections_closed_total"
    assert value(metrics, closed, direction="inbound", outcome="drained") == 1


def test_tunnels_whose_peer_broke_http2_are_counted_by_what_it_did() -> None:
    metrics = Metrics()
    broken = "uproxy_hbone_broken_total"
    for direction, breach in ((Direction.INBOUND, "pings"), (Direction.OUTBOUND, "resets")):
        metrics.tunnel_broken(direction, breach)
        assert value(metrics, broken, direction=direction.value, reason=breach) == 1


def test_label_values_that_a_peer_chooses_are_bounded_in_length() -> None:
    metrics = Metrics()
    for tail in ("a", "b"):
        peer = "spiffe://example.org/" + "x" * 2000 + tail
        metrics.flow(FlowLabels(Direction.INBOUND, DB, peer, 1, mutual_tls=True)).opened()
    [opened] = [
        sample for sample in samples(metrics) if sample.name == "istio_tcp_connections_opened_total"
    ]
    assert len(opened.labels["source_principal"]) == MAX_LABEL_LENGTH
    assert opened.value == 2


def test_live_counters_are_flushed_before_every_scrape() -> None:
    metrics = Metrics()
    metrics.before_render(lambda: metrics.flow(IN).moved(5, 0))
    assert value(metrics, "istio_tcp_received_bytes_total") == 5
    assert value(metrics, "istio_tcp_received_bytes_total") == 10


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (OPENMETRICS, "application/openmetrics-text"),
        ("Application/OpenMetrics-Text", "application/openmetrics-text"),
        ("text/plain", "text/plain; version=0.0.4"),
        ("", "text/plain; version=0.0.4"),
    ],
)
def test_the_accept_header_chooses_the_format(accept: str, kind: str) -> None:
    content_type, text = busy().render(accept)
    assert content_type.startswith(kind)
    assert text.endswith(b"# EOF\n") == ("openmetrics" in kind)


def test_both_formats_say_the_same_to_prometheus_clients_own_parsers() -> None:
    def told(accept: str) -> set[tuple[str, tuple[tuple[str, str], ...], float]]:
        return {
            (sample.name, tuple(sorted(sample.labels.items())), sample.value)
            for sample in samples(busy(), accept)
            if not sample.name.startswith("process_")
        }

    assert told(OPENMETRICS) == told("")
    assert len(told("")) > 30
