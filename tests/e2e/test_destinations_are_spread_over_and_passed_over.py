"""Where a frontend's connections go: spread over addresses, past dead ones, to every record of a
name; and what its limits refuse.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import traffic
from tests.helpers.background import background
from tests.helpers.dialogue import dial
from tests.helpers.endings import ended, metric
from tests.helpers.pair import Config, Pair, destination, inbound
from uproxy.lab.ports import free_port
from uproxy.lab.processes import Uproxy
from uproxy.lab.waiting import wait_until

NAMES = ("a", "b", "c")


def naming(name: str) -> traffic.Handler:
    """An application that says who it is, then echoes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(name.encode())
        await traffic.echo(reader, writer)

    return handle


@pytest.fixture(scope="module")
def apps() -> Iterator[dict[str, int]]:
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(background(naming(name))) for name in NAMES}


@pytest.fixture
def pair(tmp_path: Path, apps: dict[str, int]) -> Iterator[Pair]:
    """Besides a door per application, one of the frontend's for `all`, changed with `point`."""
    pair = Pair(tmp_path, {**apps, "all": apps["a"]})
    with pair:
        yield pair


def point(pair: Pair, *addresses: str | int, **more: Any) -> None:
    """Let `all` lead there."""
    pair.frontend_config["destinations"]["all"] = destination(*addresses)
    pair.frontend_config |= more
    reload(pair.frontend, pair.frontend_config)


def reload(uproxy: Uproxy, config: Config) -> None:
    before = metric(uproxy, "uproxy_config_reloads_total", result="applied")
    uproxy.write_config(config)
    uproxy.send(signal.SIGHUP)
    wait_until(
        lambda: metric(uproxy, "uproxy_config_reloads_total", result="applied") > before,
        "the reload",
    )


def named(client: socket.socket) -> str:
    """Who answers."""
    return client.recv(1).decode()


def once(port: int) -> str:
    """Who answers a connection that then ends in order."""
    with dial(port) as client:
        name = named(client)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
        return name


def is_refused(client: socket.socket) -> bool:
    try:
        client.recv(1)
    except ConnectionResetError:
        return True
    return False


def is_refused_at(port: int) -> bool:
    try:
        with dial(port) as client:
            return is_refused(client)
    except ConnectionResetError:
        # before the connection was known to be made
        return True


def endpoints(uproxy: Uproxy) -> dict[str, dict[str, Any]]:
    """What /status.json tells of each address of `all`."""
    rows = json.loads(uproxy.request("/status.json")[1])["destinations"]
    (row,) = (row for row in rows if row["name"] == "all")
    return {endpoint["address"]: endpoint for endpoint in row["endpoints"]}


def test_connections_go_where_fewest_are(pair: Pair) -> None:
    point(pair, *(pair.doors[name] for name in NAMES))
    port = pair.port("all")
    with contextlib.ExitStack() as stack:
        clients: dict[str, list[socket.socket]] = {name: [] for name in NAMES}
        for _ in range(9):
            client = stack.enter_context(dial(port))
            clients[named(client)].append(client)
        assert {name: len(found) for name, found in clients.items()} == dict.fromkeys(NAMES, 3)
        door = f"127.0.0.1:{pair.doors['b']}"
        for client in clients["b"]:
            client.close()
        wait_until(lambda: endpoints(pair.frontend)[door]["connections"] == 0, "three to end")
        again = Counter(named(stack.enter_context(dial(port))) for _ in range(3))
        assert again == {"b": 3}


def test_a_dead_address_is_passed_over_and_nobody_notices(pair: Pair) -> None:
    dead = free_port()
    point(pair, dead, pair.doors["b"])
    with ended(pair.frontend, "closed", count=20):
        assert [once(pair.port("all")) for _ in range(20)] == ["b"] * 20
    row = endpoints(pair.frontend)[f"127.0.0.1:{dead}"]
    assert row["passed_over"] is True
    assert row["connections"] == 0


@pytest.mark.parametrize("how", ["silent at once", "another identity"])
def test_the_next_address_is_tried_when_a_handshake_fails(pair: Pair, how: str) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)

    with background(hang_up) as stranger:
        other = stranger
        if how == "another identity":
            # a uProxy of our trust domain, but not the one we want there: the frontend's own
            other = free_port()
            pair.frontend_config["inbound"] = [inbound("own", other, 1)]
        point(pair, other, pair.doors["c"])
        assert [once(pair.port("all")) for _ in range(6)] == ["c"] * 6
    reason = "peer_unexpected" if how == "another identity" else "handshake_failed"
    assert metric(pair.frontend, "uproxy_handshake_failures_total", reason=reason) >= 1


def test_an_address_that_is_alive_again_is_used_again(pair: Pair, apps: dict[str, int]) -> None:
    late = free_port()
    point(pair, late, pair.doors["a"])
    assert {once(pair.port("all")) for _ in range(4)} == {"a"}
    pair.orders_config["inbound"].append(inbound("late", late, apps["b"]))
    reload(pair.orders, pair.orders_config)
    wait_until(lambda: once(pair.port("all")) == "b", "the late one to be tried", timeout=20)


