from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

from tests.helpers.connections import FakeConnection, arrival
from tests.helpers.world import credentials, peer, settings
from uproxy.config.settings import (
    DestinationSettings,
    L7EndpointSettings,
    L7ProxySettings,
    MatchSettings,
)
from uproxy.connections.expectation import expectation
from uproxy.lab.pki import Authority
from uproxy.model import Role, TcpAddress, Transport
from uproxy.snapshot import Snapshot

CA = Authority("example.org")
OURS = CA.issue("/ns/web/sa/frontend")
ENVOY = CA.issue("/ns/mesh/sa/l7")
REVIEWS = CA.issue("/ns/shop/sa/reviews")
END, APP = TcpAddress("10.0.0.9", 15008), TcpAddress("10.1.0.1", 8080)
TO = DestinationSettings("reviews", (APP,), Transport.HBONE, (REVIEWS.spiffe_id,), via="l7")
PROXY = L7ProxySettings("l7", (L7EndpointSettings(END),), (ENVOY.spiffe_id,))
PROXIES = {"l7": PROXY, "other": replace(PROXY, name="other")}

THROUGH = FakeConnection(peer=peer(ENVOY, CA, Role.SERVER), via="l7", tunnel_end=END)
PAST = FakeConnection(peer=peer(REVIEWS, CA, Role.SERVER))
TOLD = (REVIEWS.spiffe_id,)


def why(
    connection: FakeConnection,
    to: DestinationSettings | None = TO,
    proxies: dict[str, L7ProxySettings] = PROXIES,
) -> str | None:
    """Why it may not stay open; None: it may."""
    destinations = {} if to is None else {"reviews": to}
    config = settings(destinations=destinations, l7_proxies=proxies)
    made = Snapshot.first(config, credentials(OURS, CA), lambda: CA.now)
    decision = expectation(made, "reviews", TOLD, connection)
    if decision is None:
        return None
    assert not decision.allowed
    assert isinstance(decision.reason, str)
    return decision.reason


def test_who_goes_through_the_l7_proxy_stays() -> None:
    assert why(THROUGH) is None


def test_who_goes_straight_doesnt_stay_where_there_is_an_l7_proxy_now() -> None:
    assert why(PAST) == "destination reviews is reached via l7 now, and this connection is direct"
    assert why(PAST, replace(TO, via=None)) is None


def test_who_went_past_it_stays_where_that_may_be() -> None:
    bypass = {"l7": replace(PROXY, when_unavailable="bypass")}
    assert why(PAST, proxies=bypass) is None
    stranger = FakeConnection(peer=peer(CA.issue("/other"), CA, Role.SERVER))
    assert str(why(stranger, proxies=bypass)).startswith("wanted ")


def test_another_l7_proxy_is_not_the_same() -> None:
    assert why(THROUGH, replace(TO, via="other")) == (
        "destination reviews is reached via other now, and this connection via l7"
    )


def test_who_goes_through_one_that_is_switched_off_may_finish() -> None:
    assert why(THROUGH, replace(TO, via=None)) is None
    assert why(THROUGH, replace(TO, via=None), {}) is None
    assert why(THROUGH, None) is None


def test_an_l7_proxy_that_may_not_answer_any_more_is_left() -> None:
    other = {"l7": replace(PROXY, identities=(REVIEWS.spiffe_id,))}
    reason = why(THROUGH, proxies=other)
    assert str(reason).startswith("L7 proxy l7: wanted ")
    assert why(THROUGH, replace(TO, via=None), other) == reason


def test_whom_the_l7_proxy_was_told_to_expect_must_be_expected_still() -> None:
    other = replace(TO, identities=("spiffe://example.org/ns/shop/sa/other",))
    assert why(THROUGH, other) == (
        f"L7 proxy l7 may have connected it to {REVIEWS.spiffe_id}, which isn't expected now"
    )
    assert why(THROUGH, replace(TO, identities=(*TO.identities, *other.identities))) is None


def test_what_is_in_clear_may_not_stay_where_there_is_tls_now_and_need_not_go_otherwise() -> None:
    clear = FakeConnection(peer=None)
    assert why(clear) == "destination reviews is hbone now, and this connection is in clear"
    plaintext = DestinationSettings("reviews", (APP,), Transport.PLAINTEXT)
    assert why(clear, plaintext) is None
    assert why(PAST, plaintext) is None


def test_a_captured_connection_must_lead_to_whom_its_match_names_now() -> None:
    all_, one = ip_network("0.0.0.0/0"), ip_network("10.1.0.0/16")
    anywhere = DestinationSettings(
        "anywhere", (), Transport.PLAINTEXT, match=MatchSettings((all_,), ())
    )
    reviews = replace(TO, addresses=(), via=None, match=MatchSettings((one,), ()))
    captured = replace(arrival(), target=TcpAddress("::ffff:10.1.0.1", 8080))
    clear = FakeConnection(arrival=captured)

    def judged(destination: str, connection: FakeConnection, *others: DestinationSettings) -> str:
        there = {each.name: each for each in (anywhere, *others)}
        made = Snapshot.first(settings(destinations=there), credentials(OURS, CA), lambda: CA.now)
        decision = expectation(made, destination, (), connection)
        return "stays" if decision is None else decision.reason

    assert judged("anywhere", clear) == "stays"
    assert judged("anywhere", clear, reviews) == (
        "destination reviews is hbone now, and this connection is in clear"
    )
    elsewhere = replace(captured, target=TcpAddress("10.2.0.1", 8080))
    assert judged("anywhere", FakeConnection(arrival=elsewhere), reviews) == "stays"
    found = peer(REVIEWS, CA, Role.SERVER)
    secure = FakeConnection(arrival=captured, peer=found)
    orders = replace(reviews, name="orders", identities=(ENVOY.spiffe_id,))
    assert judged("reviews", secure, reviews) == "stays"
    assert f"found {REVIEWS.spiffe_id}" in judged("reviews", secure, orders)
    assert judged("reviews", secure) == "stays"
