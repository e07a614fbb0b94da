"""Clients that nobody here wrote talk through the shared Envoy: grpcio, websockets, psql, curl."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.helpers.apps import Postgres
from tests.helpers.protocols import STREAM, UNARY, grpc_channel, grpc_echo, websocket_echo
from tests.helpers.shared import FIRST, Shared, shared_envoy
from uproxy.lab.mesh import UNWANTED, WEB, FileWorld
from uproxy.lab.waiting import wait_until

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


def curl(port: int) -> None:
    """Fetch a page.

    Raises:
        CalledProcessError: curl says that it failed.
    """
    url = f"http://127.0.0.1:{port}/curl"
    done = subprocess.run(
        ["curl", "-q", "-sS", "--fail", "--noproxy", "*", "--max-time", "20", url],
        check=True, capture_output=True,
    )  # fmt: skip
    assert b'"app": "first"' in done.stdout


def psql(port: int) -> None:
    """Ask the database something; raises as `curl` does."""
    assert Postgres.psql("SELECT 40 + 2", port) == "42"


def test_curl_downloads_through_it(behind: Shared) -> None:
    with reaching(behind, behind.first.port) as port:
        curl(port)


@contextlib.contextmanager
def again_and_again(client: Callable[[int], None], port: int) -> Iterator[list[str]]:
    """Run a client in a loop meanwhile; the list tells how each run ended: "" or why it failed."""
    ended: list[str] = []
    stopping = threading.Event()

    def loop() -> None:
        while not stopping.is_set():
            try:
                client(port)
                ended.append("")
            except subprocess.CalledProcessError as error:
                ended.append(str(error.stderr or error))

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield ended
    finally:
        stopping.set()
        thread.join()


@pytest.mark.slow
def test_curl_and_psql_go_on_when_one_of_two_envoys_is_killed(
    behind: Shared, postgres: Postgres
) -> None:
    to = [f"{FIRST}:{port}" for port in (behind.first.port, postgres.port)]
    with behind.another_envoy() as one, behind.another_envoy() as other:
        for envoy in (one, other):
            envoy.use("tcp-only", {"*:5432": f"*:{postgres.port}"})
        with (
            behind.caller(WEB, *to, envoys=[one, other]) as caller,
            again_and_again(curl, caller.ports[0]) as fetched,
            again_and_again(psql, caller.ports[1]) as asked,
        ):
            wait_until(lambda: min(len(fetched), len(asked)) >= 10, "both to have run", 60)
            assert {*fetched, *asked} == {""}
            streams = "http.tunnels.downstream_rq_total"
            assert min(each.statistics(streams)[streams] for each in (one, other)) > 5
            one.stop(signal.SIGKILL)
            before = len(fetched), len(asked)
            wait_until(
                lambda: len(fetched) >= before[0] + 20 and len(asked) >= before[1] + 20,
                "both to run on", 120,
            )  # fmt: skip
    for ended in (fetched, asked):
        # one may have been under way there
        assert sum(1 for why in ended if why) <= 1, ended
        assert set(ended[-15:]) == {""}
