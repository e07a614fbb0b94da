"""Clients that nobody here wrote talk through the shared Envoy: grpcio, websockets, psql, curl."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.helpers.apps import Postgres
from tests.helpers.protocols import STREAM, UNARY, grpc_channel, grpc_echo, websocket_echo
from tests.helpers.shared import FIRST, Shared, shared_envoy
from uproxy.lab.mesh import UNWANTED, WEB, FileWorld

MESSAGES = [b"%d" % number * 1000 for number in range(50)]


@pytest.fixture(scope="module")
def grpc_app() -> Iterator[int]:
    with grpc_echo() as port:
        yield port


@pytest.fixture(scope="module")
def websocket_app() -> Iterator[int]:
    with websocket_echo() as port:
        yield port


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture(scope="module")
def behind(
    folder: Path, file_world: FileWorld, grpc_app: int, websocket_app: int, postgres: Postgres
) -> Iterator[Shared]:
    with shared_envoy(folder, file_world, grpc_app, websocket_app, postgres.port) as found:
        yield found


@contextlib.contextmanager
def reaching(behind: Shared, app: int, spiffe_id: str = WEB) -> Iterator[int]:
    with behind.caller(spiffe_id, f"{FIRST}:{app}") as caller:
        yield caller.port


@pytest.mark.parametrize("policy", ["websocket-and-grpc", "retries"])
def test_grpc_calls_and_streams_arrive(behind: Shared, grpc_app: int, policy: str) -> None:
    behind.envoy.use(policy, {"10.0.0.7:8080": f"{FIRST}:{grpc_app}"})
    with reaching(behind, grpc_app) as port, grpc_channel(port) as channel:
        assert channel.unary_unary(UNARY)(b"hello", timeout=10) == b"hello"
        assert list(channel.stream_stream(STREAM)(iter(MESSAGES), timeout=10)) == MESSAGES
    assert any(line.get("protocol") == "HTTP/2" for line in behind.envoy.accesses)


def test_a_websocket_talks_and_knows_the_caller(behind: Shared, websocket_app: int) -> None:
    behind.envoy.use("websocket-and-grpc", {"10.0.0.7:8080": f"{FIRST}:{websocket_app}"})
    with reaching(behind, websocket_app) as port, connect(f"ws://127.0.0.1:{port}/") as socket:
        assert socket.recv(10) == WEB
        for message in MESSAGES:
            socket.send(message)
            assert socket.recv(10) == message


def test_postgresql_is_carried_without_a_look_inside(behind: Shared, postgres: Postgres) -> None:
    behind.envoy.use("tcp-only", {"*:5432": f"*:{postgres.port}"})
    with reaching(behind, postgres.port) as port:
        assert Postgres.psql("SELECT sum(n) FROM generate_series(1, 1000) n", port) == "500500"
    with (
        reaching(behind, postgres.port, UNWANTED) as port,
        pytest.raises(subprocess.CalledProcessError),
    ):
        Postgres.psql("SELECT 1", port)


def test_curl_downloads_through_it(behind: Shared) -> None:
    with reaching(behind, behind.first.port) as port:
        url = f"http://127.0.0.1:{port}/curl"
        done = subprocess.run(
            ["curl", "-q", "-sS", "--fail", "--noproxy", "*", "--max-time", "20", url],
            check=True, capture_output=True,
        )  # fmt: skip
    assert b'"app": "first"' in done.stdout
