"""What must be so for shared L7 proxies, on the way out and on the way in."""

from __future__ import annotations

import pytest

from tests.helpers.config_documents import FILES, loaded, mistakes, only_mistake
from uproxy.config import changes
from uproxy.config.settings import (
    InboundTrustSettings,
    L7EndpointSettings,
    L7HealthSettings,
    L7ProxySettings,
)
from uproxy.model import TcpAddress

ENVOY = "spiffe://example.org/ns/mesh/sa/l7"
ID = "identities: ['spiffe://example.org/db']"
TO = f"addresses: ['10.0.0.7:5432'], transport: hbone, {ID}, via: l7"
PROXY = f"l7: {{addresses: ['10.0.0.9:15008'], identities: ['{ENVOY}']}}"
TRUSTED = f"identities: ['{ENVOY}'], speaks_for: ['spiffe://example.org/**']"


def _out(to: str = TO, proxies: str = PROXY) -> str:
    return FILES + f"destinations: {{db: {{{to}}}}}\nl7_proxies: {{{proxies}}}\n"


def _in(*trusted: str) -> str:
    entries = ", ".join(f"l{index + 7}: {{{each}}}" for index, each in enumerate(trusted))
    return FILES + f"inbound_trust: {{{entries}}}\n"


def test_an_l7_proxy_is_several_addresses_of_which_some_may_be_draining() -> None:
    text = _out(
        proxies="l7: {addresses: ['10.0.0.9:15008', {address: 'envoy:15008', draining: true}], "
        f"identities: ['{ENVOY}', 'spiffe://example.org/l7/*'], when_unavailable: bypass, "
        "health: {port: 9901, path: '/ready?x', interval: 500ms}}"
    )
    settings = loaded(text)
    assert settings.destinations["db"].via == "l7"
    assert settings.l7_proxies == {
        "l7": L7ProxySettings(
            "l7",
            (
                L7EndpointSettings(TcpAddress("10.0.0.9", 15008)),
                L7EndpointSettings(TcpAddress("envoy", 15008), draining=True),
            ),
            (ENVOY, "spiffe://example.org/l7/*"),
            "bypass",
            L7HealthSettings(9901, "/ready?x", 0.5),
        )
    }


def test_an_l7_proxy_is_not_bypassed_and_not_asked_for_its_health_by_default() -> None:
    proxy = loaded(_out()).l7_proxies["l7"]
    assert (proxy.when_unavailable, proxy.health) == ("refuse", None)
    health = loaded(_out(proxies=PROXY[:-1] + ", health: {port: 1}}")).l7_proxies["l7"].health
    assert health == L7HealthSettings(1, "/ready", 5.0)


def test_where_tunnels_end_may_stand_beside_via_for_when_it_is_bypassed() -> None:
    assert loaded(_out(f"{TO}, hbone_port: 15009")).destinations["db"].tunnel_end == 15009


def test_who_may_speak_for_callers_is_known_by_name() -> None:
    assert loaded(_in(TRUSTED + ", require_proof: true")).inbound_trust == {
        "l7": InboundTrustSettings("l7", (ENVOY,), ("spiffe://example.org/**",), True)
    }
    assert not loaded(_in(TRUSTED)).inbound_trust["l7"].require_proof


def test_rules_name_the_l7_proxies_that_may_speak_for_callers() -> None:
    rule = "authorization: [{action: allow, from: {via: [direct, l7], not_via: [l7]}}]\n"
    assert loaded(_in(TRUSTED) + rule).authorization[0].from_.via == ("direct", "l7")
    mistake = only_mistake(_in(TRUSTED) + rule.replace("direct, l7", "direct, l77"))
    assert (mistake.path, mistake.nearest) == ("authorization[0].from.via[1]", "l7")


def test_a_rule_names_no_l7_proxy_that_connections_only_go_out_through() -> None:
    rule = "authorization: [{action: deny, from: {via: [l7]}}]\n"
    assert only_mistake(_out() + rule).reason.endswith("nor a key of `inbound_trust`")


@pytest.mark.parametrize(
    ("to", "key", "reason"),
    [
        (TO.replace("via: l7", "via: l8"), "via", "is no key of `l7_proxies`"),
        (TO.replace("hbone", "mtls"), "via", "is for `transport: hbone`, and this is mtls"),
        (f"addresses: ['10.0.0.7:1'], transport: hbone, via: l7, identities: ['{ENVOY}', "
         "'spiffe://example.org/**']", "identities[1]", "list them"),
        (TO.replace("via: l7", "via: [l7]"), "via", "must be text"),
    ],
)  # fmt: skip
def test_a_destination_that_no_l7_proxy_could_reach(to: str, key: str, reason: str) -> None:
    mistake = only_mistake(_out(to))
    assert mistake.path == f"destinations.db.{key}"
    assert reason in mistake.reason


def test_the_nearest_name_of_an_l7_proxy_is_given() -> None:
    assert only_mistake(_out(TO.replace("via: l7", "via: l77"))).nearest == "l7"


