from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tests.helpers.connections import APP, FakeConnection, arrival, ending, known
from uproxy.accesslog import AccessRecord, access_record, logged_outcomes
from uproxy.contract import PLAIN, PeerSvid, Route, TlsFacts
from uproxy.lifecycle import State
from uproxy.model import (
    Claim,
    Direction,
    Outcome,
    TcpAddress,
    Timeouts,
    Transport,
    UnixAddress,
)
from uproxy.policy import Caller
from uproxy.spiffe.ids import SpiffeId

OURS = "spiffe://example.org/ns/db/sa/orders"
THEIRS = PeerSvid("spiffe://example.org/ns/web/sa/a", (b"der",), datetime(2030, 1, 1, tzinfo=UTC))


def inbound(connection: FakeConnection, outcome: Outcome = Outcome.CLOSED) -> AccessRecord:
    end = ending(outcome, bytes_received=10, bytes_sent=20)
    return access_record(known(ours=OURS), connection, end)


def test_the_fields_have_ztunnels_names_in_the_contracts_order() -> None:
    record = inbound(FakeConnection(arrival(THEIRS)))
    assert " ".join(name for name, _ in record.fields) == (
        "src.addr src.identity dst.addr dst.identity dst.hbone_addr direction door destination "
        "local.addr transport tls via via.identity bytes_sent bytes_recv duration outcome rule "
        "error unproven.identity unproven.serial"
    )


def test_inbound_the_peer_is_the_source_and_the_application_the_destination() -> None:
    route = Route("api", (), PLAIN, Timeouts(), rule="web-reads")
    tls = TlsFacts("TLSv1.3", "AES", "X25519", 0.1)
    fields = dict(inbound(FakeConnection(arrival(THEIRS), route=route, tls=tls)).fields)
    assert fields == {
        "src.addr": "10.0.0.1:40000",
        "src.identity": THEIRS.spiffe_id,
        "dst.addr": str(APP),
        "dst.identity": OURS,
        "dst.hbone_addr": None,
        "direction": "inbound",
        "door": "api",
        "destination": None,
        "local.addr": "10.0.0.2:8443",
        "transport": "mtls",
        "tls": "TLSv1.3 X25519 AES",
        "via": "direct",
        "via.identity": None,
        "bytes_sent": 20,
        "bytes_recv": 10,
        "duration": "1500ms",
        "outcome": "closed",
        "rule": "web-reads",
        "error": None,
        "unproven.identity": None,
        "unproven.serial": None,
    }


def test_for_whom_an_l7_proxy_connects_is_the_source_and_the_proxy_is_named_beside() -> None:
    l7 = SpiffeId.parse("spiffe://example.org/ns/mesh/sa/l7")
    caller = Caller(SpiffeId.parse(THEIRS.spiffe_id), None, "l7", l7)
    proxy = PeerSvid(str(l7), (b"der",), datetime(2030, 1, 1, tzinfo=UTC))
    info = replace(known(ours=OURS, transport=Transport.HBONE), caller=caller)
    record = access_record(info, FakeConnection(arrival(proxy)), ending(Outcome.DENIED))
    fields = dict(record.fields)
    assert fields["src.identity"] == THEIRS.spiffe_id
    assert (fields["via"], fields["via.identity"]) == ("l7", str(l7))
    assert record.kind == ("denied", "closing", THEIRS.spiffe_id)


def test_what_a_refused_certificate_claims_is_marked_as_not_proven() -> None:
    claim = Claim("spiffe://stranger.test/a", "0a01")
    end = ending(Outcome.PEER_UNTRUSTED, State.HANDSHAKING_DOWNSTREAM, claim=claim)
    record = access_record(known(ours=OURS), FakeConnection(), end)
    fields = dict(record.fields)
    assert fields["src.identity"] is None
    assert (fields["unproven.identity"], fields["unproven.serial"]) == (claim.spiffe_id, "0a01")
    assert record.kind == ("peer_untrusted", "handshaking_downstream", "10.0.0.1")


def test_outbound_the_application_is_the_source_and_the_peer_the_destination() -> None:
    connection = FakeConnection(
        arrival(source=UnixAddress("/run/app.sock")),
        peer=THEIRS,
        dialled=TcpAddress("10.0.0.7", 5432),
        dialled_from=TcpAddress("10.0.0.2", 40001),
    )
    end = ending(Outcome.RESET, reason="the peer reset the connection")
    record = access_record(known(Direction.OUTBOUND, OURS), connection, end)
    fields = dict(record.fields)
    assert fields["src.addr"] == "unix:///run/app.sock"
    assert fields["src.identity"] == OURS
    assert fields["dst.addr"] == "10.0.0.7:5432"
    assert fields["dst.identity"] == THEIRS.spiffe_id
    assert (fields["door"], fields["destination"]) == ("api", "db")
    assert fields["local.addr"] == "10.0.0.2:40001"
    assert fields["error"] == "the peer reset the connection"


