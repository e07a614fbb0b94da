"""What is legal but worth saying."""

from __future__ import annotations

from tests.helpers.config_documents import FILES, loaded
from uproxy.config import warnings

MTLS = "{name: api, listen: 0.0.0.0:1, transport: mtls, to: unix:///a}"
PLAIN = "{name: web, listen: 0.0.0.0:2, transport: plaintext, to: unix:///a}"
ANY = "authorization: [{action: allow, from: any}]\n"


def _said(text: str) -> list[str]:
    return [f"{each.path}: {each.reason}" for each in warnings(loaded(text))]


def _paths(text: str) -> list[str]:
    return [each.path for each in warnings(loaded(text))]


def test_a_sound_configuration_has_no_warnings() -> None:
    text = FILES + f"inbound: [{MTLS}]\n" + ANY
    text += "outbound: [{listen: 127.0.0.1:9, to: d}]\n"
    text += "destinations: {d: {addresses: ['127.0.0.1:1'], transport: plaintext}}"
    assert _said(text) == []


def test_without_an_allow_rule_nobody_gets_in() -> None:
    doors = FILES + f"inbound: [{MTLS}]\n"
    for rules in ("", "authorization: [{action: deny}]",
                  "authorization: [{action: allow, from: any, mode: shadow}]"):  # fmt: skip
        assert ["nobody gets in" in each for each in _said(doors + rules)] == [True]


def test_a_plaintext_door_needs_a_rule_for_callers_without_identity() -> None:
    doors = FILES + f"inbound: [{MTLS}, {PLAIN}]\n"
    assert _paths(doors + ANY) == ["inbound[1]"]
    for target in ("", ", to: {inbound: [web]}"):
        rule = f"authorization: [{{action: allow, from: {{unauthenticated: true}}{target}}}]"
        assert _paths(doors + rule) == []
    other = "authorization: [{action: allow, from: {unauthenticated: true}, to: {inbound: [api]}}]"
    assert _paths(doors + other) == ["inbound[1]"]


def test_no_door_at_all_is_worth_saying() -> None:
    assert "nothing will be proxied" in _said(FILES)[0]


def test_plaintext_over_the_network_is_worth_saying() -> None:
    text = FILES + "outbound: [{listen: 127.0.0.1:9, to: d}]\ndestinations: {d: {transport: "
    text += "plaintext, addresses: ['127.0.0.1:1', '10.0.0.1:1', 'unix:///a', 'db:1']}}"
    assert _paths(text) == ["destinations.d.addresses[1]", "destinations.d.addresses[3]"]


def test_an_unused_destination_is_worth_saying() -> None:
    text = FILES + f"inbound: [{MTLS}]\n" + ANY
    text += "destinations: {d: {addresses: ['127.0.0.1:1'], transport: plaintext}}"
    assert _said(text) == ["destinations.d: no outbound door leads here"]


def test_an_exposed_door_is_worth_saying() -> None:
    text = FILES + "outbound: [{listen: 0.0.0.0:9, to: d, expose: true}]\n"
    text += "destinations: {d: {addresses: ['127.0.0.1:1'], transport: plaintext}}"
    assert _paths(text) == ["outbound[0].listen"]


def test_admin_and_the_workload_api_belong_to_this_host() -> None:
    door = f"inbound: [{MTLS}]\n" + ANY
    assert _paths(FILES + door + "admin: {listen: 0.0.0.0:15000}") == ["admin.listen"]
    remote = "identity: {workload_api: 'tcp://10.0.0.1:8000'}\n" + door
    assert _paths(remote) == ["identity.workload_api"]
    assert _paths(remote.replace("10.0.0.1", "127.0.0.1")) == []


def test_missing_deadlines_and_kept_distrust_are_worth_saying() -> None:
    text = f"identity: {{workload_api: unix:///a, on_distrust: keep}}\ninbound: [{MTLS}]\n" + ANY
    text += "timeouts: {handshake: 0, connect: 0, drain: 0, idle: 0}"
    assert _paths(text) == [
        "identity.on_distrust",
        "timeouts.handshake",
        "timeouts.connect",
        "timeouts.drain",
    ]


def test_rules_for_what_is_not_there_are_worth_saying() -> None:
    rule = "authorization: [{action: allow, from: {trust_domains: [x.test]}, to: {ports: [1]}}]\n"
    door = "{listen: 127.0.0.1:1, transport: mtls, to: 127.0.0.1:2}"
    assert _paths(FILES + f"inbound: [{door}]\n" + rule) == [
        "authorization[0].to.ports[0]",
        "authorization[0].from.trust_domains[0]",
    ]
    # with an agent the bundles aren't known yet
    agent = "identity: {workload_api: unix:///a}\n"
    assert _paths(agent + f"inbound: [{door}]\n" + rule) == ["authorization[0].to.ports[0]"]


def test_curves_that_tls_12_would_miss_are_worth_saying() -> None:
    text = FILES + f"inbound: [{MTLS}]\n" + ANY
    assert _said(text + "tls: {groups: [X25519]}\n") == []
    assert _said(text + 'tls: {min_version: "1.2"}\n') == []
    [said] = _said(text + 'tls: {min_version: "1.2", groups: [X25519, P-384]}\n')
    assert said.startswith("tls.groups: ")
    assert "SVIDs on P-256 and P-521 need TLS 1.3" in said
