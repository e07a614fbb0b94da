"""The shipped board and alert rules ask for what a running uProxy shows: loaded by Prometheus
itself, and by the schema that Grafana publishes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest
import yaml

from tests.helpers.apps import Redis
from tests.helpers.pair import FRONTEND, ORDERS, Pair
from tests.helpers.prometheus import (
    BOARD,
    RULE_TESTS,
    RULES,
    Prometheus,
    alerts,
    board_queries,
    metrics_in,
)
from uproxy.lab.software.golang import peer
from uproxy.lab.waiting import wait_until

QUERIES = [*board_queries(), *alerts().items()]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    with Redis(folder) as redis, Pair(folder, {"cache": redis.port}) as pair:
        assert Redis.cli("set", "greeting", "x" * 1000, port=pair.port("cache")) == "OK"
        yield pair


@pytest.fixture(scope="module")
def prometheus(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    ports = (pair.frontend.admin_port, pair.orders.admin_port)
    with Prometheus(tmp_path_factory.mktemp("prometheus"), *ports) as running:
        wait_until(lambda: len(running.query("uproxy_ready == 1")) == 2, "both to be scraped")
        yield running


def test_the_alerts_fire_as_their_tests_say() -> None:
    done = subprocess.run(
        ["promtool", "test", "rules", RULE_TESTS.name], cwd=RULE_TESTS.parent,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_seen_to_fire_in_a_test() -> None:
    expected = {
        name
        for test in yaml.safe_load(RULE_TESTS.read_text())["tests"]
        for name in alerts()
        if f'alertname="{name}"' in str(test.get("promql_expr_test"))
        or any(
            each["alertname"] == name and each["exp_alerts"]
            for each in test.get("alert_rule_test", ())
        )
    }
    assert expected == set(alerts())


def test_the_board_is_one_by_grafanas_own_schema() -> None:
    def complaint(text: str) -> str:
        checked = subprocess.run(
            [peer("grafana")], input=text, capture_output=True, text=True, check=False
        )
        assert (checked.returncode == 0) is (not checked.stderr)
        return checked.stderr

    board = BOARD.read_text()
    assert complaint(board) == ""
    assert "legendFormt" in complaint(board.replace("legendFormat", "legendFormt"))


def test_the_boards_panels_have_places_and_numbers_of_their_own() -> None:
    panels = json.loads(BOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not taken & cells, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_every_metric_that_they_name_is_in_a_scrape(pair: Pair) -> None:
    status, text = pair.orders.request("/metrics")
    assert status == 200
    shown = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}
    named = set().union(*(metrics_in(expression) for _, expression in QUERIES))
    assert len(named) > 20
    assert named - shown == set()


def test_prometheus_loads_the_rules_and_evaluates_them(prometheus: Prometheus) -> None:
    def evaluated() -> bool:
        rules = [rule for group in prometheus.api("rules")["groups"] for rule in group["rules"]]
        assert {rule["name"] for rule in rules} == set(alerts())
        assert all(rule["health"] in ("ok", "unknown") for rule in rules), rules
        return all(rule["health"] == "ok" for rule in rules)

    wait_until(evaluated, "an evaluation")
    [group] = prometheus.api("rules")["groups"]
    assert group["file"] == str(RULES)
    assert [rule["name"] for rule in group["rules"] if rule["state"] != "inactive"] == []


@pytest.mark.parametrize(("title", "expression"), QUERIES, ids=[title for title, _ in QUERIES])
def test_prometheus_understands_every_query(
    prometheus: Prometheus, title: str, expression: str
) -> None:
    prometheus.query(expression)


def test_the_board_shows_a_number_where_nothing_is_wrong(prometheus: Prometheus) -> None:
    fine = {"Not ready": 0.0, "Stale configurations": 0.0, "Without their agent": 0.0,
            "Connections that failed": 0.0, "Refused by limits": 0.0}  # fmt: skip
    asked = dict(board_queries())

    def shown() -> dict[str, float]:
        return {
            title: float(series["value"][1])
            for title in fine
            for series in prometheus.query(asked[title])
        }

    wait_until(lambda: shown() == fine, "two scrapes")


def test_both_sides_count_the_same_bytes_alike(prometheus: Prometheus) -> None:
    """What the client sent is received, and what it got is sent, whoever reports."""
    ends = f'source_principal="{FRONTEND}", destination_principal="{ORDERS}"'

    def counted(direction: str) -> dict[str, float]:
        series = prometheus.query(f"istio_tcp_{direction}_bytes_total{{{ends}}}")
        return {each["metric"]["reporter"]: float(each["value"][1]) for each in series}

    wait_until(lambda: counted("received").keys() == {"source", "destination"}, "both reporters")
    received, sent = counted("received"), counted("sent")
    assert received["source"] == received["destination"] > 1000
    assert sent["source"] == sent["destination"] < 100