def test_without_a_living_address_the_client_is_reset(pair: Pair) -> None:
    point(pair, free_port(), free_port())
    with ended(pair.frontend, "connect_failed") as lines:
        assert is_refused_at(pair.port("all"))
    assert "is the proxy of all running?" in lines[0]["error"]
    # one that everybody passes over is still tried when there is no other
    assert metric(pair.frontend, "uproxy_connections", direction="outbound") == 0


@pytest.mark.privileged
@pytest.mark.skipif(os.geteuid() != 0, reason="to give a process its own /etc/hosts needs root")
def test_every_record_of_a_name_is_an_endpoint(tmp_path: Path, apps: dict[str, int]) -> None:
    pair = Pair(tmp_path, {"all": apps["a"]})
    door = pair.doors["all"]
    on_another = {**inbound("another", door, apps["b"]), "listen": f"127.0.0.2:{door}"}
    on_v6 = {**inbound("v6", door, apps["c"]), "listen": f"[::1]:{door}"}
    pair.orders_config["inbound"] += [on_another, on_v6]
    pair.frontend_config["destinations"]["all"] = destination(f"orders.test:{door}")
    hosts = tmp_path / "hosts"
    hosts.write_text("".join(f"{ip} orders.test\n" for ip in ("127.0.0.1", "127.0.0.2", "::1")))
    give_hosts(pair.frontend, hosts)
    with pair:
        port = pair.port("all")
        with contextlib.ExitStack() as stack:
            found = Counter(named(stack.enter_context(dial(port))) for _ in range(6))
        assert found == {"a": 2, "b": 2, "c": 2}
        hosts.write_text("127.0.0.2 orders.test\n")
        reload(pair.frontend, {**pair.frontend_config, "on_policy_change": "keep"})
        wait_until(lambda: len(endpoints(pair.frontend)) == 1, "the new records")
        assert {once(port) for _ in range(4)} == {"b"}
        # an IPv6 record that leads nowhere doesn't keep IPv4 from being reached
        hosts.write_text("127.0.0.1 orders.test\n2001:db8::1 orders.test\n")
        reload(pair.frontend, pair.frontend_config)
        wait_until(lambda: len(endpoints(pair.frontend)) == 2, "the new records")
        assert {once(port) for _ in range(4)} == {"a"}


def give_hosts(uproxy: Uproxy, hosts: Path) -> None:
    """Let `uproxy` see that file as its /etc/hosts, which works without any resolver."""
    mount = 'mount --bind "$0" /etc/hosts && exec "$@"'
    uproxy.argv = ["unshare", "--mount", "sh", "-c", mount, str(hosts), *uproxy.argv]


def test_more_connections_than_allowed_are_reset_and_counted(pair: Pair) -> None:
    point(pair, pair.doors["a"], limits={"connections": 3})
    port = pair.port("all")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(dial(port)) for _ in range(3)]
        assert [named(client) for client in clients] == ["a"] * 3
        for number in (1, 2):
            with ended(pair.frontend, "limit") as lines:
                assert is_refused_at(port)
            assert "limits.connections" in lines[0]["error"]
            refused = metric(pair.frontend, "uproxy_limit_refusals_total", limit="connections")
            assert refused == number
        # nothing happened to those who were in
        for client in clients:
            client.sendall(b"still here")
            assert client.recv(10, socket.MSG_WAITALL) == b"still here"
        with ended(pair.frontend, "closed"):
            clients[0].close()
        assert once(port) == "a"


def test_one_source_may_have_only_so_many_connections(pair: Pair) -> None:
    point(pair, pair.doors["a"], limits={"per_source_connections": 2})
    port = pair.port("all")
    with dial(port) as one, dial(port) as two:
        assert named(one) == named(two) == "a"
        with ended(pair.frontend, "limit") as lines:
            assert is_refused_at(port)
        assert "127.0.0.1 has 2 connections already" in lines[0]["error"]
        with dial(port, source="127.0.0.9") as elsewhere:
            assert named(elsewhere) == "a"
    limit = "per_source_connections"
    assert metric(pair.frontend, "uproxy_limit_refusals_total", limit=limit) == 1


def test_when_it_is_full_the_oldest_silent_one_goes_first(pair: Pair) -> None:
    reload(pair.orders, {**pair.orders_config, "limits": {"connections": 2}})
    with dial(pair.doors["a"]) as silent, dial(pair.port("a")) as first:
        assert named(first) == "a"
        with ended(pair.orders, "limit"):
            # two are in: this one takes the place of the one that says nothing
            second = dial(pair.port("a"))
        with second:
            assert named(second) == "a"
            assert is_refused(silent)


def test_more_connections_than_descriptors_are_refused_and_harm_nobody(
    tmp_path: Path, apps: dict[str, int]
) -> None:
    pair = Pair(tmp_path, {"a": apps["a"]})
    pair.frontend.argv = ["prlimit", "--nofile=200:200", *pair.frontend.argv]
    with pair:
        assert "clamped to 37 by the descriptor limit of 200" in pair.frontend.request("/readyz")[1]
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(dial(pair.port("a"))) for _ in range(37)]
            assert [named(client) for client in clients] == ["a"] * 37
            assert all(is_refused_at(pair.port("a")) for _ in range(30))
            assert pair.frontend.status("/readyz") == 200
        wait_until(lambda: metric(pair.frontend, "uproxy_connections") == 0, "all to end")
        assert once(pair.port("a")) == "a"
        assert "accepting pauses" not in pair.frontend.output
