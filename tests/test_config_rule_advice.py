"""Rules whose targets no door leads to, and whose callers nobody vouches for."""

from __future__ import annotations

import pytest

from tests.helpers.config_documents import FILES, loaded
from uproxy.config.rule_advice import target_warnings, trust_warnings

DOORS = """\
inbound:
  - {name: api, listen: 0.0.0.0:8443, transport: mtls, to: 127.0.0.1:8080}
  - {name: db, listen: 10.0.0.1:8444, transport: mtls, to: 127.0.0.1:5432}
  - {name: local, listen: 127.0.0.1:8445, transport: mtls, to: unix:///run/app.sock}
"""


def said(to: str, doors: str = DOORS) -> list[str]:
    """Return the warnings about a rule with these targets."""
    rule = f"authorization: [{{action: allow, from: any, to: {{{to}}}}}]\n"
    found = target_warnings(loaded(FILES + doors + rule))
    return [f"{each.path.removeprefix('authorization[0].to.')}: {each.reason}" for each in found]


@pytest.mark.parametrize(
    "to",
    ["ports: [8080, 5432]", "ports: [5432], inbound: [db]", "not_ports: [8080]",
     "addresses: [127.0.0.0/8]", "addresses: [127.0.0.1], ports: [8080]", "inbound: [api]"],
)  # fmt: skip
def test_nothing_is_said_of_targets_that_there_are(to: str) -> None:
    assert said(to) == []


@pytest.mark.parametrize(
    ("to", "warning"),
    [
        (
            "ports: [8080, 8443]",
            "ports[1]: is the port of door api; rules name the application's: write 8080",
        ),
        (
            "not_ports: [8444]",
            "not_ports[0]: is the port of door db; rules name the application's: write 5432",
        ),
        (
            "ports: [8445]",
            "ports[0]: is the port of door local; whose application has none: remove it",
        ),
        ("ports: [80]", "ports[0]: no inbound door leads to an application at this port"),
        # the port of another door's application
        (
            "ports: [5432], inbound: [api]",
            "ports[0]: no inbound door leads to an application at this port",
        ),
        (
            "addresses: [10.0.0.0/24]",
            "addresses[0]: is where door db listens; rules name the application's: write 127.0.0.1",
        ),
        (
            "not_addresses: [192.0.2.1]",
            "not_addresses[0]: no inbound door leads to an application at this address",
        ),
    ],
)
def test_a_target_that_there_is_not_is_told_with_the_one_there_is(to: str, warning: str) -> None:
    assert said(to) == [warning]


def test_nothing_is_said_of_addresses_where_one_is_a_name() -> None:
    door = "inbound: [{listen: 0.0.0.0:1, transport: mtls, to: app.internal:80}]\n"
    assert said("addresses: [10.0.0.1]", door) == []
    assert said("ports: [1]", door) != []


def test_nothing_is_said_where_there_is_no_inbound_door() -> None:
    assert said("ports: [1]", "inbound: []\n") == []


TRUST = """\
authorization:
  - action: allow
    from:
      identities: [spiffe://example.org/web, spiffe://partner.test/**]
      trust_domains: [example.org, other.test]
  - {action: deny, from: {trust_domains: [evil.test]}}
outbound: [{listen: 127.0.0.1:9, to: far}]
destinations:
  far: {addresses: [a.b:1], transport: mtls, identities: [spiffe://far.test/x]}
"""


def test_a_trust_domain_without_a_bundle_is_told_where_it_is_named() -> None:
    settings = loaded(FILES + TRUST)
    found = {each.path: each.reason for each in trust_warnings(settings, {"example.org"})}
    assert list(found) == [
        "authorization[0].from.identities[1]",
        "authorization[0].from.trust_domains[1]",
        "destinations.far.identities[0]",
    ]
    assert "no bundle for the trust domain partner.test" in next(iter(found.values()))
    everybody = {"example.org", "partner.test", "other.test", "far.test"}
    assert list(trust_warnings(settings, everybody)) == []
