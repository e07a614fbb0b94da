"""Two running uProxies with tunnels between them: many streams, small writes, reloads, limits."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest

from tests.helpers import crowds, traffic
from tests.helpers.apps import Redis
from tests.helpers.background import background
from tests.helpers.crowds import Crowd
from tests.helpers.dialogue import ask, dial, talk
from tests.helpers.endings import ended, handshakes, metric, only
from uproxy.lab.mesh import (
    ORDERS,
    UNWANTED,
    WEB,
    FileWorld,
    TunnelsIn,
    TunnelsOut,
    allowing,
)
from uproxy.lab.ports import free_port
from uproxy.lab.waiting import wait_until

MIB = 1 << 20
PER_TUNNEL = 100
"""Streams that a uProxy opens on a tunnel by default."""
IDLE = 9_500
"""As many connections as a uProxy allows itself with 20,000 descriptors, and a few less."""


@pytest.fixture(scope="module")
def outbound(
    folder: Path, file_world: FileWorld, door: TunnelsIn, echo_app: int, engine: str
) -> Iterator[TunnelsOut]:
    with TunnelsOut(folder, file_world.ours(WEB), echo_app, end=door.port, engine=engine) as uproxy:
        uproxy.wait_until_ready()
        yield uproxy


def other_door(near: TunnelsOut, app: int) -> int:
    """Give a uProxy that isn't started a second door, to another application at the same far
    end; return its port."""
    port = free_port()
    peer = {**deepcopy(near.config["destinations"]["peer"]), "addresses": [f"127.0.0.1:{app}"]}
    near.config["destinations"]["other"] = peer
    near.config["outbound"].append({"listen": f"127.0.0.1:{port}", "to": "other"})
    near.write_config(near.config)
    return port


def tunnels(uproxy: TunnelsIn | TunnelsOut) -> float:
    return metric(uproxy, "uproxy_hbone_connections")


def streams(uproxy: TunnelsIn | TunnelsOut) -> float:
    return metric(uproxy, "uproxy_hbone_streams")


def test_bytes_arrive_and_both_logs_name_both_workloads(
    door: TunnelsIn, outbound: TunnelsOut, echo_app: int
) -> None:
    with ended(door, "closed") as theirs, ended(outbound, "closed") as ours:
        asyncio.run(traffic.exchange(outbound.port, 4 * MIB + 1))
    for line in (only(theirs), only(ours)):
        assert (line["src.identity"], line["dst.identity"]) == (WEB, ORDERS)
        assert (line["bytes_recv"], line["bytes_sent"]) == (4 * MIB + 1, 4 * MIB + 1)
        assert line["dst.addr"] == f"127.0.0.1:{door.port}"
        assert line["dst.hbone_addr"] == f"127.0.0.1:{echo_app}"


def test_a_hundred_short_connections_cost_no_handshake(
    door: TunnelsIn, outbound: TunnelsOut
) -> None:
    assert ask(outbound.port) == b"hello\n"
    before = handshakes(door), handshakes(outbound)
    for _ in range(100):
        assert ask(outbound.port) == b"hello\n"
    assert (handshakes(door), handshakes(outbound)) == before


def test_1000_streams_at_once_share_few_tunnels(door: TunnelsIn, outbound: TunnelsOut) -> None:
    assert asyncio.run(crowds.gather(outbound.port, 1000)) == Crowd(1000, 0)
    assert tunnels(outbound) == tunnels(door) <= 1000 / PER_TUNNEL + 1
    for uproxy in (door, outbound):
        wait_until(lambda: streams(uproxy) == 0, "all streams to end")  # noqa: B023  called at once


@pytest.mark.slow
def test_9500_idle_streams_are_kept_and_still_talk(
    folder: Path, file_world: FileWorld, engine: str
) -> None:
    crowds.raise_descriptor_limit()
    with (
        Redis(folder) as redis,
        TunnelsIn(folder, file_world.ours(ORDERS), redis.port, engine=engine) as far,
        TunnelsOut(folder, file_world.ours(WEB), redis.port, end=far.port, engine=engine) as near,
        contextlib.ExitStack() as stack,
    ):
        Redis.cli("config", "set", "maxclients", "12000", port=redis.port)
        far.wait_until_ready()
        near.wait_until_ready()
        clients = []
        for _ in range(IDLE):
            clients.append(stack.enter_context(dial(near.port)))
            ping(clients[-1])
        wait_until(lambda: streams(near) == streams(far) == IDLE, "all to be counted")
        assert tunnels(near) == tunnels(far) == IDLE / PER_TUNNEL
        for client in clients[::50]:
            ping(client)


def ping(client: socket.socket) -> None:
    client.sendall(b"PING\r\n")
    assert client.recv(7, socket.MSG_WAITALL) == b"+PONG\r\n"


def test_20000_writes_of_one_byte_come_back(door: TunnelsIn, outbound: TunnelsOut) -> None:
    count = 20_000
    sent = bytes(number % 251 for number in range(count))
    with ended(door, "closed") as lines, dial(outbound.port) as client:
        client.settimeout(None)  # with a time limit Python would wait for each byte to come back
        back = bytearray()
        for at in range(count):
            client.send(sent[at : at + 1])
            with contextlib.suppress(BlockingIOError):
                back += client.recv(4096, socket.MSG_DONTWAIT)
        client.shutdown(socket.SHUT_WR)
        while more := client.recv(4096):
            back += more
    assert back == sent
    assert only(lines)["bytes_recv"] == count


@pytest.mark.parametrize("first", ["the caller", "the application"])
def test_either_may_half_close_first(
    folder: Path, file_world: FileWorld, engine: str, first: str
) -> None:
    """And what comes the other way afterwards arrives."""
    caller_first = first == "the caller"
    handler = traffic.answer_digest if caller_first else traffic.send_content(MIB + 7)
    with (
        background(handler) as app,
        TunnelsIn(folder, file_world.ours(ORDERS), app, engine=engine) as far,
        TunnelsOut(folder, file_world.ours(WEB), app, end=far.port, engine=engine) as near,
    ):
        far.wait_until_ready()
        near.wait_until_ready()
        with ended(far, "closed") as theirs, ended(near, "closed"):
            if caller_first:
                asyncio.run(traffic.deliver(near.port, MIB + 7))
            else:
                asyncio.run(hear_and_say(near.port, MIB + 7))
        assert only(theirs)["bytes_recv" if caller_first else "bytes_sent"] == MIB + 7


async def hear_and_say(port: int, size: int) -> None:
    """Read to the end, then send: the other direction is still open."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    assert await traffic.receive(reader) == (size, traffic.digest_of(size))
    writer.write(bytes(100_000))
    await writer.drain()
    await traffic.close(writer)


