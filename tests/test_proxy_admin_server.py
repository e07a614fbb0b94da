"""The admin server's I/O, on both event loops, by clients good and bad."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.helpers.admin import LOOPS, FakeFacts, RunningAdmin, connected, connection_row, read_all
from uproxy.lab.waiting import wait_until
from uproxy.model import TcpAddress, UnixAddress
from uproxy.proxy.admin.bounds import Bounds
from uproxy.proxy.admin.messages import Surface
from uproxy.proxy.admin.server import AdminListener
from uproxy.proxy.admin.sources import Sources

GET = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(params=LOOPS)
def admin(request: pytest.FixtureRequest) -> Iterator[RunningAdmin]:
    with RunningAdmin(FakeFacts(), request.param) as running:
        yield running


def client_of(listener: AdminListener) -> http.client.HTTPConnection:
    assert isinstance(listener.address, TcpAddress)
    return http.client.HTTPConnection("127.0.0.1", listener.address.port, timeout=10)


def say(listener: AdminListener, words: bytes) -> bytes:
    """Everything the server answers until it closes."""
    with connected(listener.address) as client:
        client.sendall(words)
        return read_all(client)


def test_one_connection_takes_request_after_request(admin: RunningAdmin) -> None:
    client = client_of(admin.listen())
    client.request("GET", "/readyz")
    assert client.getresponse().read() == b"ready\n"
    first = client.sock
    client.request("GET", "/certs")
    response = client.getresponse()
    assert json.loads(response.read())["svid"]
    assert response.getheader("Cache-Control") == "no-store"
    assert client.sock is first
    client.close()


def test_pipelined_requests_are_answered_in_order(admin: RunningAdmin) -> None:
    last = GET.replace(b"livez", b"readyz").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    answers = say(admin.listen(), GET * 3 + last)
    assert answers.count(b"HTTP/1.1 200 OK") == 4
    assert answers.endswith(b"\r\n\r\nready\n")


def test_a_client_that_finishes_sending_still_gets_its_answer(admin: RunningAdmin) -> None:
    admin.facts.rows = tuple(connection_row(number) for number in range(10_000))
    with connected(admin.listen().address) as client:
        client.sendall(b"GET /connections?limit=10000 HTTP/1.0\r\nHost: localhost\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        head, _, body = read_all(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert len(json.loads(body)["connections"]) == 10_000


def test_head_has_the_length_and_no_body(admin: RunningAdmin) -> None:
    client = client_of(admin.listen())
    for _ in range(2):
        client.request("HEAD", "/readyz")
        response = client.getresponse()
        assert (response.status, response.getheader("Content-Length")) == (200, "6")
        assert response.read() == b""
    client.close()


@pytest.mark.parametrize(
    "announced", [b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Content-Length: 99999999"]
)
def test_a_body_is_refused_in_words_whatever_follows(admin: RunningAdmin, announced: bytes) -> None:
    request = b"POST /drain HTTP/1.1\r\nHost: localhost\r\n" + announced + b"\r\n\r\nhello"
    answer = say(admin.listen(), request)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"put parameters into the query" in answer
    assert admin.facts.commands == []


def test_an_empty_body_is_none(admin: RunningAdmin) -> None:
    client = client_of(admin.listen())
    client.request("POST", "/drain", body=b"")
    assert client.getresponse().status == 200
    client.close()
    assert admin.facts.commands == ["drain"]


def test_a_head_that_is_too_long_is_refused(admin: RunningAdmin) -> None:
    listener = admin.listen(bounds=Bounds(head_bytes=1000))
    answer = say(listener, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 2000)
    assert answer.startswith(b"HTTP/1.1 431 ")


def head_of(size: int) -> bytes:
    start = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: "
    return start + b"x" * (size - len(start) - 4) + b"\r\n\r\n"


@pytest.mark.parametrize("piece", [1, 999, 1000, 1001, 10_000])
@pytest.mark.parametrize(("size", "status"), [(1000, 200), (1001, 431), (5000, 431)])
def test_a_heads_size_alone_decides_however_it_was_cut(
    admin: RunningAdmin, size: int, status: int, piece: int
) -> None:
    """The end of a large one was often there already when its size was looked at."""
    head = head_of(size)
    with connected(admin.listen(bounds=Bounds(head_bytes=1000)).address) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, size, piece):
            client.sendall(head[at : at + piece])
        assert read_all(client).startswith(f"HTTP/1.1 {status} ".encode())


def test_a_pipeline_longer_than_a_head_may_be_is_answered_and_a_large_head_in_it_is_not(
    admin: RunningAdmin,
) -> None:
    listener = admin.listen(bounds=Bounds(head_bytes=1000))
    answers = say(listener, GET * 100 + head_of(1001))
    assert answers.count(b"HTTP/1.1 200 OK") == 100
    assert answers.count(b"HTTP/1.1 431 ") == 1


def test_a_head_that_drips_in_has_its_deadline(admin: RunningAdmin) -> None:
    listener = admin.listen(bounds=Bounds(request_s=0.2, linger_s=0.1))
    with connected(listener.address) as client:
        client.settimeout(0.02)
        received = b""

        def dripped() -> bool:
            nonlocal received
            with suppress(TimeoutError, ConnectionResetError):
                client.send(b"G")
                received += client.recv(65536)
            return b"\r\n\r\n" in received

        wait_until(dripped, "the refusal")
        assert received.startswith((b"HTTP/1.1 408 ", b"HTTP/1.1 400 "))


@pytest.mark.parametrize(
    "words",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"HELO there\r\n\r\n",
     b"GET / HTTP/1.1\r\n\r\n",
     b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
     b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"],
)  # fmt: skip
def test_what_is_no_http_is_refused(admin: RunningAdmin, words: bytes) -> None:
    assert say(admin.listen(), words).startswith(b"HTTP/1.1 400 ")


def test_a_slow_request_times_out_with_a_word(admin: RunningAdmin) -> None:
    listener = admin.listen(bounds=Bounds(request_s=0.1, linger_s=0.1))
    assert say(listener, b"GET / HT").startswith(b"HTTP/1.1 408 ")


def test_a_silent_client_is_cut(admin: RunningAdmin) -> None:
    with connected(admin.listen(bounds=Bounds(request_s=0.1)).address) as client:
        assert _until_cut(client) == b""


def test_an_idle_client_is_cut(admin: RunningAdmin) -> None:
    with connected(admin.listen(bounds=Bounds(idle_s=0.1)).address) as client:
        client.sendall(GET)
        assert _until_cut(client).endswith(b"alive\n")


def test_a_refused_client_that_keeps_sending_is_cut(admin: RunningAdmin) -> None:
    listener = admin.listen(bounds=Bounds(linger_s=0.1))
    with connected(listener.address) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n")
        assert read_all(client).startswith(b"HTTP/1.1 413 ")
        wait_until(lambda: _broken(client), "the server to let go")


def test_a_client_that_does_not_read_is_not_read_and_then_cut(admin: RunningAdmin) -> None:
    admin.facts.rows = tuple(connection_row(number) for number in range(1000))
    listener = admin.listen(bounds=Bounds(idle_s=0.5))
    asked = b"GET /connections HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connected(listener.address) as client:
        client.setblocking(False)
        sent = 0

        def refused() -> bool:
            nonlocal sent
            try:
                sent += client.send(asked * 100)
            except BlockingIOError:
                return False
            except OSError:
                return True
            return False

        wait_until(refused, "the server to cut a client that doesn't read")
    # what the kernel's buffers take, and no more: had we been read, it would go on for ever
    assert sent < 64 * 1024 * 1024


def test_a_slow_reader_gets_every_answer_of_its_pipeline(admin: RunningAdmin) -> None:
    admin.facts.rows = tuple(connection_row(number) for number in range(1000))
    asked = b"GET /connections HTTP/1.1\r\nHost: localhost\r\n\r\n"
    answers = say(admin.listen(), asked * 40 + GET.replace(b"1.1", b"1.0"))
    assert answers.count(b"HTTP/1.1 200 OK") == 41
    assert answers.endswith(b"alive\n")


def test_a_long_pipeline_holds_nobody_else_up(
    admin: RunningAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[str] = []

    def livez() -> tuple[str, ...]:
        if not turns:
            asyncio.get_running_loop().call_soon(turns.append, "somebody else")
        turns.append("answered")
        return ()

    monkeypatch.setattr(admin.facts, "liveness", livez)
    last = GET.replace(b"1.1", b"1.0")
    assert say(admin.listen(), GET * 100 + last).count(b"alive\n") == 101
    assert turns.count("answered") == 101
    assert turns.index("somebody else") <= 2


def test_the_client_silent_for_longest_makes_room(admin: RunningAdmin) -> None:
    listener = admin.listen(bounds=Bounds(clients=2))
    with connected(listener.address) as first, connected(listener.address) as second:
        for client in (second, first):  # now `second` is the one silent for longest
            client.sendall(GET)
            assert client.recv(65536).endswith(b"alive\n")
        with connected(listener.address) as third:
            third.sendall(GET)
            assert third.recv(65536).endswith(b"alive\n")
            assert _until_cut(second) == b""
            first.sendall(GET)
            assert first.recv(65536).endswith(b"alive\n")


def connected_from(listener: AdminListener, host: str) -> socket.socket:
    assert isinstance(listener.address, TcpAddress)
    return socket.create_connection(("127.0.0.1", listener.address.port), 10, (host, 0))


def test_a_source_that_has_its_share_makes_room_for_itself(admin: RunningAdmin) -> None:
    listener = admin.listen(bounds=Bounds(clients=8, clients_per_source=2))
    with connected_from(listener, "127.0.0.1") as probe, ExitStack() as crowd:
        probe.sendall(GET)
        assert probe.recv(65536).endswith(b"alive\n")
        many = [crowd.enter_context(connected_from(listener, "127.0.0.2")) for _ in range(20)]
        for client in many:
            client.sendall(b"G")
        for client in many[:-2]:
            assert _until_cut(client) == b""
        probe.sendall(GET)
        assert probe.recv(65536).endswith(b"alive\n")


def test_when_all_are_taken_the_source_with_most_makes_room(admin: RunningAdmin) -> None:
    listener = admin.listen(bounds=Bounds(clients=3, clients_per_source=3))
    with connected_from(listener, "127.0.0.1") as probe, ExitStack() as others:
        probe.sendall(GET)
        assert probe.recv(65536).endswith(b"alive\n")
        crowd = [others.enter_context(connected_from(listener, "127.0.0.2")) for _ in range(2)]
        for client in crowd:
            client.sendall(GET)
            assert client.recv(65536).endswith(b"alive\n")
        late = others.enter_context(connected_from(listener, "127.0.0.3"))
        late.sendall(GET)
        assert late.recv(65536).endswith(b"alive\n")
        assert _until_cut(crowd[0]) == b""
        probe.sendall(GET)
        assert probe.recv(65536).endswith(b"alive\n")


def test_who_says_nothing_takes_no_place_and_no_descriptor(admin: RunningAdmin) -> None:
    """The kernel keeps it; kubelets and balancers are answered beside any number of them."""
    listener = admin.listen(TcpAddress("127.0.0.1", 0), bounds=Bounds(clients=2))
    say(listener, GET.replace(b"1.1", b"1.0"))  # uvloop opens a descriptor of its own for the first
    before = len(os.listdir("/proc/self/fd"))
    with ExitStack() as silent:
        mine = [silent.enter_context(connected(listener.address)) for _ in range(20)]
        for _ in range(5):
            assert say(listener, GET.replace(b"1.1", b"1.0")).endswith(b"alive\n")
        wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before + len(mine), "no descriptor")
        mine[0].sendall(GET.replace(b"1.1", b"1.0"))
        assert read_all(mine[0]).endswith(b"alive\n")


def test_a_unix_socket_answers_and_its_file_goes(admin: RunningAdmin, tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    listener = admin.listen(UnixAddress(str(path)))
    answer = say(listener, b"POST /drain HTTP/1.0\r\nHost: whatever\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert admin.facts.commands == ["drain"]
    admin.call(listener.close())
    assert not path.exists()


def test_the_address_told_is_the_one_listened_on(admin: RunningAdmin) -> None:
    listener = admin.listen(TcpAddress("127.0.0.2", 0), Surface.READY)
    assert isinstance(listener.address, TcpAddress)
    assert listener.address.host == "127.0.0.2"
    assert say(listener, b"GET /readyz HTTP/1.0\r\n\r\n").endswith(b"ready\n")


def test_ipv6_is_a_loopback_too(admin: RunningAdmin) -> None:
    listener = admin.listen(TcpAddress("::1", 0))
    assert isinstance(listener.address, TcpAddress)
    with socket.create_connection(("::1", listener.address.port), 10) as client:
        client.sendall(
            f"POST /drain HTTP/1.0\r\nHost: [::1]:{listener.address.port}\r\n\r\n".encode()
        )
        assert read_all(client).startswith(b"HTTP/1.1 200 OK")


def test_a_dual_stack_listener_knows_its_ipv4_callers(admin: RunningAdmin) -> None:
    listener = admin.listen(TcpAddress("::", 0))
    assert isinstance(listener.address, TcpAddress)
    with connected(TcpAddress("127.0.0.1", listener.address.port)) as client:
        client.sendall(b"POST /drain HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
        assert read_all(client).startswith(b"HTTP/1.1 200 OK")


def test_closing_cuts_who_is_connected(admin: RunningAdmin) -> None:
    listener = admin.listen()
    with connected(listener.address) as client:
        client.sendall(GET)
        assert client.recv(65536).endswith(b"alive\n")
        admin.call(listener.close())
        assert _until_cut(client) == b""
        with pytest.raises(ConnectionRefusedError), connected(listener.address):
            pass


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), ImportError("no module")])
def test_what_cannot_be_loaded_for_an_answer_is_no_defect(
    admin: RunningAdmin, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    listener = admin.listen()

    def facts() -> FakeFacts:
        raise error

    monkeypatch.setattr(listener, "sources", Sources(admin.facts, facts))
    client = client_of(listener)
    client.request("GET", "/certs")
    response = client.getresponse()
    assert (response.status, b"not restarted" in response.read()) == (503, True)
    monkeypatch.undo()
    client.request("GET", "/certs")
    assert client.getresponse().status == 200
    client.close()


def test_a_defect_in_one_fact_is_told_and_leaves_the_others_alone(
    admin: RunningAdmin, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise KeyError("doors")

    monkeypatch.setattr(admin.facts, "doors", broken)
    client = client_of(admin.listen())
    client.request("GET", "/status.json")
    response = client.getresponse()
    assert (response.status, b"defect" in response.read()) == (500, True)
    client.request("GET", "/livez")
    assert client.getresponse().status == 200
    client.close()
    assert "no answer to GET /status.json" in caplog.text


def test_changes_of_state_are_logged_with_who_asked(
    admin: RunningAdmin, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "uproxy"):
        say(admin.listen(), b"POST /drain HTTP/1.0\r\nHost: localhost\r\n\r\n")
    assert "POST /drain from 127.0.0.1:" in caplog.text


def _until_cut(client: socket.socket) -> bytes:
    """What comes before the server cuts the connection."""
    received = b""
    try:
        while chunk := client.recv(65536):
            received += chunk
    except ConnectionResetError:
        pass
    return received


def _broken(client: socket.socket) -> bool:
    """Whether the other end is gone: sending to it fails."""
    try:
        client.send(b"more")
    except OSError:
        return True
    return False
