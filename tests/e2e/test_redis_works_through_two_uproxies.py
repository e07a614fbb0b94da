"""Redis behind one uProxy, its clients behind another: commands, pipelines, subscriptions."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.apps import Redis
from tests.helpers.endings import metric
from tests.helpers.pair import MTLS, TUNNELS, Pair, Way
from uproxy.lab.processes import Uproxy
from uproxy.lab.waiting import wait_until


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("redis")


@pytest.fixture(scope="module", params=[MTLS, *TUNNELS], ids=str)
def way(request: pytest.FixtureRequest) -> Way:
    found: Way = request.param
    return found


@pytest.fixture(scope="module")
def pair(folder: Path, way: Way) -> Iterator[Pair]:
    with Redis(folder) as redis, Pair(folder / str(way), {"cache": redis.port}, way) as pair:
        yield pair


def test_redis_cli_gets_back_what_it_has_set(pair: Pair) -> None:
    port = pair.port("cache")
    assert Redis.cli("set", "greeting", "hello", port=port) == "OK"
    assert Redis.cli("get", "greeting", port=port) == "hello"


def test_fifty_clients_lose_no_connection_and_leave_none_behind(pair: Pair) -> None:
    both = (pair.frontend, pair.orders)
    wait_until(
        lambda: not any(open_connections(uproxy) for uproxy in both), "earlier clients to go"
    )
    before = [open_descriptors(uproxy) for uproxy in both]
    said = Redis.benchmark(pair.port("cache"), requests=5000, clients=50)
    assert "SET:" in said
    assert "GET:" in said
    assert "rror" not in said
    wait_until(
        lambda: all(
            open_descriptors(uproxy) <= few for uproxy, few in zip(both, before, strict=True)
        ),
        "as few descriptors",
    )


def open_connections(uproxy: Uproxy) -> float:
    return metric(uproxy, "uproxy_connections")


def open_descriptors(uproxy: Uproxy) -> float:
    """Without those of tunnels, which stay for the next client."""
    return metric(uproxy, "process_open_fds") - metric(uproxy, "uproxy_hbone_connections")


def test_pipelined_commands_are_all_answered(pair: Pair) -> None:
    port = pair.port("cache")
    Redis.cli("config", "resetstat", port=port)
    argv = ["redis-benchmark", "-h", "127.0.0.1", "-p", str(port), "-q"]
    argv += ["-n", "50000", "-c", "10", "-P", "64", "-t", "set", "-d", "100"]
    done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60)
    assert "SET:" in done.stdout
    calls = Redis.cli("info", "commandstats", port=port)
    counted = next(line for line in calls.splitlines() if line.startswith("cmdstat_set:"))
    # redis-benchmark fills its last pipelines, so a few more than asked for
    assert 50_000 <= int(counted.split("calls=")[1].split(",")[0]) < 51_000


def test_every_answer_of_one_long_pipeline_comes_in_order(pair: Pair) -> None:
    count = 20_000
    with socket.create_connection(("127.0.0.1", pair.port("cache")), timeout=30) as client:
        client.sendall(b"".join(b"ECHO %06d\r\n" % number for number in range(count)))
        client.shutdown(socket.SHUT_WR)
        answers = client.makefile("rb").read()
    assert answers == b"".join(b"$6\r\n%06d\r\n" % number for number in range(count))


def test_a_subscriber_hears_what_is_published_later(pair: Pair, folder: Path) -> None:
    port, heard = pair.port("cache"), folder / "heard"
    argv = ["redis-cli", "-h", "127.0.0.1", "-p", str(port), "subscribe", "news"]
    with heard.open("wb") as output, subprocess.Popen(argv, stdout=output) as subscriber:
        try:
            wait_until(lambda: "subscribe" in heard.read_text(), "the subscription")
            for number in range(100):
                assert Redis.cli("publish", "news", f"issue-{number}", port=port) == "1"
            wait_until(lambda: "issue-99\n" in heard.read_text(), "the last message")
        finally:
            subscriber.kill()
    lines = heard.read_text().splitlines()
    assert [line for line in lines if line.startswith("issue-")] == [
        f"issue-{number}" for number in range(100)
    ]
