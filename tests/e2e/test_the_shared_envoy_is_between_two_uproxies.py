"""Bytes, ends and resets between two uProxies, with the shared Envoy between them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import traffic
from tests.helpers.background import background
from tests.helpers.endings import ended, only
from tests.helpers.shared import FIRST, L7, Shared, shared_envoy
from uproxy.lab.mesh import ORDERS, WEB, FileWorld, ThroughL7

MIB = 1 << 20
QUICK = {"half_close": "1s"}


@dataclass(frozen=True, slots=True)
class Between:
    """The shared Envoy between two uProxies with the same engine."""

    shared: Shared
    engine: str
    echo: str
    """The address of an application that sends everything back; it is plain TCP to Envoy."""
    digest: str
    """The same of one that answers after the end of what it gets."""

    def caller(self, *to: str, spiffe_id: str = WEB, **more: Any) -> ThroughL7:
        return self.shared.caller(spiffe_id, *to, engine=self.engine, timeouts=QUICK, **more)


@pytest.fixture(scope="module", params=["native", pytest.param("python", marks=pytest.mark.slow)])
def between(
    request: pytest.FixtureRequest, folder: Path, file_world: FileWorld, echo_app: int
) -> Iterator[Between]:
    with (
        background(traffic.answer_digest) as digest_app,
        shared_envoy(
            folder, file_world, echo_app, digest_app, engine=str(request.param)
        ) as shared,
    ):  # fmt: skip
        tcp = f'"*:{echo_app}", "*:{digest_app}"'
        shared.envoy.use("tcp-only", {'"*:5432"': tcp})
        yield Between(shared, str(request.param), f"{FIRST}:{echo_app}", f"{FIRST}:{digest_app}")


@pytest.fixture(scope="module")
def frontend(between: Between) -> Iterator[ThroughL7]:
    """The frontend's uProxy; its doors lead to orders over HTTP, to `echo` and to `digest`."""
    orders = between.shared.addresses[0]
    with between.caller(orders, between.echo, between.digest) as uproxy:
        yield uproxy


def test_bytes_arrive_and_both_access_logs_name_the_way_and_the_workloads(
    between: Between, frontend: ThroughL7
) -> None:
    with ended(frontend, "closed") as ours, ended(between.shared.orders, "closed") as theirs:
        asyncio.run(traffic.exchange(frontend.ports[1], 4 * MIB + 1))
    line = only(ours)
    assert (line["via"], line["src.identity"], line["dst.identity"]) == ("l7", WEB, L7)
    assert line["dst.hbone_addr"] == between.echo
    line = only(theirs)
    assert (line["via"], line["via.identity"]) == ("l7", L7)
    assert (line["src.identity"], line["dst.identity"]) == (WEB, ORDERS)
    assert (line["bytes_recv"], line["bytes_sent"]) == (4 * MIB + 1, 4 * MIB + 1)


def test_an_answer_after_the_clients_end_arrives(frontend: ThroughL7) -> None:
    with ended(frontend, "closed"):
        asyncio.run(traffic.deliver(frontend.ports[2], MIB + 7))


def test_an_answer_that_closes_the_connection_is_whole_and_followed_by_a_reset(
    frontend: ThroughL7,
) -> None:
    """Envoy ends the stream with CONNECT_ERROR, as it does one that broke."""
    with (
        ended(frontend, "reset"),
        socket.create_connection(("127.0.0.1", frontend.port), timeout=20) as client,
    ):
        client.sendall(b"GET /100000 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        answer = until_reset(client)
    assert len(answer.partition(b"\r\n\r\n")[2]) == 100000


def until_reset(client: socket.socket) -> bytes:
    """Return what comes before the connection is reset."""
    received = b""
    try:
        while more := client.recv(1 << 16):
            received += more
    except ConnectionResetError:
        return received
    raise AssertionError(f"it ended in order after {len(received)} bytes")
