"""Thousands who begin a handshake and never go on: they cost little, and only until their
deadline, and whoever means it is served meanwhile.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from OpenSSL import SSL

from tests.helpers import traffic
from tests.helpers.endings import metric
from uproxy.lab.memory import private_dirty
from uproxy.lab.mesh import ORDERS, WEB, FileWorld, Inbound, Outbound
from uproxy.lab.processes import Uproxy
from uproxy.lab.waiting import wait_until

CROWD = 5_000
DEADLINE = 12.0
"""Seconds; enough for all of them to come before the first one's is over."""
MOST_MEMORY = 32 * 1024
"""Bytes for each."""


def whole_hello() -> bytes:
    client = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD))
    client.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        client.do_handshake()
    return client.bio_read(1 << 16)


def half_a_hello() -> bytes:
    hello = whole_hello()
    return hello[: len(hello) // 2]


def long_hello(size: int) -> bytes:
    """The beginning of the longest that a header can announce, in whole records but the last."""
    body = b"\x01\xff\xff\xff".ljust(size, b"\0")
    parts = [body[at : at + 16_000] for at in range(0, size, 16_000)]
    return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in parts)


@contextmanager
def crowd(port: int, says: bytes, size: int = CROWD) -> Iterator[list[socket.socket]]:
    """Connections that say this, and nothing more."""
    callers: list[socket.socket] = []
    try:
        for _ in range(size):
            callers.append(socket.create_connection(("127.0.0.1", port), timeout=10))
            callers[-1].sendall(says)
        yield callers
    finally:
        for caller in callers:
            caller.close()


def descriptors(uproxy: Uproxy) -> int:
    return int(metric(uproxy, "process_open_fds"))


def timed_out(uproxy: Uproxy) -> int:
    return int(metric(uproxy, "uproxy_handshake_failures_total", reason="timed_out"))


def is_cut(caller: socket.socket) -> bool:
    try:
        return caller.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.fixture(scope="module", params=["native", pytest.param("python", marks=pytest.mark.slow)])
def pair(
    request: pytest.FixtureRequest, folder: Path, file_world: FileWorld, echo_app: int
) -> Iterator[tuple[Inbound, Outbound]]:
    """A uProxy to be besieged, and a friend's."""
    engine, patience = request.param, {"handshake": f"{DEADLINE}s"}
    ours, theirs = file_world.ours(ORDERS), file_world.ours(WEB)
    with Inbound(folder, ours, echo_app, engine=engine, timeouts=patience) as besieged:
        besieged.wait_until_ready()
        with Outbound(folder, theirs, besieged.port, engine=engine) as friend:
            friend.wait_until_ready()
            yield besieged, friend


@pytest.mark.privileged
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may see what memory a uProxy has")
async def test_who_is_refused_costs_next_to_nothing_while_it_may_read_why(
    pair: tuple[Inbound, Outbound], request: pytest.FixtureRequest
) -> None:
    """First of all, while no memory that others had can be taken again.  The Python engine keeps
    their sessions until they are gone."""
    besieged, friend = pair
    most = MOST_MEMORY * (2 if request.node.callspec.params["pair"] == "python" else 0.25)
    await traffic.exchange(friend.port, 100_000)
    memory = private_dirty(besieged.pid)
    with crowd(besieged.port, b"GET / HTTP/1.1\r\n\r\n"):
        await traffic.exchange(friend.port, 100_000)
        grown = private_dirty(besieged.pid) - memory
        assert grown / CROWD <= most


@pytest.mark.privileged
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may see what memory a uProxy has")
@pytest.mark.parametrize("says", [half_a_hello(), b""], ids=["half a hello", "nothing"])
async def test_a_crowd_costs_a_descriptor_and_little_memory_each_until_its_deadline(
    pair: tuple[Inbound, Outbound], says: bytes
) -> None:
    besieged, friend = pair
    await traffic.exchange(friend.port, 100_000)
    memory, open_before, gone = (
        private_dirty(besieged.pid),
        descriptors(besieged),
        timed_out(besieged),
    )
    with crowd(besieged.port, says) as callers:
        wait_until(lambda: descriptors(besieged) >= open_before + CROWD, "all to be in")
        grown = private_dirty(besieged.pid) - memory
        assert timed_out(besieged) == gone, "somebody was sent away early: is the machine slow?"
        assert descriptors(besieged) < open_before + CROWD + 20
        assert grown / CROWD <= MOST_MEMORY
        for seed in range(10):
            await traffic.exchange(friend.port, 100_000, seed=seed)
        assert descriptors(besieged) >= open_before + CROWD
        wait_until(lambda: timed_out(besieged) == gone + CROWD, "their deadline", 3 * DEADLINE)
        assert all(map(is_cut, callers))
    wait_until(lambda: descriptors(besieged) <= open_before + 4, "their descriptors")
    await traffic.exchange(friend.port, 100_000)
    assert metric(besieged, "istio_tcp_connections_failed_total", response_flags="DURATION") == (
        timed_out(besieged)
    )
    lines = [line for line in besieged.accesses if line.get("outcome") == "timed_out"]
    assert 1 <= len(lines) < CROWD / 10  # told now and then, not five thousand times
    assert all(int(line["duration"].removesuffix("ms")) >= 1000 * DEADLINE for line in lines)


@pytest.mark.privileged
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may see what memory a uProxy has")
async def test_a_hello_costs_no_more_memory_for_being_endless(
    pair: tuple[Inbound, Outbound], request: pytest.FixtureRequest
) -> None:
    """Either its maker waits for the deadline and costs as little, or is told off before.  The
    Python engine keeps its bytes twice."""
    besieged, friend = pair
    most = MOST_MEMORY * (2 if request.node.callspec.params["pair"] == "python" else 1)
    await traffic.exchange(friend.port, 100_000)
    memory = private_dirty(besieged.pid)
    for size in (27_000, 60_000):
        with crowd(besieged.port, long_hello(size)):
            await traffic.exchange(friend.port, 100_000)
            grown = private_dirty(besieged.pid) - memory
            assert grown / CROWD <= most, size


async def test_who_stalls_after_a_whole_hello_takes_nobodys_slot(
    pair: tuple[Inbound, Outbound],
) -> None:
    """More of them than there may be handshakes in flight (512)."""
    besieged, friend = pair

    def evicted() -> int:
        counted = metric(besieged, "uproxy_limit_refusals_total", limit="handshakes_in_flight")
        return int(counted)

    before = evicted()
    with crowd(besieged.port, whole_hello(), 600):
        wait_until(lambda: evicted() >= before + 600 - 512, "all slots to be in use")
        for seed in range(30):
            await traffic.exchange(friend.port, 10_000, seed=seed)
