"""Load balancers and kubelets connect to a port and go: counted apart, in nobody's way."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import traffic
from tests.helpers.background import background
from tests.helpers.endings import metric
from tests.helpers.pair import Pair
from uproxy.connections.denials import KEPT_DENIALS
from uproxy.lab.waiting import wait_until

PROBES = 2 * KEPT_DENIALS


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with background(traffic.echo) as port:
        pair = Pair(tmp_path, {"app": port})
        there = {"name": "local", "listen": f"unix://{tmp_path}/door", "transport": "mtls"}
        pair.orders_config["inbound"].append({**there, "to": f"127.0.0.1:{port}"})
        pair.orders_config["log"] = {"access": "denied"}
        yield pair


def connected(pair: Pair, tmp_path: Path, where: str) -> socket.socket:
    if where == "tcp":
        return socket.create_connection(("127.0.0.1", pair.doors["app"]), 10)
    client = socket.socket(socket.AF_UNIX)
    client.connect(f"{tmp_path}/door")
    return client


@pytest.mark.parametrize("engine", ["native", "python"])
@pytest.mark.parametrize("where", ["tcp", "unix"])
async def test_they_are_counted_apart_and_push_no_refusal_off_the_page(
    pair: Pair, tmp_path: Path, where: str, engine: str
) -> None:
    pair.orders_config["engine"] = engine
    with pair:
        with connected(pair, tmp_path, where) as client:  # somebody who is really refused
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        wait_until(lambda: pair.orders.accesses, "the refusal in the log")
        for number in range(PROBES):
            with connected(pair, tmp_path, where) as client:
                if number % 2 and where == "tcp":
                    linger = struct.pack("ii", 1, 0)
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        counted = "uproxy_probes_total"
        wait_until(lambda: metric(pair.orders, counted) == PROBES, "all probes to be counted")
        [refusal] = pair.orders.accesses
        assert refusal["outcome"] == "handshake_failed"
        assert metric(pair.orders, "uproxy_handshake_failures_total") == 1
        assert metric(pair.orders, "istio_tcp_connections_failed_total") == 1
        _, page = pair.orders.request("/status.json")
        assert [row["outcome"] for row in json.loads(page)["denials"]] == ["handshake_failed"]
        await traffic.exchange(pair.port("app"), 1000)
