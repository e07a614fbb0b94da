"""Somebody else listens at the proxy's ports, before it does, or while it is down: in vain."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.capture_world import HOST, HOST6, IN, OUT, POD, POD6, World, existing
from uproxy.capture.places import cgroup_root

AT_ONCE_S = 1.0
OUTBOUND, INBOUND = (HOST, HOST6), (POD, POD6)


@pytest.fixture
def world(tmp_path: Path, bpffs: Path) -> Iterator[World]:
    with existing(World(tmp_path, bpffs, "nft")) as made:
        yield made


@contextlib.contextmanager
def listening(world: World, cgroup: Path | None = None) -> Iterator[None]:
    """Somebody who answers at both ports of the proxy; of a cgroup that is neither the workload's
    nor the proxy's."""
    with world.server(world.pod, OUT, cgroup), world.server(world.pod, IN, cgroup):
        yield


def both_ways(world: World) -> list[object]:
    """What connections of both ways and both families end in, which they do at once."""
    seen = [world.connect(address, 80) for address in OUTBOUND]
    seen += [world.call(address, 8080) for address in INBOUND]
    assert all(each["seconds"] < AT_ONCE_S for each in seen), seen
    return [each.get("error") or each["answer"] for each in seen]


def refused(world: World) -> bool:
    return both_ways(world) == ["ECONNREFUSED"] * 4


def carried(world: World) -> bool:
    """Whether the proxy has them."""
    doors = [answer["door"] for answer in both_ways(world) if isinstance(answer, dict)]
    return doors == ["outbound", "outbound", "inbound", "inbound"]


def test_not_before_it_nor_while_it_is_down_and_it_comes_back_itself(either: World) -> None:
    with listening(either):
        either.attach("--inbound", "8080")
        assert refused(either)
    for _ in range(2):
        with either.proxy():
            assert carried(either)
            assert either.status()["state"] == "attached"
        with listening(either):
            assert refused(either)


def test_whoever_listens_already_gets_nothing_when_a_table_takes_the_place_of_another(
    world: World,
) -> None:
    world.attach("--inbound", "8080", "--proxy-cgroup", cgroup_root())
    with listening(world):
        assert both_ways(world) == ["real"] * 4  # the root has everybody
        world.attach("--inbound", "8080")
        assert refused(world)


def test_status_and_attach_name_the_ports(world: World) -> None:
    with listening(world):
        done = world.attach("--inbound", "8080")
        shown = world.capture("status", check=False)
        for port in (OUT, IN):
            assert f"the socket at port {port} isn't the proxy's" in done.stderr
            assert f"the socket at port {port} isn't the proxy's" in shown.stdout
        assert shown.returncode == 5
        assert world.status()["listeners"] == {"outbound": False, "inbound": False}
    assert world.status()["state"] == "attached"


def test_a_port_to_which_nothing_is_brought_is_anybodys(world: World) -> None:
    world.attach()
    with world.server(world.pod, IN), world.server(world.pod, OUT, world.proxy_cgroup):
        assert world.call(POD, IN)["answer"] == "real"
        assert world.status()["state"] == "attached"


@pytest.mark.parametrize("address", [HOST, HOST6])
def test_a_client_comes_again_from_the_port_of_a_connection_that_the_proxy_ended(
    world: World, address: str
) -> None:
    """The proxy's end remembers it (TIME_WAIT), and that isn't a socket of the proxy's any more."""
    world.attach("--inbound", "8080")
    callee = POD if address == HOST else POD6
    with listening(world, world.proxy_cgroup):
        for _ in range(3):
            assert world.connect(address, 80, "source=40123").get("answer") == "real"
            assert world.call(callee, 8080, "source=40123").get("answer") == "real"
    with listening(world):
        assert world.connect(address, 80, "source=40123")["error"] == "ECONNREFUSED"
        assert world.call(callee, 8080, "source=40123")["error"] == "ECONNREFUSED"
