"""The application connects to an address in the world, gets the proxy, and can't tell."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.helpers.capture_world import (
    ELSEWHERE,
    ELSEWHERE6,
    HOST,
    HOST6,
    POD,
    POD6,
    SECOND,
    World,
)


@pytest.fixture
def captured(either: World) -> Iterator[World]:
    """A captured application whose proxy runs."""
    either.attach()
    with either.proxy():
        yield either


@pytest.mark.parametrize(
    ("address", "own"),
    [(HOST, POD), (ELSEWHERE, POD), (HOST6, POD6), (ELSEWHERE6, POD6)],
)
def test_the_proxy_learns_the_destination_and_the_application_sees_it(
    captured: World, address: str, own: str
) -> None:
    seen = captured.connect(address, 80)
    assert seen["answer"] == {
        "door": "outbound", "original": [address, 80], "peer": seen["sockname"]
    }  # fmt: skip
    assert seen["peername"] == [address, 80]
    assert seen["sockname"][0] == own


def test_an_ipv4_address_written_as_ipv6_is_captured_too(captured: World) -> None:
    seen = captured.connect(ELSEWHERE, 443, "mapped")
    assert seen["answer"]["original"] == [ELSEWHERE, 443]
    assert seen["peername"] == [f"::ffff:{ELSEWHERE}", 443]
    assert seen["sockname"][0] == f"::ffff:{POD}"


def test_a_socket_that_connects_again_reaches_what_it_names_then(captured: World) -> None:
    seen = captured.connect(HOST, 80, f"again={SECOND}")
    assert seen["answer"]["original"] == [SECOND, 80]


def test_a_bound_source_port_is_kept(captured: World) -> None:
    first, second = (captured.connect(to, 80, "source=40000") for to in (HOST, SECOND))
    assert (first["sockname"], second["sockname"]) == ([POD, 40000], [POD, 40000])


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", POD, POD6])
def test_its_own_addresses_are_no_business_of_capture(captured: World, address: str) -> None:
    with captured.server(captured.pod, 8080):
        assert captured.connect(address, 8080)["answer"] == "real"


def test_others_in_the_namespace_are_left_alone(captured: World) -> None:
    with captured.server(captured.host, 80):
        seen = captured.run_app(captured.pod, captured.proxy_cgroup, HOST, 80)
        assert seen["answer"] == "real"


def test_udp_is_left_alone(captured: World) -> None:
    program = (
        "import socket; s = socket.socket(type=socket.SOCK_DGRAM); "
        f"s.connect(('{HOST}', 53)); print(s.getsockname()[0], s.getsockopt(1, 36))"
    )
    words = captured.inside(captured.pod, captured.app, "python3", "-c", program)
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [POD, "0"]  # SO_MARK


def test_a_socket_bound_to_a_device_is_refused(world: World) -> None:
    world.attach()
    with world.proxy():
        assert world.connect(HOST, 80, "device=eth0")["error"] == "ECONNREFUSED"
    assert world.status()["stats"]["bound_device"] == 1


def test_what_was_captured_is_counted(captured: World) -> None:
    captured.connect(HOST, 80)
    captured.connect(HOST6, 80)
    shown = captured.status()
    assert (shown["state"], shown["stats"]["captured"]) == ("attached", 2)
    assert shown["listeners"]["outbound"]
