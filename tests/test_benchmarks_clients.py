"""benchmarks.harness: clients and streams against the application itself, with no proxy between.

Their counts must be right; how fast they are is nobody's business here.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.harness.application import ANSWER_BYTES, Application, ask
from benchmarks.harness.clients import Clients, LoadResult, next_source, read
from benchmarks.harness.streams import DOWN, UP, connections, move, moving

STEP = 32 << 20


@pytest.fixture
def application(tmp_path: Path) -> Iterator[Application]:
    with Application(tmp_path) as running:
        yield running


@pytest.fixture
def clients(application: Application) -> Iterator[Clients]:
    with Clients(application.port) as running:
        yield running


def test_what_the_program_says_is_read() -> None:
    load = read('{"requests":1000,"duration_us":2000000,"p50_us":400,"p99_us":900}\n')
    assert load == LoadResult(1000, 2.0, 400, 900)
    assert load.rate == 500.0


def test_a_load_without_an_answer_is_refused() -> None:
    with pytest.raises(RuntimeError, match="no request was answered"):
        read('{"requests":0,"duration_us":2000000,"p50_us":0,"p99_us":0}\n')


def test_open_connections_are_asked_as_fast_as_they_answer(clients: Clients) -> None:
    clients.open(4)
    load = clients.run(4, 0.2)
    assert load.requests > 4
    assert 0 < load.p50_us <= load.p99_us
    assert load.seconds >= 0.2


def test_a_rate_is_kept_whatever_the_number_of_connections(clients: Clients) -> None:
    clients.open(100)
    for busy in 1, 100:
        load = clients.run(busy, 0.2, rate=500)
        # due at 2 ms, 4 ms, …, and the last before the end
        assert 98 <= load.requests <= 100


def test_more_connections_are_opened_beside_those_that_are_there(clients: Clients) -> None:
    clients.open(3)
    clients.open(200)
    assert clients.run(200, 0.05, rate=100).requests >= 3


def test_every_request_has_a_connection_of_its_own(clients: Clients) -> None:
    clients.open(2)
    assert clients.dial(4, 0.1).requests >= 4
    assert clients.run(2, 0.05).requests >= 2


def test_clients_go_where_they_are_told_and_run_where_they_are_told(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    with socket.create_server(("127.0.0.9", 0)) as listener:
        inside = ["sh", "-c", 'touch "$0" && exec "$@"', str(ran)]
        port = listener.getsockname()[1]
        with Clients(port, target="127.0.0.9", source="127.0.0.8", inside=inside) as clients:
            opening = threading.Thread(target=clients.open, args=(1,))
            opening.start()
            connection, (source, _) = listener.accept()
            assert source == "127.0.0.8"
            connection.recv(64, socket.MSG_WAITALL)
            connection.sendall(bytes(ANSWER_BYTES))
            opening.join()
            assert Path(f"/proc/{clients.pid}/comm").read_text() == "clients\n"
            connection.close()
    assert ran.exists()


def test_a_connection_that_ends_early_leaves_no_figures() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def half_an_answer() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.recv(64, socket.MSG_WAITALL)
                sock.sendall(b"x" * (ANSWER_BYTES // 2))

        server = threading.Thread(target=half_an_answer)
        server.start()
        with (
            Clients(listener.getsockname()[1]) as clients,
            pytest.raises(RuntimeError, match="open 1: answer"),
        ):
            clients.open(1)
        server.join()


def test_nobody_at_home_is_an_error(application: Application) -> None:
    application.stop()
    with (
        Clients(application.port) as clients,
        pytest.raises(RuntimeError, match="connect: Connection refused"),
    ):
        clients.open(1)


def test_each_run_comes_from_another_address(application: Application) -> None:
    first, second = next_source(), next_source()
    assert first != second
    with connections(application.port, 2) as streams:
        sources = {stream.getsockname()[0] for stream in streams}
    assert len(sources) == 1
    assert sources.isdisjoint({first, second, "127.0.0.1"})


def test_one_request_is_answered_whole(application: Application) -> None:
    with ask(application.port) as sock:
        sock.sendall(b"C" * 64)
        assert sock.recv(ANSWER_BYTES, socket.MSG_WAITALL) == b"x" * ANSWER_BYTES
        assert sock.recv(1) == b"", "the application closes after the last"


@pytest.mark.parametrize("direction", [UP, DOWN])
def test_streams_count_what_has_arrived(application: Application, direction: bytes) -> None:
    with connections(application.port, 2) as streams:
        # no time to go on: one transfer each, and they can be used again
        for _ in range(2):
            moved = move(streams, direction, 0)
            assert moved.size == 2 * STEP
            assert moved.gbit_s == pytest.approx(moved.gb * 8 / moved.seconds)


def test_streams_move_while_something_else_is_done(application: Application) -> None:
    with (
        connections(application.port, 1) as streams,
        moving(streams, DOWN) as moved,
        ask(application.port),
    ):
        assert not moved
    assert moved[0].size >= STEP
    assert moved[0].size % STEP == 0


def test_a_stream_that_breaks_is_an_error(application: Application) -> None:
    with connections(application.port, 1) as streams:
        application.stop()
        with pytest.raises(OSError, match=r"ended|reset|Broken"):
            move(streams, UP, 0)
