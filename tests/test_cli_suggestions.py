"""The YAML that is suggested is a configuration, and does what it says."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from uproxy.cli.suggestions import allow_rule, bundle_file, expected_identity
from uproxy.config import load
from uproxy.policy import Caller, Policy, Target
from uproxy.spiffe.ids import SpiffeId

WEB = "spiffe://example.org/ns/web/sa/frontend"
BASE = """
identity: {workload_api: unix:///run/agent.sock}
inbound: [{name: api, listen: "127.0.0.1:8443", transport: mtls, to: 127.0.0.1:8080}]
outbound: [{listen: 127.0.0.1:9000, to: db}]
destinations: {db: {addresses: [127.0.0.1:4], transport: mtls, identities: [spiffe://a.test/b]}}
"""


def merged(suggestion: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(BASE)
    document |= yaml.safe_load(suggestion)
    return document


def test_the_rule_lets_in_that_caller_at_that_door_and_nobody_else() -> None:
    settings = load(
        yaml.safe_dump(merged(allow_rule(WEB, "api"))), environ={}, overrides=(), folder="/"
    )
    policy = Policy.compile(settings.authorization, None)

    def allowed(caller: str, door: str) -> bool:
        return policy.decide(Caller(SpiffeId.parse(caller), None), Target(1, None, door)).allowed

    assert allowed(WEB, "api")
    assert not allowed(f"{WEB}2", "api")
    assert not allowed(WEB, "other")


def test_behind_a_door_for_tunnels_the_rule_is_for_the_port_alone() -> None:
    suggested = yaml.safe_load(allow_rule(WEB, "api", port=5432))
    assert suggested["authorization"][0]["to"] == {"inbound": ["api"], "ports": [5432]}


def test_a_rule_has_a_name_that_is_free_and_short() -> None:
    assert "name: frontend-to-api," in allow_rule(WEB, "api")
    taken = {"frontend-to-api", "frontend-to-api-2"}
    assert "name: frontend-to-api-3," in allow_rule(WEB, "api", taken)
    assert "name: caller-to-127-0-0-1-8443," in allow_rule("spiffe://a/_", "127.0.0.1:8443")
    assert len(allow_rule(f"spiffe://a/{500 * 'x'}", "api")) < 750


def test_a_door_whose_name_is_no_plain_word_is_quoted() -> None:
    suggested = yaml.safe_load(allow_rule(WEB, "[::1]:8443"))
    assert suggested["authorization"][0]["to"] == {"inbound": ["[::1]:8443"]}


@pytest.mark.parametrize(
    ("suggestion", "words"),
    [
        (allow_rule(WEB, "api"), "append the rule to the file's own list, if there is one"),
        (bundle_file("a.test"), "append the last line to the bundles that the file has"),
        (expected_identity("db", WEB), "if it is right: append it to the destination's identities"),
    ],
)
def test_what_is_suggested_says_to_what_it_is_appended(suggestion: str, words: str) -> None:
    assert suggestion.splitlines()[0].endswith(f":  # {words}")


def test_a_bundle_and_an_identity_are_added_where_they_belong() -> None:
    assert yaml.safe_load(bundle_file("stranger.test")) == {
        "identity": {"files": {"bundles": {"stranger.test": "stranger.test.pem"}}}
    }
    assert yaml.safe_load(expected_identity("db", WEB)) == {
        "destinations": {"db": {"identities": [WEB]}}
    }