def test_a_connection_that_was_never_dialled_arrived_somewhere_all_the_same() -> None:
    connection = FakeConnection(dialled=None)
    assert dict(inbound(connection).fields)["dst.addr"] == "10.0.0.2:8443"
    end = ending(Outcome.CONNECT_FAILED, State.CONNECTING)
    record = access_record(known(Direction.OUTBOUND, OURS), connection, end)
    assert dict(record.fields)["dst.addr"] is None


def test_the_endings_rule_stands_before_the_routes() -> None:
    route = Route("api", (), PLAIN, Timeouts(), rule="web-reads")
    connection = FakeConnection(arrival(THEIRS), route=route)
    end = ending(Outcome.POLICY_CHANGED, State.RELAYING, rule="no-web")
    record = access_record(known(ours=OURS), connection, end)
    assert dict(record.fields)["rule"] == "no-web"
    assert record.kind == ("policy_changed", "no-web", THEIRS.spiffe_id)


def test_failures_of_strangers_are_alike_when_they_come_from_the_same_host() -> None:
    kinds = {
        inbound(FakeConnection(arrival(source=TcpAddress(host, port))), Outcome.PEER_UNTRUSTED).kind
        for host, port in (("10.0.0.1", 1), ("10.0.0.1", 2), ("10.0.0.3", 1))
    }
    assert kinds == {
        ("peer_untrusted", "closing", "10.0.0.1"),
        ("peer_untrusted", "closing", "10.0.0.3"),
    }


@pytest.mark.parametrize("outcome", Outcome)
def test_access_denied_keeps_refusals_for_who_somebody_is(outcome: Outcome) -> None:
    refused = ["DENY", "IDENTITY_ERROR", "CERT_REVOKED", "TLS_FAILURE", "PEER_REFUSED"]
    assert outcome in logged_outcomes("all")
    assert outcome not in logged_outcomes("none")
    assert (outcome in logged_outcomes("denied")) == (outcome.flag in refused)


TUNNEL_END = TcpAddress("10.0.0.7", 15008)


def test_inbound_a_stream_is_logged_with_its_tunnels_end_and_what_it_was_meant_for() -> None:
    named = TcpAddress("10.0.0.2", 5432)
    who = replace(arrival(THEIRS), target=named, tunnel=7)
    connection = FakeConnection(who, peer=THEIRS)
    hbone = known(ours=OURS, transport=Transport.HBONE)
    fields = dict(access_record(hbone, connection, ending()).fields)
    assert (fields["dst.addr"], fields["dst.hbone_addr"]) == ("10.0.0.2:8443", "10.0.0.2:5432")
    assert fields["local.addr"] == "10.0.0.2:8443"
    assert fields["transport"] == "hbone"


def test_outbound_a_stream_is_logged_with_its_tunnels_end_and_what_it_names() -> None:
    named = TcpAddress("10.0.0.7", 5432)
    connection = FakeConnection(peer=THEIRS, dialled=named, tunnel_end=TUNNEL_END)
    hbone = known(Direction.OUTBOUND, OURS, Transport.HBONE)
    fields = dict(access_record(hbone, connection, ending()).fields)
    assert (fields["dst.addr"], fields["dst.hbone_addr"]) == ("10.0.0.7:15008", "10.0.0.7:5432")


def test_a_tunnel_that_was_never_made_has_no_end_and_its_failures_are_alike() -> None:
    named = TcpAddress("10.0.0.7", 5432)
    hbone = known(Direction.OUTBOUND, OURS, Transport.HBONE)
    end = ending(Outcome.CONNECT_FAILED, State.CONNECTING)
    record = access_record(hbone, FakeConnection(dialled=named), end)
    fields = dict(record.fields)
    assert (fields["dst.addr"], fields["dst.hbone_addr"]) == (None, "10.0.0.7:5432")
    assert record.kind == ("connect_failed", "connecting", "10.0.0.7:5432")


def test_mtls_has_no_tunnel() -> None:
    connection = FakeConnection(replace(arrival(THEIRS), target=TcpAddress("10.0.0.2", 1)))
    assert dict(inbound(connection).fields)["dst.hbone_addr"] is None
