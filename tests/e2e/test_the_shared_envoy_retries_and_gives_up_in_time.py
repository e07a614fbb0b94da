"""What deploy/envoy's policies do about an application that fails, is silent or is full."""

from __future__ import annotations

from tests.helpers.http_app import Client, fetch
from tests.helpers.shared import Shared
from uproxy.lab.waiting import wait_until


def counter(shared: Shared, name: str) -> int:
    return shared.envoy.statistics(name)[name]


def test_a_request_that_fails_is_tried_again(shared: Shared, frontend: int) -> None:
    shared.first.failing = 3
    assert fetch(frontend).status == 503
    shared.first.calm()
    shared.envoy.use("retries")
    shared.first.failing = 3
    assert fetch(frontend).status == 200
    assert shared.first.requests == ["GET /"] * 4


def test_a_request_that_changes_something_is_not_tried_again(shared: Shared, frontend: int) -> None:
    shared.envoy.use("retries")
    shared.first.failing = 1
    assert fetch(frontend, method="POST").status == 503
    assert shared.first.requests == ["POST /"]


def test_a_try_that_takes_too_long_is_abandoned_for_another(shared: Shared, frontend: int) -> None:
    shared.envoy.use("per-try-timeout")
    shared.first.silent = 2
    assert fetch(frontend).status == 200
    assert shared.first.requests == ["GET /"] * 3
    wait_until(lambda: shared.first.abandoned == 2, "the application to see that nobody waits")


def test_a_request_without_any_answer_ends_with_504(shared: Shared, frontend: int) -> None:
    shared.envoy.use("per-try-timeout")
    shared.first.silent = 9
    assert fetch(frontend).status == 504
    assert len(shared.first.requests) == 3


def test_requests_above_the_limit_are_refused_at_once(shared: Shared, frontend: int) -> None:
    shared.envoy.use("circuit-breaking")
    shared.first.silent = 2
    with Client(frontend) as one, Client(frontend) as two:
        one.ask()
        two.ask()
        wait_until(lambda: len(shared.first.requests) == 2, "both to reach orders")
        refused = fetch(frontend)
        assert (refused.status, refused.headers["x-envoy-overloaded"]) == (503, "true")
        one.reset()
        two.reset()
    wait_until(lambda: fetch(frontend).status == 200, "the two to be forgotten")


def test_a_pod_that_fails_gets_no_requests_for_a_while(shared: Shared, frontend: int) -> None:
    shared.envoy.use("outlier-ejection")
    before = {fetch(frontend).app for _ in range(6)}
    assert before == {"first", "second"}
    shared.second.failing = 1000
    statuses = [fetch(frontend).status for _ in range(12)]
    # three eject it; before each of Envoy's threads knows of that there may be another
    assert 3 <= statuses.count(503) < 6
    wait_until(
        lambda: counter(shared, "cluster.orders.outlier_detection.ejections_active"),
        "the pod to be ejected",
    )
    assert {fetch(frontend).app for _ in range(6)} == {"first"}
