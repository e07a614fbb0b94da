"""L7 proxies in a snapshot, and destinations that are reached through them."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

from tests.helpers.world import ANYBODY, credentials, settings
from uproxy.config.settings import DestinationSettings, L7EndpointSettings, L7ProxySettings
from uproxy.contract import Refusal, TlsPlan, Tunnel
from uproxy.destinations import L7
from uproxy.lab.pki import Authority
from uproxy.model import Address, Direction, Outcome, Role, TcpAddress, TlsSettings, Transport
from uproxy.snapshot import L7Proxy, Snapshot, Via
from uproxy.snapshot.destinations import Destination
from uproxy.snapshot.l7 import MAX_HEADERS

CA = Authority("example.org")
OURS = CA.issue("/ns/web/sa/frontend")
ENVOY = "spiffe://example.org/ns/mesh/sa/l7"
REVIEWS = "spiffe://example.org/ns/shop/sa/reviews"
ONE, OTHER = (TcpAddress(f"10.0.0.{n}", 15008) for n in (9, 10))
NAME = TcpAddress("l7.internal", 15008)
APP = TcpAddress("10.1.0.1", 8080)
DESTINATION = DestinationSettings("reviews", (APP,), Transport.HBONE, (REVIEWS,), via="l7")


def proxy(*addresses: TcpAddress, draining: frozenset[TcpAddress] = frozenset()) -> L7ProxySettings:
    endpoints = tuple(L7EndpointSettings(each, each in draining) for each in addresses)
    return L7ProxySettings("l7", endpoints, (ENVOY,))


BOTH = proxy(ONE, OTHER)


def snapshot(
    l7: L7ProxySettings = BOTH,
    to: DestinationSettings = DESTINATION,
    *,
    identity: bool = True,
    **facts: object,
) -> Snapshot:
    config = settings(ANYBODY, destinations={to.name: to}, l7_proxies={"l7": l7}, **facts)
    return Snapshot.first(config, credentials(OURS if identity else None, CA), lambda: CA.now)


def destination(made: Snapshot) -> Destination:
    return made.destinations["reviews"]


def via(made: Snapshot) -> Via:
    found = destination(made).via
    assert found is not None
    return found


def tunnels(made: Snapshot) -> dict[TcpAddress, Tunnel]:
    found = via(made).upstreams
    assert not isinstance(found, Refusal)
    return {end: each for end, each in found.items() if isinstance(end, TcpAddress)}


def plans(made: L7Proxy) -> dict[Address, TlsPlan]:
    assert not isinstance(made.plans, Refusal)
    return {**made.plans}


def test_a_destination_without_via_has_none() -> None:
    assert destination(snapshot(to=replace(DESTINATION, via=None))).via is None


def test_each_address_ends_a_tunnel_that_says_whom_we_expect_behind_it() -> None:
    to = replace(DESTINATION, identities=(REVIEWS, ENVOY))
    for end, tunnel in tunnels(snapshot(to=to)).items():
        assert (tunnel.end, tunnel.via) == (end, "l7")
        assert tunnel.headers == (("x-uproxy-expect-id", f"{REVIEWS},{ENVOY}"),)


def test_the_l7_proxys_identity_is_expected_in_the_handshake_and_not_the_destinations() -> None:
    [plan, _other] = plans(snapshot().l7_proxies["l7"]).values()
    assert plan.verify(CA.issue("/ns/mesh/sa/l7").der).spiffe_id == ENVOY
    straight = snapshot().destinations["reviews"].upstream
    assert isinstance(straight, Tunnel)
    assert straight.plan.verify(CA.issue("/ns/shop/sa/reviews").der).spiffe_id == REVIEWS
    assert (straight.via, straight.headers) == (None, ())


def test_tunnels_to_an_l7_proxy_are_http_2_over_tls_1_3_whatever_else_is_negotiated() -> None:
    old = TlsSettings("1.2", ("P-256",))
    for plan in plans(snapshot(tls=old).l7_proxies["l7"]).values():
        assert (plan.role, plan.alpn) == (Role.CLIENT, ("h2",))
        assert plan.settings == replace(old, min_version="1.3")


def test_an_l7_proxy_is_shown_no_server_name() -> None:
    l7 = snapshot(proxy(NAME)).l7_proxies["l7"]
    assert (l7.serving.sni(NAME), l7.addresses.sni(NAME)) == (None, None)


def test_a_token_goes_along_and_changes_no_plan() -> None:
    before = snapshot()
    after = before.with_tokens({"reviews": "a.b.c"})
    for end, tunnel in tunnels(after).items():
        assert tunnel.headers[1:] == (("x-uproxy-proof", "a.b.c"),)
        assert tunnel.plan is tunnels(before)[end].plan
    assert (via(before).has_proof, via(after).has_proof) == (False, True)
    assert "a.b.c" not in repr(tunnels(after))


def test_each_address_has_a_plan_of_its_own_that_goes_with_it() -> None:
    before = snapshot()
    both = plans(before.l7_proxies["l7"])
    assert both[ONE] is not both[OTHER]
    assert both[ONE].trust_id == both[OTHER].trust_id
    for left in (proxy(ONE, OTHER, draining=frozenset({OTHER})), proxy(ONE)):
        config = replace(before.settings, l7_proxies={"l7": left})
        assert plans(before.with_settings(config).l7_proxies["l7"]) == {ONE: both[ONE]}
    gone, stays = weakref.ref(both[OTHER]), weakref.ref(both[ONE])
    after = before.with_settings(config)
    del before, both
    gc.collect()
    assert gone() is None
    assert stays() is not None
    assert after.destinations["reviews"].via is not None


def test_a_draining_address_gets_no_streams_and_is_still_listed() -> None:
    made = snapshot(proxy(ONE, OTHER, draining=frozenset({OTHER})))
    l7 = made.l7_proxies["l7"]
    assert [*l7.addresses.listed] == [ONE, OTHER]
    assert [*l7.serving.listed] == [ONE]
    assert tunnels(made).keys() == {ONE}


def test_names_are_looked_up_and_each_record_is_an_address() -> None:
    before = snapshot(proxy(NAME))
    assert NAME in before.names
    assert tunnels(before) == {}
    assert tunnels(before.with_records({NAME: (ONE, OTHER)})).keys() == {ONE, OTHER}


def test_without_an_identity_there_is_no_tunnel_to_an_l7_proxy() -> None:
    refusal = via(snapshot(identity=False)).upstreams
    assert isinstance(refusal, Refusal)
    assert refusal.outcome is Outcome.NO_IDENTITY
    without = snapshot(identity=False)
    assert not via(without).has_proof
    assert via(without.with_tokens({"reviews": "a.b.c"})).has_proof


def test_what_an_l7_proxy_is_told_is_bounded() -> None:
    assert MAX_HEADERS == 12_288
    # six of the longest SPIFFE IDs, less the commas between
    longest = [f"spiffe://example.org/{n}".ljust(2048, "x") for n in range(6)]
    fitting = (*longest[1:], longest[0][:-5])
    made = snapshot(to=replace(DESTINATION, identities=fitting))
    assert len(tunnels(made)[ONE].headers[0][1]) == MAX_HEADERS
    more = snapshot(to=replace(DESTINATION, identities=(*longest[1:], longest[0][:-4])))
    for too_long in (made.with_tokens({"reviews": "a"}), more):
        refusal = via(too_long).upstreams
        assert isinstance(refusal, Refusal)
        assert refusal.outcome is Outcome.CONNECT_FAILED
        assert "is told 12288 bytes about reviews at most" in refusal.reason
        assert refusal.reason.endswith("have 12289: list fewer identities")
    assert not via(more).has_proof
    assert via(made.with_tokens({"reviews": "a"})).has_proof


def test_patterns_are_parsed_once_and_again_when_they_change() -> None:
    before = snapshot()
    assert before.with_credentials(before.credentials).l7_proxies["l7"].expected is (
        before.l7_proxies["l7"].expected
    )
    other = replace(proxy(ONE), identities=(REVIEWS,))
    after = before.with_settings(replace(before.settings, l7_proxies={"l7": other}))
    assert [str(each) for each in after.l7_proxies["l7"].expected] == [REVIEWS]


def test_how_its_addresses_fare_is_kept_under_a_key_of_its_own() -> None:
    made = snapshot()
    assert made.addresses[L7, "l7"] is made.l7_proxies["l7"].addresses
    assert made.addresses[Direction.OUTBOUND, "reviews"].listed.keys() == {APP}


def test_only_bypass_lets_connections_past_it() -> None:
    assert not via(snapshot()).may_bypass
    assert via(snapshot(replace(proxy(ONE), when_unavailable="bypass"))).may_bypass
