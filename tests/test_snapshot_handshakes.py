"""How destinations are reached through tunnels, and what is negotiated for them."""

from __future__ import annotations

from dataclasses import replace

from tests.helpers.world import ANYBODY, credentials, settings
from uproxy.config.settings import DestinationSettings, InboundSettings, Settings
from uproxy.contract import Refusal, Tls, TlsPlan, Tunnel
from uproxy.lab.pki import Authority
from uproxy.model import (
    Direction,
    Host,
    Outcome,
    TcpAddress,
    TlsSettings,
    Transport,
    TunnelSettings,
)
from uproxy.snapshot import Application, Snapshot
from uproxy.snapshot.handshakes import inbound_kind

CA = Authority("example.org")
OURS = CA.issue("/ns/db/sa/orders")
A = TcpAddress("10.0.0.1", 5432)
NAME = TcpAddress("db.internal", 5432)
GATEWAY = TcpAddress("gateway.test", 443)
DB = DestinationSettings("db", (NAME, A), Transport.HBONE, (OURS.spiffe_id,))
DOOR = InboundSettings("api", TcpAddress("::", 15008), Transport.HBONE, None, (8080,))
OLD = TlsSettings("1.2", ("P-256",), ("TLS_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256"))


def snapshot(to: DestinationSettings = DB, **facts: object) -> Snapshot:
    config = settings(ANYBODY, destinations={"db": to}, **facts)
    return Snapshot.first(config, credentials(OURS, CA), lambda: CA.now)


def tunnel(made: Snapshot) -> Tunnel:
    found = made.destinations["db"].upstream
    assert isinstance(found, Tunnel)
    return found


def application(door: InboundSettings) -> Application:
    made = Snapshot.first(settings(inbound=(door,)), credentials(OURS, CA), lambda: CA.now)
    return made.applications["api"]


def test_a_destination_through_tunnels_says_where_they_end_and_how_they_are_used() -> None:
    used = TunnelSettings(streams_per_connection=7)
    made = tunnel(snapshot(hbone=used))
    assert (made.end, made.settings) == (15008, used)
    assert made.plan.own.spiffe_id == OURS.spiffe_id
    assert tunnel(snapshot(replace(DB, hbone_port=15009))).end == 15009
    there = TcpAddress("192.0.2.10", 15008)
    assert tunnel(snapshot(replace(DB, hbone_address=there))).end == there


def test_tunnels_are_http_2_over_tls_1_3_whatever_else_may_be_negotiated() -> None:
    made = snapshot(tls=OLD)
    plan = tunnel(made).plan
    assert (plan.alpn, plan.settings) == (("h2",), replace(OLD, min_version="1.3"))
    kind = inbound_kind(DOOR, made.settings)
    assert kind is not None
    assert (kind.alpn, kind.settings.min_version) == (("h2",), "1.3")
    mtls = replace(DB, transport=Transport.MTLS)
    upstream = snapshot(mtls, tls=OLD).destinations["db"].upstream
    assert isinstance(upstream, Tls)
    assert upstream.plan.settings.min_version == "1.2"


def test_an_end_that_is_a_name_is_where_the_resolver_says() -> None:
    before = snapshot(replace(DB, hbone_address=GATEWAY))
    assert before.names == {NAME, GATEWAY}
    assert before.destinations["db"].upstream == Refusal(
        Outcome.CONNECT_FAILED,
        "hbone_address gateway.test:443 of destination db has not been resolved yet",
    )
    first, second = (TcpAddress(f"192.0.2.{n}", 443) for n in (1, 2))
    after = before.with_records({GATEWAY: (first, second)})
    assert tunnel(after).end == first
    again = after.with_records({NAME: (A,)})
    assert tunnel(again).plan is tunnel(after).plan


def test_a_tunnel_has_no_sni_unless_it_is_configured() -> None:
    made = snapshot().with_records({NAME: (A,)})
    assert made.destinations["db"].addresses.sni(NAME) is None
    named = snapshot(replace(DB, server_name="reviews.example"))
    assert named.destinations["db"].addresses.sni(NAME) == "reviews.example"
    mtls = snapshot(replace(DB, transport=Transport.MTLS))
    assert mtls.destinations["db"].addresses.sni(NAME) == "db.internal"


def test_without_an_svid_there_is_no_tunnel() -> None:
    config = settings(destinations={"db": DB})
    made = Snapshot.first(config, credentials(None, CA), lambda: CA.now)
    assert made.destinations["db"].upstream == Refusal(Outcome.NO_IDENTITY, "no identity yet")


def test_identities_that_stay_are_not_parsed_again() -> None:
    before = snapshot()
    config: Settings = replace(before.settings, on_policy_change="keep")
    after = before.with_settings(config)
    assert after.destinations["db"].expected[0] is before.destinations["db"].expected[0]
    other = replace(DB, identities=("spiffe://example.org/other",))
    changed = before.with_settings(replace(config, destinations={"db": other}))
    assert [str(each) for each in changed.destinations["db"].expected] == [*other.identities]


def test_a_door_for_tunnels_leads_to_what_they_name() -> None:
    made = application(DOOR)
    assert isinstance(made.tls, TlsPlan)
    assert (made.target.port, made.target.address) == (None, None)
    assert made.addresses.configured == ()
    assert list(made.addresses_at(A).listed) == [A]
    here = application(replace(DOOR, to=Host("127.0.0.1")))
    assert list(here.addresses_at(A).listed) == [TcpAddress("127.0.0.1", 5432)]


def test_a_host_by_name_is_looked_up_and_dialled_at_the_named_port() -> None:
    config = settings(inbound=(replace(DOOR, to=Host("app.internal")),))
    before = Snapshot.first(config, credentials(OURS, CA), lambda: CA.now)
    name = TcpAddress("app.internal", 0)
    assert before.names == {name}
    assert not before.applications["api"].addresses_at(A).listed
    after = before.with_records({name: (TcpAddress("10.0.0.9", 0), TcpAddress("fd00::9", 0))})
    found = after.applications["api"].addresses_at(A)
    assert found.listed == {
        TcpAddress("10.0.0.9", 5432): TcpAddress("app.internal", 5432),
        TcpAddress("fd00::9", 5432): TcpAddress("app.internal", 5432),
    }
    assert (Direction.INBOUND, "api") in after.addresses
