"""A real uProxy behind a real capture: connections reach what they were made to, both ways."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.helpers.capture_world import (
    ELSEWHERE,
    HOST,
    HOST6,
    IN,
    OUT,
    POD,
    POD6,
    World,
    run,
)
from uproxy.lab.identities import write_identity
from uproxy.lab.pki import Authority
from uproxy.lab.processes import Process
from uproxy.lab.waiting import wait_until

APP, OTHER = 8080, 8081
WITHOUT_NETWORK_PRIVILEGES = ("setpriv", "--bounding-set", "-net_admin,-net_raw")
WHO_CALLS = f"""
import json, socket
s = socket.create_server(('::', {APP}), family=socket.AF_INET6, dualstack_ipv6=True)
print('ready', flush=True)
while True:
    c, who = s.accept()
    c.sendall(json.dumps({{'caller': who[0].removeprefix('::ffff:')}}).encode() + b'\\n')
    c.close()
"""
"""An application that tells each caller under which address it sees it."""


@pytest.fixture(params=["native", pytest.param("python", marks=pytest.mark.slow)])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextlib.contextmanager
def uproxy(
    world: World, engine: str, *, preserve_source: bool = False, is_privileged: bool = True
) -> Iterator[Process]:
    ca = Authority("example.org")
    files = write_identity(world.folder / "id", ca.issue("/ns/web/sa/frontend"), ca.pem)
    config: dict[str, Any] = {
        "engine": engine,
        "identity": {
            "files": {
                "svid": str(files.svid),
                "key": str(files.key),
                "bundles": {"example.org": str(files.bundle)},
            }
        },
        "inbound": [
            {
                "name": "in",
                "listen": f"[::]:{IN}",
                "captured": True,
                "ports": {APP: "plaintext"},
                "preserve_source": preserve_source,
            }
        ],
        "outbound": [{"listen": f"127.0.0.1:{OUT}", "captured": True}],
        "destinations": {
            "host": {
                "match": {"addresses": ["10.99.0.0/24", "fd99::/64"]},
                "transport": "plaintext",
            }
        },
        "authorization": [{"action": "allow", "from": {"unauthenticated": True}}],
        "admin": None,
        "timeouts": {"drain_delay": "0s"},
    }
    (world.folder / "uproxy.yaml").write_text(yaml.safe_dump(config))
    log = world.folder / "uproxy.log"
    argv = world.inside(
        world.pod, world.proxy_cgroup, *(() if is_privileged else WITHOUT_NETWORK_PRIVILEGES),
        sys.executable, "-m", "uproxy", "run", "--config", world.folder / "uproxy.yaml",
    )  # fmt: skip
    with Process(argv, log) as process:
        wait_until(lambda: "started: " in log.read_text(), "the uProxy to listen")
        yield process


@contextlib.contextmanager
def application(world: World) -> Iterator[None]:
    argv = world.inside(world.pod, world.app, sys.executable, "-c", WHO_CALLS)
    log = world.folder / "application.log"
    with Process(argv, log):
        wait_until(lambda: "ready" in log.read_text(), "the application to listen")
        yield


def access(world: World) -> dict[str, Any]:
    """Return the last line of the access log, once there is one."""
    log = world.folder / "uproxy.log"

    def lines() -> list[dict[str, Any]]:
        made = [json.loads(line) for line in log.read_text().splitlines() if line[:1] == "{"]
        return [line for line in made if line["scope"] == "access"]

    wait_until(lambda: bool(lines()), "a line of the access log")
    return lines()[-1]


@pytest.mark.parametrize("address", [HOST, HOST6])
def test_what_the_application_connects_to_is_reached(
    either: World, engine: str, address: str
) -> None:
    either.attach()
    with uproxy(either, engine), either.server(either.host, 80):
        seen = either.connect(address, 80)
        assert seen["answer"] == "real"
        assert seen["peername"] == [address, 80]
        line = access(either)
        shown = f"[{address}]:80" if ":" in address else f"{address}:80"
        assert (line["destination"], line["dst.addr"]) == ("host", shown)


def test_what_no_destination_matches_is_refused(either: World, engine: str) -> None:
    either.attach()
    with uproxy(either, engine):
        assert either.connect(ELSEWHERE, 443).get("answer", "") == ""
        line = access(either)
        assert (line["outcome"], line["dst.addr"]) == ("no_destination", f"{ELSEWHERE}:443")


@pytest.mark.parametrize("address", [POD, POD6])
def test_callers_reach_the_application_that_they_connect_to(
    either: World, engine: str, address: str
) -> None:
    either.attach("--inbound", str(APP))
    with uproxy(either, engine), application(either):
        assert either.call(address, APP)["answer"] == {"caller": address}
        line = access(either)
        shown = f"[{address}]:{APP}" if ":" in address else f"{address}:{APP}"
        assert (line["door"], line["direction"], line["dst.addr"]) == ("in", "inbound", shown)


@pytest.mark.parametrize("address", [POD, POD6])
def test_the_application_sees_its_callers_where_their_addresses_are_preserved(
    world: World, engine: str, address: str
) -> None:
    world.attach("--inbound", str(APP))
    with uproxy(world, engine, preserve_source=True), application(world):
        seen = world.call(address, APP)
        assert seen["answer"] == {"caller": seen["sockname"][0]}


def test_a_port_that_the_door_does_not_list_is_refused(either: World, engine: str) -> None:
    either.attach("--inbound", f"{APP},{OTHER}")
    with uproxy(either, engine), either.server(either.pod, OTHER, either.app):
        assert either.call(POD, OTHER).get("answer", "") == ""
        assert access(either)["outcome"] == "no_destination"


def test_a_proxy_without_privileges_gets_its_socket_made_transparent(
    world: World, engine: str
) -> None:
    world.attach()
    with uproxy(world, engine, is_privileged=False), world.server(world.host, 80):
        [reason] = world.status()["reasons"]
        assert f"socket at port {OUT} isn't transparent" in reason
        world.attach()
        assert world.status()["state"] == "attached"
        for address in (HOST, HOST6):
            assert world.connect(address, 80)["answer"] == "real"


def test_a_second_address_is_an_own_one_too(world: World, engine: str) -> None:
    second = "10.99.0.55"
    run("ip", "-n", world.pod, "addr", "add", f"{second}/24", "dev", "eth0")
    world.attach("--inbound", str(APP))
    with uproxy(world, engine), application(world):
        assert "caller" in world.call(second, APP)["answer"]
