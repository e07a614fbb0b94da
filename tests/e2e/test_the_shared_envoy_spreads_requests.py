"""How deploy/envoy's configurations choose between versions of an application, and of a policy."""

from __future__ import annotations

from collections import Counter

from tests.helpers.http_app import Client
from tests.helpers.shared import Shared

EVENLY = {"weight: 90": "weight: 50", "weight: 10": "weight: 50"}


def test_requests_are_split_between_two_versions(shared: Shared, frontend: int) -> None:
    shared.envoy.use("traffic-split", EVENLY)
    with Client(frontend) as client:
        apps = Counter(client.fetch().app for _ in range(60))
        assert apps.keys() == {"first", "second"}
        assert min(apps.values()) > 10
        assert {client.fetch(x_version="2").app for _ in range(10)} == {"second"}


def test_a_part_of_the_connections_tries_a_policy(shared: Shared, frontend: int) -> None:
    shared.envoy.use("canary", EVENLY)
    policies = [policies_of_a_connection(frontend) for _ in range(40)]
    assert {len(each) for each in policies} == {1}
    assert {frozenset(each) for each in policies} == {frozenset({"canary"}), frozenset({None})}


def policies_of_a_connection(port: int) -> set[str | None]:
    """Which policies its requests met."""
    with Client(port) as client:
        return {client.fetch().headers.get("x-policy") for _ in range(3)}
