"""`kill -9` in the middle of traffic: of the application, of either uProxy, of the authority.

The other side must see a reset, never an orderly end: it would take half an answer for a whole
one.  Whoever is left lives on, and the next connection works as soon as the dead one is back.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers import traffic
from tests.helpers.apps import Nginx, download, write_file
from tests.helpers.background import background
from tests.helpers.dialogue import dial
from tests.helpers.endings import ended, metric
from tests.helpers.pair import FRONTEND, ORDERS, TUNNELS, Pair
from uproxy.lab.authorities import DevAuthority, entry
from uproxy.lab.processes import Process, Uproxy
from uproxy.lab.waiting import wait_until

MIB = 1 << 20


@pytest.fixture
def pair(tmp_path: Path, nginx: Nginx) -> Iterator[Pair]:
    with Pair(tmp_path, {"files": nginx.port}) as pair:
        yield pair


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Nginx]:
    with Nginx(tmp_path) as nginx:
        write_file(nginx.www / "large", 128 * MIB)
        write_file(nginx.www / "small", 10_000)
        yield nginx
        for path in nginx.www.iterdir():
            path.unlink()


def kill(process: Process) -> None:
    assert process.stop(signal.SIGKILL) == -signal.SIGKILL


def begin_download(port: int) -> socket.socket:
    """A download of which a part has come."""
    client = dial(port)
    client.sendall(b"GET /large HTTP/1.1\r\nHost: files\r\n\r\n")
    assert client.recv(MIB, socket.MSG_WAITALL).startswith(b"HTTP/1.1 200 ")
    return client


def begin_upload(port: int) -> socket.socket:
    """An upload of which a part is on its way."""
    client = dial(port)
    client.sendall(b"PUT /up HTTP/1.1\r\nHost: files\r\nContent-Length: 99999999999\r\n\r\n")
    client.sendall(bytes(4 * MIB))
    return client


def opened(uproxy: Uproxy) -> float:
    """Connections so far."""
    return metric(uproxy, "istio_tcp_connections_opened_total")


def hear_out(client: socket.socket) -> None:
    while client.recv(MIB):
        pass


def come_in_vain(port: int) -> None:
    # a reset may come before the connection is known to be made
    with dial(port) as client:
        hear_out(client)


def talk_on(client: socket.socket) -> None:
    while True:
        client.sendall(bytes(MIB))


@pytest.fixture
def tunnelled(tmp_path: Path, nginx: Nginx) -> Iterator[Pair]:
    with Pair(tmp_path, {"files": nginx.port}, TUNNELS[0]) as pair:
        yield pair


def test_a_killed_application_is_told_of_where_tunnels_lead_to_it(
    tunnelled: Pair, nginx: Nginx
) -> None:
    port, orders = tunnelled.port("files"), tunnelled.orders

    def wrong() -> str:
        words: str = json.loads(orders.request("/status.json")[1])["headline"]["words"]
        return words

    assert download(f"http://127.0.0.1:{port}/small")[0] == 10_000
    assert wrong() == "nothing is wrong, certificate fine"
    kill(nginx)
    with (
        ended(tunnelled.frontend, "connect_failed"),
        ended(orders, "connect_failed", rule="web"),
        pytest.raises(ConnectionResetError),
    ):
        come_in_vain(port)
    assert wrong() == "1 application down, certificate fine"
    nginx.start()
    assert download(f"http://127.0.0.1:{port}/small")[0] == 10_000
    wait_until(lambda: wrong() == "nothing is wrong, certificate fine", "it to be told of as well")


def test_a_killed_application_resets_whoever_talks_to_it(pair: Pair, nginx: Nginx) -> None:
    port = pair.port("files")
    before = opened(pair.orders)
    with (
        ended(pair.frontend, "peer_refused"),
        ended(pair.orders, "reset"),
        begin_upload(port) as client,
    ):
        wait_until(lambda: opened(pair.orders) > before, "it to be open")
        kill(nginx)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            talk_on(client)
    with (
        ended(pair.frontend, "peer_refused"),
        ended(pair.orders, "connect_failed", rule="web") as lines,
        pytest.raises(ConnectionResetError),
    ):
        come_in_vain(port)
    assert "connection refused" in lines[0]["error"]
    status = json.loads(pair.orders.request("/status.json")[1])
    [down] = [door["trouble"] for door in status["doors"] if door["trouble"]]
    assert "connection refused" in down
    assert [row["outcome"] for row in status["denials"]] == ["connect_failed"]
    nginx.start()
    assert download(f"http://127.0.0.1:{port}/small")[0] == 10_000


@pytest.mark.parametrize(
    ("begin", "go_on", "outcome"),
    [(begin_download, hear_out, "reset"), (begin_upload, talk_on, "peer_refused")],
)
def test_a_killed_uproxy_of_the_application_resets_the_client(
    pair: Pair,
    begin: Callable[[int], socket.socket],
    go_on: Callable[[socket.socket], None],
    outcome: str,
) -> None:
    """To which it looks like a refusal if it hadn't answered yet."""
    port = pair.port("files")
    before = opened(pair.frontend)
    with ended(pair.frontend, outcome) as lines, begin(port) as client:
        wait_until(lambda: opened(pair.frontend) > before, "it to be open")
        kill(pair.orders)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            go_on(client)
    assert lines[0]["dst.identity"] == ORDERS
    with ended(pair.frontend, "connect_failed"), pytest.raises(ConnectionResetError):
        come_in_vain(port)
    pair.orders.start()
    pair.orders.wait_until_ready()
    assert download(f"http://127.0.0.1:{port}/small")[0] == 10_000