def test_wildcards_are_for_destinations_that_are_reached_directly() -> None:
    assert loaded(_out(TO.replace("example.org/db", "example.org/*").replace(", via: l7", "")))


@pytest.mark.parametrize(
    ("proxies", "path", "reason"),
    [
        ("l7: {}", "addresses", "is missing"),
        (f"l7: {{addresses: [], identities: ['{ENVOY}']}}", "addresses", "is an empty list"),
        ("l7: {addresses: ['a:1'], identities: []}", "identities", "is an empty list"),
        ("l7: {addresses: ['a:1']}", "identities", "is missing"),
        (f"l7: {{addresses: [[a]], identities: ['{ENVOY}']}}", "addresses[0]",
         "must be an IP address or a name, with a port, or a mapping, not a list"),
        (f"l7: {{addresses: [a], identities: ['{ENVOY}']}}", "addresses[0]",
         "must be host:port"),
        (f"l7: {{addresses: ['unix:///a'], identities: ['{ENVOY}']}}", "addresses[0]",
         "must be host:port"),
        (f"l7: {{addresses: ['0.0.0.0:1'], identities: ['{ENVOY}']}}", "addresses[0]",
         "can't be connected to"),
        (f"l7: {{addresses: [{{draining: true}}], identities: ['{ENVOY}']}}",
         "addresses[0].address", "is missing"),
        (f"l7: {{addresses: ['a:1', {{address: 'A:1', draining: true}}], identities: ['{ENVOY}']}}",
         "addresses[1]", "is the same as l7_proxies.l7.addresses[0]"),
        (PROXY[:-1] + ", when_unavailable: ignore}", "when_unavailable", "refuse | bypass"),
        (PROXY[:-1] + ", health: {path: /ready}}", "health.port", "is missing"),
        (PROXY[:-1] + ", health: {port: 1, path: ready}}", "health.path", "must be a path"),
        (PROXY[:-1] + ", health: {port: 1, path: '/a b'}}", "health.path", "must be a path"),
        (PROXY[:-1] + ", health: {port: 1, path: '/a#b'}}", "health.path", "must be a path"),
        (PROXY[:-1] + ", health: {port: 1, interval: 0}}", "health.interval", "at least 100ms"),
    ],
)  # fmt: skip
def test_what_an_l7_proxy_lacks_or_cannot_have(proxies: str, path: str, reason: str) -> None:
    [mistake, *_] = [
        each for each in mistakes(_out(proxies=proxies)) if each.path == f"l7_proxies.l7.{path}"
    ]
    assert reason in mistake.reason


@pytest.mark.parametrize(
    ("trusted", "path", "reason"),
    [
        ("identities: ['spiffe://example.org/*'], speaks_for: ['spiffe://example.org/**']",
         "identities[0]", "isn't a SPIFFE ID"),
        ("speaks_for: ['spiffe://example.org/**']", "identities", "is missing"),
        (f"identities: ['{ENVOY}']", "speaks_for", "is missing"),
        (f"identities: ['{ENVOY}'], speaks_for: []", "speaks_for", "is an empty list"),
        (TRUSTED + ", require_proof: 'yes'", "require_proof", "must be true or false"),
    ],
)  # fmt: skip
def test_what_one_that_speaks_for_callers_lacks_or_cannot_have(
    trusted: str, path: str, reason: str
) -> None:
    mistake = only_mistake(_in(trusted))
    assert mistake.path == f"inbound_trust.l7.{path}"
    assert reason in mistake.reason


def test_an_l7_proxy_speaks_under_one_name() -> None:
    other = f"identities: ['{ENVOY}2', '{ENVOY}'], speaks_for: ['spiffe://example.org/**']"
    mistake = only_mistake(_in(TRUSTED, other))
    assert mistake.path == "inbound_trust.l8.identities[1]"
    assert "inbound_trust.l7" in mistake.reason


@pytest.mark.parametrize("section", ["l7_proxies", "inbound_trust"])
def test_direct_is_no_name_for_an_l7_proxy(section: str) -> None:
    entry = PROXY[4:] if section == "l7_proxies" else f"{{{TRUSTED}}}"
    mistake = only_mistake(FILES + f"{section}: {{direct: {entry}}}\n")
    assert mistake.path == f"{section}.direct"
    assert "is reserved" in mistake.reason


def test_no_change_of_an_l7_proxy_needs_a_restart() -> None:
    before = loaded(_out() + f"inbound_trust: {{l7: {{{TRUSTED}}}}}\n")
    after = loaded(
        _out(
            proxies=PROXY.replace("'10.0.0.9:15008'", "{address: '10.0.0.9:15008', draining: true}")
        )
        + f"inbound_trust: {{l7: {{{TRUSTED}, require_proof: true}}}}\n"
    )
    found = changes(before, after)
    assert found.keys == ("l7_proxies.l7.addresses", "inbound_trust.l7.require_proof")
    assert found.restart == ()
