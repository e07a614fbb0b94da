"""A real uProxy behind `uproxy capture`: the application's connections reach where they were going,
and its callers reach it, by way of the proxy, in both modes and with both engines."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.capture_world import HOST, HOST6, IN, OUT, POD, World
from uproxy.lab.identities import write_identity
from uproxy.lab.pki import Authority
from uproxy.lab.processes import Process
from uproxy.lab.waiting import wait_until


@contextmanager
def uproxy(world: World, engine: str, **door: Any) -> Iterator[Process]:
    """A uProxy with captured doors that passes everything on in clear."""
    ca = Authority("example.org")
    files = write_identity(world.folder / "identity", ca.issue("/ns/shop/sa/web"), ca.pem)
    config = {
        "engine": engine,
        "identity": {
            "files": {
                "svid": str(files.svid), "key": str(files.key),
                "bundles": {"example.org": str(files.bundle)},
            }
        },
        "inbound": [{"name": "in", "listen": f"[::]:{IN}", "captured": True,
                     "ports": {8080: "plaintext"}, **door}],
        "outbound": [{"listen": f"127.0.0.1:{OUT}", "captured": True}],
        "destinations": {"rest": {"match": {"addresses": ["0.0.0.0/0", "::/0"]},
                                  "transport": "plaintext"}},
        "authorization": [{"name": "all", "action": "allow", "from": {"unauthenticated": True}}],
        "admin": {"listen": None, "metrics": None, "ready": None},
        "timeouts": {"drain": "0s", "drain_delay": "0s"},
    }  # fmt: skip
    file = world.folder / "uproxy.yaml"
    file.write_text(json.dumps(config))
    words: list[str | Path] = [sys.executable, "-m", "uproxy", "run", "--config", file]
    log = world.folder / "uproxy.log"
    with Process(world.inside(world.pod, world.proxy_cgroup, *words), log) as process:
        wait_until(lambda: world.status()["listeners"]["outbound"], "it to listen")
        yield process


def accesses(process: Process) -> list[dict[str, Any]]:
    """The lines of the access log."""
    lines = [json.loads(line) for line in process.output.splitlines() if line.startswith("{")]
    return [line for line in lines if "bytes_sent" in line]


@pytest.mark.parametrize("engine", ["native", "python"])
def test_the_application_reaches_its_destination_by_way_of_uproxy(
    either: World, engine: str
) -> None:
    either.attach()
    with either.server(either.host, 80), uproxy(either, engine) as process:
        for address in (HOST, HOST6):
            seen = either.connect(address, 80)
            assert (seen.get("answer"), seen.get("peername")) == ("real", [address, 80]), (
                seen, process.output
            )  # fmt: skip
        wait_until(lambda: len(accesses(process)) == 2, "both in the access log")
        assert {line["direction"] for line in accesses(process)} == {"outbound"}
    assert either.connect(HOST, 80)["error"] == "ECONNREFUSED"


@pytest.mark.parametrize("engine", ["native", "python"])
def test_callers_reach_the_application_by_way_of_uproxy(either: World, engine: str) -> None:
    either.attach("--inbound", "8080")
    with either.server(either.pod, 8080, either.app), uproxy(either, engine) as process:
        seen = either.call(POD, 8080)
        assert seen.get("answer") == "real", (seen, process.output)
        wait_until(lambda: len(accesses(process)) == 1, "the access log")
        assert accesses(process)[0]["direction"] == "inbound"


def test_the_application_sees_its_callers_own_address(world: World) -> None:
    world.attach("--inbound", "8080")
    program = (
        "import socket\n"
        "s = socket.create_server(('::', 8080), family=socket.AF_INET6, dualstack_ipv6=True)\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    c, a = s.accept(); c.sendall(f'{a[0]}\\n'.encode()); c.close()\n"
    )
    log = world.folder / "server.log"
    argv = world.inside(world.pod, world.app, sys.executable, "-c", program)
    with Process(argv, log), uproxy(world, "native", preserve_source=True) as process:
        wait_until(lambda: "ready" in log.read_text(), "the application to listen")
        seen = world.call(POD, 8080)
        assert seen.get("answer") == f"::ffff:{HOST}", (seen, process.output)
