"""The promises of capture in short, on another kernel: a program that needs no pytest.

`python -m tests.helpers.capture_on_kernel MODE`, as root.  It stops at a promise that isn't kept;
what depends on the kernel it finds out, and prints it as one line of JSON at the end.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.helpers.capture_world import (
    ELSEWHERE,
    ELSEWHERE6,
    HOST,
    HOST6,
    OUT,
    POD,
    POD6,
    World,
    existing,
    run,
)

OUTBOUND = ((HOST, 80), (HOST6, 80), (ELSEWHERE, 80), (ELSEWHERE6, 80))
INBOUND = ((POD, 8080), (POD6, 8080))
AT_ONCE_S = 10.0
"""Well below the two minutes of a connection that nobody answers; the machine is a slow one."""
MODULES = ("nf_conntrack", "nft_chain_nat", "nft_redir", "nft_fib_inet", "nft_socket")
"""What nft loads when it is used, with settings of their own in each network namespace."""

CALL_AS_CALLER = """
import socket, sys
from uproxy.model import TcpAddress
from uproxy.originals import use_source
client = socket.socket()
client.settimeout(10)
use_source(client, TcpAddress(sys.argv[1], 0))
client.connect((sys.argv[2], int(sys.argv[3])))
print(client.makefile().readline())
"""


def main() -> None:
    mode = sys.argv[1]
    run("modprobe", "-a", *MODULES)
    # a folder of its own: what the proxy of the other mode has logged is another's
    folder = Path(tempfile.mkdtemp())
    with existing(World(folder, Path("/sys/fs/bpf"), mode)) as world:
        before = world.dump()
        done = world.attach("--inbound", "8080", check=False)
        found: dict[str, Any] = {"mode": mode, "said": f"{done.stdout}{done.stderr}".strip()}
        if done.returncode == 0:
            found |= tried(world)
            world.detach()
        after = world.dump()
        left = [(before[what], after[what]) for what in before if after[what] != before[what]]
        assert not left, left
        say(json.dumps(found))


def tried(world: World) -> dict[str, Any]:
    """Return what depends on the kernel; the world is captured."""
    refused = refuses_without_the_proxy(world)
    found: dict[str, Any] = {}
    if world.mode == "ebpf":
        found["takes a listener in another namespace"] = takes_listener_elsewhere(world)
    with world.proxy():
        brings_what_goes_out(world)
        brings_what_comes_in(world)
        found["in another namespace"] = connect_from_elsewhere(world)
        if world.mode == "ebpf":
            found["from its caller's address"] = call_as_caller(world)
    assert world.connect(HOST, 80).get("error") in refused  # it has gone again
    status = world.status()
    assert status["state"] == "attached", status
    return {"refused": sorted(refused), **found}


def refuses_without_the_proxy(world: World) -> set[str]:
    """Return the errors with which connections are refused: outbound ones, then inbound ones."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(world.server(world.host, 80))
        stack.enter_context(world.server(world.pod, 8080, world.app))
        out = [world.connect(*to) for to in OUTBOUND]
        into = [world.call(*to) for to in INBOUND]
    assert all(seen["seconds"] < AT_ONCE_S for seen in out + into), out + into
    assert {seen.get("error") for seen in into} == {"ECONNREFUSED"}, into
    return {str(seen.get("error", seen)) for seen in out}


def takes_listener_elsewhere(world: World) -> bool:
    """Whether a socket of the proxy's cgroup, but in another network namespace, gets the
    connections."""
    with world.server(world.host, OUT, world.proxy_cgroup):
        return bool(world.status()["listeners"]["outbound"])


def brings_what_goes_out(world: World) -> None:
    """The proxy learns the destination, and the application sees it."""
    for address, port in (*OUTBOUND, (f"::ffff:{HOST}", 80)):
        seen = world.connect(address, port)
        expected = {
            "door": "outbound",
            "original": [address.removeprefix("::ffff:"), port],
            "peer": plain(seen.get("sockname", ["?"])),
        }
        assert seen.get("answer") == expected, seen
        assert seen["peername"] == [address, port], seen


def brings_what_comes_in(world: World) -> None:
    """Callers reach the proxy, which reaches the application; other ports are let alone."""
    with contextlib.ExitStack() as stack:
        for port in (8080, 9090):
            stack.enter_context(world.server(world.pod, port, world.app))
        for address, port in INBOUND:
            seen = world.call(address, port)
            assert seen.get("answer", {}).get("original") == [address, port], seen
        for other in (
            world.call(POD, 9090),
            world.run_app(world.pod, world.proxy_cgroup, POD, 8080),
        ):
            assert other.get("answer") == "real", other


def connect_from_elsewhere(world: World) -> str:
    """Return what a process of the workload's cgroup gets that is in another network namespace."""
    with world.server(world.host, 80):
        seen = world.run_app(world.host, world.app, HOST, 80)
    return str(seen.get("error") or seen["answer"])


def call_as_caller(world: World) -> str:
    """Return what the proxy gets that connects to the application from its caller's address."""
    words = (sys.executable, "-c", CALL_AS_CALLER, HOST, POD, "8080")
    with world.server(world.pod, 8080, world.app):
        said = run(*world.inside(world.pod, world.proxy_cgroup, *words)).strip()
    return str(json.loads(said)["door"]) if said.startswith("{") else said


def plain(name: list[Any]) -> list[Any]:
    return [name[0].removeprefix("::ffff:"), *name[1:]]


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