def test_a_stream_that_nobody_reads_stops_only_itself(
    folder: Path, file_world: FileWorld, echo_app: int, engine: str
) -> None:
    with (
        background(traffic.never_read) as deaf,
        TunnelsIn(folder, file_world.ours(ORDERS), echo_app, deaf, engine=engine) as far,
    ):
        far.wait_until_ready()
        near = TunnelsOut(folder, file_world.ours(WEB), deaf, end=far.port, engine=engine)
        echo = other_door(near, echo_app)
        with near:
            near.wait_until_ready()
            with dial(near.port) as stalled:
                assert traffic.fill(stalled) < 64 * MIB
                asyncio.run(traffic.exchange(echo, 4 * MIB))
                assert (tunnels(near), streams(near)) == (1, 1)


def test_new_rules_end_exactly_the_streams_that_they_no_longer_allow(
    folder: Path, file_world: FileWorld, engine: str
) -> None:
    with (
        background(traffic.echo) as one,
        background(traffic.echo) as two,
        TunnelsIn(
            folder, file_world.ours(ORDERS), one, two, engine=engine, allow=[WEB, UNWANTED]
        ) as far,
        contextlib.ExitStack() as stack,
    ):
        far.wait_until_ready()
        clients = {}
        for caller in (WEB, UNWANTED):
            near = TunnelsOut(folder, file_world.ours(caller), one, end=far.port, engine=engine)
            other = other_door(near, two)
            stack.enter_context(near)
            near.wait_until_ready()
            clients[caller, one] = stack.enter_context(dial(near.port))
            clients[caller, two] = stack.enter_context(dial(other))
            for app in (one, two):
                talk(clients[caller, app])
        before = handshakes(far)
        assert (tunnels(far), streams(far)) == (2, 4)
        with ended(far, "policy_changed", rule="callers", opened=True, count=2) as lines:
            only_one = {**allowing(WEB, UNWANTED), "to": {"ports": [one]}}
            far.change(authorization=[only_one])
        assert {line["src.identity"] for line in lines} == {WEB, UNWANTED}
        assert {line["dst.hbone_addr"] for line in lines} == {f"127.0.0.1:{two}"}
        for (_caller, app), client in clients.items():
            if app == one:
                talk(client, b"still here")
            else:
                with pytest.raises(ConnectionResetError):
                    client.recv(100)
        with ended(far, "policy_changed", rule="callers", opened=True) as lines:
            far.change(authorization=[{**allowing(WEB), "to": {"ports": [one]}}])
        assert only(lines)["src.identity"] == UNWANTED
        talk(clients[WEB, one], b"still here")
        assert (tunnels(far), streams(far), handshakes(far)) == (2, 1, before)