async def test_a_killed_uproxy_of_the_client_resets_the_application(tmp_path: Path) -> None:
    ends: list[BaseException | None] = []
    received = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        try:
            while data := await reader.read(MIB):
                received += len(data)
        except ConnectionResetError as error:
            ends.append(error)
        else:
            ends.append(None)

    with background(handle) as app, Pair(tmp_path, {"app": app}) as pair:
        with ended(pair.orders, "reset") as lines, dial(pair.port("app")) as client:
            client.sendall(bytes(3 * MIB))
            wait_until(lambda: received == 3 * MIB, "all that was sent to arrive")
            kill(pair.frontend)
            wait_until(lambda: ends, "the application to see the end")
        assert isinstance(ends[0], ConnectionResetError)
        assert lines[0]["src.identity"] == FRONTEND
        assert lines[0]["bytes_recv"] == 3 * MIB
        pair.frontend.start()
        pair.frontend.wait_until_ready()
        with ended(pair.orders, "closed"), dial(pair.port("app")) as client:
            client.sendall(b"here again")
            client.shutdown(socket.SHUT_WR)
            hear_out(client)


def test_a_killed_authority_stops_nothing_and_its_heir_is_found(tmp_path: Path) -> None:
    domains = {"example.org": {"entries": [entry(FRONTEND), entry(ORDERS)]}}
    with (
        DevAuthority(tmp_path, domains) as authority,
        background(traffic.echo) as app,
    ):
        pair = Pair(tmp_path, {"app": app})
        agent = authority.endpoints["example.org"]
        pair.orders_config["identity"] = {"workload_api": agent, "spiffe_id": ORDERS}
        pair.frontend_config["identity"] = {"workload_api": agent, "spiffe_id": FRONTEND}
        with pair, dial(pair.port("app")) as old:
            say_and_hear(old)
            kill(authority)
            say_and_hear(old)
            with dial(pair.port("app")) as fresh:
                say_and_hear(fresh)
            both = (pair.frontend, pair.orders)
            wait_until(lambda: all(each.accesses for each in both), "the fresh one's lines")
            wait_until(lambda: not any(map(hears_agent, both)), "both streams to end")
            assert [uproxy.status("/readyz") for uproxy in both] == [200, 200]
            # the heir has keys of its own, so what the dead one has signed is believed no more
            seen = {uproxy: len(uproxy.accesses) for uproxy in both}
            authority.start()
            with pytest.raises(ConnectionResetError):
                hear_out(old)
            wait_until(lambda: all(len(each.accesses) > seen[each] for each in both), "two lines")
            outcomes = {uproxy.accesses[seen[uproxy]]["outcome"] for uproxy in both}
            # who hears of it first cuts, and resets the other
            assert "identity_distrusted" in outcomes
            assert outcomes <= {"identity_distrusted", "reset"}
            wait_until(lambda: roots(pair.frontend) == roots(pair.orders), "both to follow", 40)
            with dial(pair.port("app")) as fresh:
                say_and_hear(fresh)


_words = itertools.count()


def say_and_hear(client: socket.socket) -> None:
    """Something new to an echo, and back."""
    word = b"word %6d" % next(_words)
    client.sendall(word)
    assert client.recv(len(word), socket.MSG_WAITALL) == word


def hears_agent(uproxy: Uproxy) -> bool:
    return metric(uproxy, "uproxy_workload_api_stream_state", state="streaming") == 1


def roots(uproxy: Uproxy) -> list[str]:
    """The serials of what it believes."""
    domains = json.loads(uproxy.request("/certs")[1])["trust_domains"]
    return [root["serial"] for domain in domains for root in domain["roots"]]
