"""Draining under load: SIGTERM, a second one, SIGHUP meanwhile, /drain and /quitquitquit."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import traffic
from tests.helpers.background import background
from tests.helpers.dialogue import dial, talk
from tests.helpers.endings import ended
from tests.helpers.load import Load
from tests.helpers.pair import MTLS, TUNNELS_IN_TIME, Pair, Way, end_at_once
from uproxy.lab.ports import free_port, is_taken
from uproxy.lab.processes import Uproxy
from uproxy.lab.waiting import eventually, wait_until

SLACK = 0.5
"""Seconds that a connection may take from its client to the second uProxy's door on a busy
machine."""


@pytest.fixture(scope="module")
def echo() -> Iterator[int]:
    with background(traffic.echo) as port:
        yield port


@pytest.fixture(params=[MTLS, *TUNNELS_IN_TIME], ids=str)
def way(request: pytest.FixtureRequest) -> Way:
    found: Way = request.param
    return found


def pair_with(folder: Path, app: int, way: Way, **timeouts: str) -> Pair:
    pair = Pair(folder, {"app": app}, way)
    pair.orders_config["timeouts"] = timeouts
    return pair


def is_reset(client: socket.socket) -> bool:
    try:
        while client.recv(65536):
            pass
    except ConnectionResetError:
        return True
    return False


def by_sigterm(uproxy: Uproxy) -> None:
    uproxy.send(signal.SIGTERM)


def by_admin(uproxy: Uproxy) -> None:
    assert uproxy.request("/drain", "POST")[0] == 200


async def test_a_connection_that_ends_within_the_drain_time_loses_no_byte(
    tmp_path: Path, echo: int, way: Way
) -> None:
    with pair_with(tmp_path, echo, way, drain_delay="1500ms", drain="20s") as pair:
        async with Load(pair.port("app"), workers=6) as load:
            await eventually(lambda: load.successes > 20, "traffic")
            slow = asyncio.create_task(trickle(pair.port("app"), for_s=3.5))
            await eventually(lambda: _open(pair.orders) > 0, "the slow connection")
            told = time.monotonic()
            pair.orders.send(signal.SIGTERM)
            await eventually(lambda: pair.orders.status("/readyz") == 503, "not ready at once", 1)
            assert "draining" in pair.orders.request("/readyz")[1]
            assert await asyncio.to_thread(pair.orders.wait, 15) == 0
            await slow
        closed = told + 1.5
        early = [attempt for attempt in load.failures if attempt.begun < closed - SLACK]
        assert early == []
        assert any(told < each.begun < closed and not each.error for each in load.attempts)
        # refused, which a client can tell from an end
        assert all(isinstance(each.error, OSError) for each in load.failures)
        assert {line["outcome"] for line in pair.orders.accesses} == {"closed"}
        broken = [line for line in pair.frontend.accesses if line["outcome"] != "closed"]
        assert all(line["bytes_recv"] == 0 for line in broken)


async def test_the_clients_uproxy_serves_as_long_as_there_is_work(
    tmp_path: Path, echo: int, way: Way
) -> None:
    with pair_with(tmp_path, echo, way, drain_delay="0", drain="60s") as pair:
        async with Load(pair.port("app"), workers=4) as load:
            await eventually(lambda: load.successes > 20, "traffic")
            pair.frontend.send(signal.SIGTERM)
            await eventually(lambda: pair.frontend.status("/readyz") == 503, "the drain")
            draining_at = len(load.attempts)
            await eventually(lambda: len(load.attempts) > draining_at + 100, "more traffic", 30)
        assert await asyncio.to_thread(pair.frontend.wait, 15) == 0
        assert load.failures == []
        assert {line["outcome"] for line in pair.frontend.accesses} == {"closed"}
        assert len(pair.frontend.accesses) == len(load.attempts)


async def trickle(port: int, for_s: float) -> None:
    """A connection that says a word now and then, and ends in order."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    until = time.monotonic() + for_s
    number = 0
    while time.monotonic() < until:
        word = b"%08d" % (number := number + 1)
        writer.write(word)
        assert await reader.readexactly(8) == word
        await asyncio.sleep(0.05)
    writer.write_eof()
    assert await reader.read() == b""
    await traffic.close(writer)


def _open(uproxy: Uproxy) -> int:
    return int(json.loads(uproxy.request("/connections")[1])["total"])


def test_what_is_still_open_when_the_drain_time_is_over_is_cut(
    tmp_path: Path, echo: int, way: Way
) -> None:
    with pair_with(tmp_path, echo, way, drain_delay="0", drain="2s") as pair:
        with dial(pair.port("app")) as client:
            talk(client)
            with ended(pair.frontend, "reset"):
                told = time.monotonic()
                pair.orders.send(signal.SIGTERM)
                wait_until(lambda: not is_taken(pair.doors["app"]), "the door to close")
                talk(client, b"still here")
                assert is_reset(client)
                assert time.monotonic() - told >= 2
                assert pair.orders.wait() == 0
        (line,) = pair.orders.accesses
        assert line["outcome"] == "drained"
        assert (line["bytes_sent"], line["bytes_recv"]) == (15, 15)


