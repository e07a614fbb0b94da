"""Authorization rules that would mean nothing, or something else than their writer thinks."""

from __future__ import annotations

import dataclasses

import pytest

from tests.helpers.config_documents import FILES, loaded, mistakes, only_mistake
from uproxy.config.rule_fields import FROM, TO

DOORS = FILES + (
    "inbound:\n"
    "  - {name: api, listen: 0.0.0.0:1, transport: mtls, to: unix:///a}\n"
    "  - {listen: 0.0.0.0:2, transport: mtls, to: unix:///a}\n"
)


def _rules(*rules: str) -> str:
    return DOORS + "authorization:\n" + "".join(f"  - {{{rule}}}\n" for rule in rules)


_LISTS = (
    "identities", "trust_domains", "namespaces", "service_accounts", "cidrs", "via",
)  # fmt: skip


@pytest.mark.parametrize("field", [f"{no}{name}" for no in ("", "not_") for name in _LISTS])
def test_an_empty_list_of_callers_is_a_mistake(field: str) -> None:
    found = mistakes(_rules(f"action: deny, from: {{{field}: []}}"))
    assert [each.path for each in found] == [f"authorization[0].from.{field}"]
    assert "empty list" in found[0].reason


@pytest.mark.parametrize("field", ["ports", "addresses", "inbound", "not_ports", "not_inbound"])
def test_an_empty_list_of_targets_is_a_mistake(field: str) -> None:
    found = mistakes(_rules(f"action: deny, to: {{{field}: []}}"))
    assert [each.path for each in found] == [f"authorization[0].to.{field}"]


@pytest.mark.parametrize("field", ["identities", "cidrs"])
def test_a_field_without_a_value_never_becomes_an_absent_one(field: str) -> None:
    found = mistakes(_rules(f"action: allow, from: {{{field}: , via: [direct]}}"))
    assert [each.path for each in found] == [f"authorization[0].from.{field}"]


@pytest.mark.parametrize(
    "callers",
    ["", "from: {}", "from: {unauthenticated: false}", "from: {not_namespaces: [a]}",
     "from: {not_via: [direct]}", "from: {unauthenticated: false, not_cidrs: [10.0.0.0/8]}"],
)  # fmt: skip
def test_an_allow_says_whom_it_lets_in(callers: str) -> None:
    mistake = only_mistake(_rules(f"action: allow, {callers}"))
    assert mistake.path == "authorization[0].from"
    assert "from: any" in mistake.reason


@pytest.mark.parametrize(
    "callers",
    ["from: any", "from: {unauthenticated: true}", "from: {via: [direct]}",
     "from: {cidrs: [10.0.0.1], not_identities: ['spiffe://a.b/c']}"],
)  # fmt: skip
def test_one_positive_field_is_enough(callers: str) -> None:
    assert loaded(_rules(f"action: allow, {callers}")).authorization[0].action == "allow"


@pytest.mark.parametrize("callers", ["name: a", "from: any", "from: {not_cidrs: [10.0.0.0/8]}"])
def test_a_deny_may_mean_everyone(callers: str) -> None:
    assert loaded(_rules(f"action: deny, {callers}")).authorization[0].action == "deny"


@pytest.mark.parametrize("action", ["allow", "deny"])
@pytest.mark.parametrize(
    "field",
    ["identities: ['spiffe://a.b/c']", "not_identities: ['spiffe://a.b/c']",
     "trust_domains: [a.b]", "not_namespaces: [a]", "service_accounts: [a]"],
)  # fmt: skip
def test_callers_without_identity_have_no_identity_fields(action: str, field: str) -> None:
    rule = f"action: {action}, from: {{unauthenticated: true, {field}}}"
    mistake = only_mistake(_rules(rule))
    assert "unauthenticated" in mistake.reason
    assert mistake.path.startswith("authorization[0].from.")


def test_callers_without_identity_may_be_narrowed_by_address() -> None:
    rule = "action: allow, from: {unauthenticated: true, cidrs: [10.0.0.0/8], via: [direct]}"
    assert loaded(_rules(rule)).authorization[0].from_.unauthenticated


@pytest.mark.parametrize("field", ["via", "not_via"])
def test_a_way_is_direct_or_one_that_may_speak_for_callers(field: str) -> None:
    mistake = only_mistake(_rules(f"action: deny, from: {{{field}: [direct, direct1]}}"))
    assert mistake.path == f"authorization[0].from.{field}[1]"
    assert mistake.reason == "is neither `direct` nor a key of `inbound_trust`"
    assert mistake.nearest == "direct"


def test_rules_name_doors_by_name_or_by_listen_address() -> None:
    rule = "action: deny, to: {inbound: [api, '0.0.0.0:2']}"
    assert loaded(_rules(rule)).authorization[0].to.inbound == ("api", "0.0.0.0:2")
    mistake = only_mistake(_rules("action: deny, to: {not_inbound: [api, apo]}"))
    assert mistake.path == "authorization[0].to.not_inbound[1]"
    assert mistake.nearest == "api"


def test_two_rules_have_two_names() -> None:
    mistake = only_mistake(_rules("name: a, action: deny", "name: a, action: deny"))
    assert mistake.path == "authorization[1].name"
    assert "authorization[0]" in mistake.reason
    default = only_mistake(_rules("name: 'authorization[1]', action: deny", "action: deny"))
    assert default.path == "authorization[1].name"


@pytest.mark.parametrize(
    ("field", "path"),
    [
        ("from: {identities: ['spiffe://*/a']}", "from.identities[0]"),
        ("from: {identities: ['*']}", "from.identities[0]"),
        ("from: {trust_domains: ['a*']}", "from.trust_domains[0]"),
        ("from: {namespaces: ['*']}", "from.namespaces[0]"),
        ("from: {cidrs: ['10.0.0.1/8']}", "from.cidrs[0]"),
        ("to: {ports: [0]}", "to.ports[0]"),
        ("to: {ports: ['80']}", "to.ports[0]"),
        ("to: {addresses: [a.b]}", "to.addresses[0]"),
        ("mode: audit", "mode"),
        ("from: {identity: ['spiffe://a.b/c']}", "from.identity"),
        ("to: {port: [80]}", "to.port"),
    ],
)
def test_a_wrong_value_in_a_rule_is_named(field: str, path: str) -> None:
    assert only_mistake(_rules(f"action: deny, {field}")).path == f"authorization[0].{path}"


def test_every_property_of_callers_and_targets_that_a_rule_has_can_be_written() -> None:
    for record in (FROM, TO):
        made = record.makes()
        assert dataclasses.is_dataclass(made)
        known = {field.name for field in dataclasses.fields(made)} - {"any"}  # `from: any`
        assert {field.name for field in record.fields} == known