def test_a_second_sigterm_does_not_wait(tmp_path: Path, echo: int, way: Way) -> None:
    with pair_with(tmp_path, echo, way, drain_delay="0", drain="100s") as pair:
        with dial(pair.port("app")) as client:
            talk(client)
            pair.orders.send(signal.SIGTERM)
            wait_until(lambda: pair.orders.status("/readyz") == 503, "the drain")
            talk(client)
            pair.orders.send(signal.SIGTERM)
            assert pair.orders.wait(5) == 0
            assert is_reset(client)
        assert [line["outcome"] for line in pair.orders.accesses] == ["drained"]


def test_however_often_it_is_told_to_end_it_ends_with_0(
    tmp_path: Path, echo: int, way: Way
) -> None:
    with pair_with(tmp_path, echo, way, drain_delay="0", drain="100s") as pair:
        while pair.orders.running:
            pair.orders.send(signal.SIGTERM)
            pair.orders.send(signal.SIGHUP)
            # in small steps up to its very last moment
            time.sleep(0.001)
        assert pair.orders.wait() == 0


@pytest.mark.parametrize("begin", [by_sigterm, by_admin])
def test_sighup_while_draining_neither_reloads_nor_ends_it(
    tmp_path: Path, echo: int, way: Way, begin: Callable[[Uproxy], None]
) -> None:
    with pair_with(tmp_path, echo, way, drain_delay="0", drain="100s") as pair:
        with dial(pair.port("app")) as client:
            talk(client)
            begin(pair.orders)
            wait_until(lambda: pair.orders.status("/readyz") == 503, "the drain")
            before = pair.orders.request("/config_dump")[1]
            pair.orders.write_config({**pair.orders_config, "on_policy_change": "keep"})
            pair.orders.send(signal.SIGHUP)
            talk(client)
            assert pair.orders.request("/config_dump")[1] == before
            client.shutdown(socket.SHUT_WR)
            assert client.recv(10) == b""
        assert end_at_once(pair.orders) == 0
        assert [line["outcome"] for line in pair.orders.accesses] == ["closed"]


def test_drain_by_admin_does_not_exit_and_quitquitquit_does(
    tmp_path: Path, echo: int, way: Way
) -> None:
    with pair_with(tmp_path, echo, way, drain_delay="0", drain="100s") as pair:
        orders = pair.orders
        with dial(pair.port("app")) as client:
            talk(client)
            assert orders.request("/drain", "POST")[0] == 200
            wait_until(lambda: not is_taken(pair.doors["app"]), "the door to close")
            status, words = orders.request("/readyz")
            assert (status, words.splitlines()[0]) == (503, "draining")
            talk(client)
        wait_until(lambda: any("drained" in str(line) for line in orders.lines), "the drain's end")
        assert orders.running
        assert orders.request("/readyz")[0] == 503
        assert orders.request("/livez")[0] == 200
        assert orders.request("/quitquitquit", "POST")[0] == 200
        assert orders.wait() == 0


def test_quitquitquit_drains_first(tmp_path: Path, echo: int, way: Way) -> None:
    with pair_with(tmp_path, echo, way, drain_delay="0", drain="100s") as pair:
        with dial(pair.port("app")) as client:
            talk(client)
            assert pair.orders.request("/quitquitquit", "POST")[0] == 200
            wait_until(lambda: pair.orders.status("/readyz") == 503, "the drain")
            talk(client)
            client.shutdown(socket.SHUT_WR)
            assert client.recv(10) == b""
        assert pair.orders.wait() == 0


def test_outbound_serves_until_it_has_been_quiet_after_inbound_ended(
    tmp_path: Path, echo: int, way: Way
) -> None:
    pair = pair_with(tmp_path, echo, way, drain_delay="0", drain="60s")
    out = free_port()
    # the workload's own way to its database, say
    pair.orders_config |= _plain_way(out, echo)
    with pair:
        with dial(pair.port("app")) as client:
            talk(client)
            pair.orders.send(signal.SIGTERM)
            wait_until(lambda: not is_taken(pair.doors["app"]), "the inbound door to close")
            with dial(out) as own:
                talk(own)
        # a shutdown hook that comes back every second finds its door open
        last = time.monotonic()
        for _ in range(4):
            wait_until(lambda: time.monotonic() > last + 1, "a second to pass")  # noqa: B023
            last = time.monotonic()
            with dial(out) as own:
                talk(own)
        assert pair.orders.wait(15) == 0
        assert time.monotonic() - last >= 2
        outcomes = {line["outcome"] for line in pair.orders.accesses}
        assert outcomes == {"closed"}


def _plain_way(port: int, to: int) -> dict[str, Any]:
    return {
        "outbound": [{"listen": f"127.0.0.1:{port}", "to": "plain"}],
        "destinations": {"plain": {"addresses": [f"127.0.0.1:{to}"], "transport": "plaintext"}},
    }
